"""Golden values of a small random LLaMA with grouped heads and of a LoRA on all eight of its targets.

Writes into test/golden/model/:
  base/                 the model as transformers saves it (bf16, untied head)
  adapter/              the LoRA as PEFT saves it: rank 4, alpha 6, A and B both random
  expected.safetensors  inputs, logits with and without the adapter, loss, and the gradient of every A and B

transformers 5.23.0, peft 0.21.2, torch 2.15.0. Run: python test/golden/model.py
"""
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent / "model"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]

torch.manual_seed(7)
config = LlamaConfig(
    vocab_size=128, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    head_dim=16, max_position_embeddings=64, rope_theta=10000.0, rms_norm_eps=1e-5, tie_word_embeddings=False,
    bos_token_id=1, eos_token_id=2, pad_token_id=None, attn_implementation="eager",
)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for name, parameter in model.named_parameters():
        values = 1 + 0.2 * torch.randn_like(parameter) if "norm" in name else 0.12 * torch.randn_like(parameter)
        parameter.copy_(values.bfloat16().float())
# Saved in bf16, which is exact for these values, so that the golden files stay small; computed in f32.
model.to(torch.bfloat16).save_pretrained(OUT / "base")
model = LlamaForCausalLM.from_pretrained(OUT / "base", dtype=torch.float32, attn_implementation="eager").eval()

# Two rows of unequal length: the shorter one is padded on the right.
lengths = [13, 9]
ids = torch.randint(3, 128, (2, 13))
attention = torch.tensor([[1] * n + [0] * (13 - n) for n in lengths])
ids = ids * attention
labels = ids.masked_fill(attention == 0, -100)
labels[:, :4] = -100

expected = {"input_ids": ids.int(), "attention_mask": attention.int(), "labels": labels.int()}
with torch.no_grad():
    expected["base_logits"] = model(ids, attention_mask=attention).logits

lora = LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
peft = get_peft_model(model, lora)
with torch.no_grad():
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.1 * torch.randn_like(parameter))
peft.peft_config["default"].base_model_name_or_path = "base"
peft.save_pretrained(OUT / "adapter", save_embedding_layers=False)
(OUT / "adapter" / "README.md").unlink(missing_ok=True)
output = peft(ids, attention_mask=attention, labels=labels)
output.loss.backward()
expected["adapter_logits"] = output.logits.detach()
expected["loss"] = output.loss.detach().reshape(1)
for name, parameter in peft.named_parameters():
    if parameter.grad is not None:
        expected[f"grad.{name.replace('.default', '')}"] = parameter.grad
# Greedy continuations, each row alone, without and with the adapter.
for label, disabled in [("base", True), ("adapter", False)]:
    for row, length in enumerate(lengths):
        prompt = ids[row : row + 1, :length]
        context = peft.disable_adapter() if disabled else torch.no_grad()
        with torch.no_grad(), context:
            answer = peft.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
        expected[f"greedy_{label}_{row}"] = answer[0, length:].int()
save_file({name: tensor.contiguous() for name, tensor in expected.items()}, OUT / "expected.safetensors")
print({name: tuple(tensor.shape) for name, tensor in expected.items() if "grad" not in name}, output.loss.item())
