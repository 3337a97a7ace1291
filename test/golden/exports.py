"""Golden logits of what Temper exports, as PEFT and transformers load it.

    npx tsx test/golden/exports.ts OUT && python test/golden/exports.py OUT
Writes test/golden/exports.safetensors: the logits for model/expected.safetensors' rows of
  adapter_logits  model/base with OUT/adapter, loaded by PEFT
  merged_logits   OUT/merged, loaded by transformers and computed in f32
  untied_logits   OUT/untied, likewise
and checks that merging changed them by no more than the rounding to bf16 does.

transformers 5.23.0, peft 0.21.2, torch 2.15.0.
"""
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

HERE = Path(__file__).parent
OUT = Path(sys.argv[1])
inputs = load_file(HERE / "model" / "expected.safetensors")
ids, attention = inputs["input_ids"].long(), inputs["attention_mask"].long()


def load(path):
    model, info = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(ids, attention_mask=attention).logits


def adapted(base):
    return PeftModel.from_pretrained(base, OUT / "adapter").eval()


tied = load(HERE / "model" / "base")
tied.lm_head.weight = torch.nn.Parameter(tied.model.embed_tokens.weight.detach().clone())
golden = {
    "adapter_logits": logits(adapted(load(HERE / "model" / "base"))),
    "merged_logits": logits(load(OUT / "merged")),
    "untied_logits": logits(load(OUT / "untied")),
}
unpadded = attention.bool()
for name, reference in [("merged_logits", golden["adapter_logits"]), ("untied_logits", logits(adapted(tied)))]:
    error = ((golden[name] - reference)[unpadded].norm() / reference[unpadded].norm()).item()
    print(f"{name}: {error:.2e} from the unmerged")
    assert error < 1e-2
error = ((golden["adapter_logits"] - inputs["adapter_logits"])[unpadded].norm() / inputs["adapter_logits"][unpadded].norm()).item()
print(f"adapter_logits: {error:.2e} from the adapter that PEFT wrote")
assert error < 1e-6
save_file({name: tensor.contiguous() for name, tensor in golden.items()}, HERE / "exports.safetensors")
