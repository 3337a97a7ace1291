"""Golden values of small random models of every supported architecture.

Weights are not stored: both sides compute them from the tensor's name (`weights` here, test/kit/formula-weights.ts there).
Writes beside itself:
    architectures.json         for each model its config.json, the names and shapes of its tensors, two rows of tokens, greedy answers
    architectures.safetensors  for each model the logits of both rows, each read alone; for one with biases the gradients of a LoRA
    architectures/*.gguf       the models that have one, as llama.cpp's converter writes them (f16, no vocabulary), one in parts

transformers 5.23.0, peft 0.21.2, torch 2.15.0, gguf 0.19.0; convert_hf_to_gguf.py of llama-cpp-python 0.3.16.
Run: python test/golden/architectures.py [DIRECTORY OF llama.cpp]
"""
import json, os, sys, tempfile
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config, SmolLM3Config

HERE = Path(__file__).parent


def formula(name, shape):
    """Pseudo-random numbers in [-1, 1), of 16 bits: a hash of the name's FNV-1a and the element's index."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 & 0xFFFFFFFF
    with np.errstate(over="ignore"):
        x = np.arange(int(np.prod(shape)), dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(seed)
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        x = x ^ (x >> np.uint32(16))
    return torch.from_numpy(((x >> np.uint32(16)).astype(np.float64) / 32768 - 1).astype(np.float32).reshape(shape))


def weights(name, shape):
    """f16 is exact for them, so that a GGUF holds the same numbers."""
    values = formula(name, shape)
    if name.endswith("norm.weight"):
        return (1 + 0.25 * values).half().float()
    return ((0.25 if name.endswith(".bias") else 0.2) * values).half().float()


small = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=None)
llama3 = dict(rope_type="llama3", rope_theta=100.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=24)
plain = dict(rope_type="default", rope_theta=10000.0)
models = {
    "llama-llama3": LlamaConfig(**small | dict(rope_parameters=llama3, head_dim=16)),
    "llama-linear-biases": LlamaConfig(**small | dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=10000.0), max_position_embeddings=32, attention_bias=True, mlp_bias=True)),
    "llama-dynamic": LlamaConfig(**small | dict(rope_parameters=dict(rope_type="dynamic", factor=4.0, rope_theta=10000.0), max_position_embeddings=16)),
    "mistral": MistralConfig(**small | dict(sliding_window=7, rope_parameters=plain)),
    "mistral-without-window": MistralConfig(**small | dict(sliding_window=None, head_dim=16, rope_parameters=plain)),
    "qwen2": Qwen2Config(**small | dict(rope_parameters=dict(rope_type="default", rope_theta=1000000.0), bos_token_id=None)),
    "qwen2-tied-sliding": Qwen2Config(**small | dict(use_sliding_window=True, sliding_window=5, max_window_layers=1, tie_word_embeddings=True, rope_parameters=plain)),
    "qwen3": Qwen3Config(**small | dict(head_dim=16, rope_parameters=dict(rope_type="default", rope_theta=1000000.0))),
    "qwen3-biases": Qwen3Config(**small | dict(head_dim=8, attention_bias=True, tie_word_embeddings=True, rope_parameters=plain)),
    "smollm3": SmolLM3Config(**small | dict(num_hidden_layers=4, no_rope_layer_interval=4, tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=5000000.0))),
    "smollm3-sliding": SmolLM3Config(**small | dict(no_rope_layers=[0, 1], use_sliding_window=True, sliding_window=6, rope_parameters=plain)),
}
converted = {"llama-llama3": "LlamaForCausalLM", "llama-linear-biases": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "smollm3": "SmolLM3ForCausalLM"}

rows = [torch.randint(3, 96, (1, length), generator=torch.Generator().manual_seed(length)) for length in (36, 25)]
prompts = [rows[0][:, :19], rows[1][:, :6]]
out, tensors = {}, {}


def build(config):
    """A model anew: dynamic scaling leaves traces of longer rows behind."""
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights(name, tuple(parameter.shape)))
    return model


for name, config in models.items():
    with torch.no_grad():
        for row, ids in enumerate(rows):
            tensors[f"{name}.logits_{row}"] = build(config)(ids).logits[0]
        answers = [build(config).generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
                   [0, prompt.shape[1]:].tolist() for prompt in prompts]
    with tempfile.TemporaryDirectory() as parent:
        directory = os.path.join(parent, name)  # the converter writes its name into the file
        model = build(config)
        model.half().save_pretrained(directory)
        out[name] = {
            "config": json.loads(Path(directory, "config.json").read_text()),
            "tensors": {key: list(value.shape) for key, value in model.named_parameters()},
            "parameters": sum(value.numel() for value in model.parameters()),
            "greedy": answers,
        }
        if len(sys.argv) > 1 and converted.get(name):
            sys.path[:0] = [sys.argv[1], os.path.join(sys.argv[1], "gguf-py")]
            for module in ("", ".tokens", ".tokens.tokenizers", ".tokens.tokenizers.base", ".tokens.tokenizers.multimodal", ".tokens.tokenizers.tekken", ".tokens.tokenizers.sentencepiece"):
                sys.modules.setdefault("mistral_common" + module, MagicMock())  # for vocabularies, of which there are none
            import convert_hf_to_gguf as converter
            import gguf

            hparams = dict(out[name]["config"])
            rope = hparams.pop("rope_parameters")
            # The converter knows the configurations of transformers 4.
            hparams |= {"rope_theta": rope["rope_theta"], "rope_scaling": None if rope["rope_type"] == "default" else rope}
            if rope["rope_type"] == "llama3":
                hparams["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
            family = converter.ModelBase.from_model_architecture(converted[name])
            (HERE / "architectures").mkdir(exist_ok=True)
            target = HERE / "architectures" / f"{name}.gguf"
            instance = family(Path(directory), gguf.LlamaFileType.MOSTLY_F16, target, hparams=hparams, split_max_tensors=12 if name == "qwen2" else 0)
            instance.set_vocab = lambda: None
            instance.write()

# Gradients of a LoRA on every linear layer of a model with biases.
lora = LoraConfig(r=2, lora_alpha=3, lora_dropout=0.0, task_type="CAUSAL_LM",
                  target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"])
for name in ("qwen2", "qwen3"):
    peft = get_peft_model(build(models[name]), lora)
    trained = {key.replace(".default", ""): parameter for key, parameter in peft.named_parameters() if parameter.requires_grad}
    with torch.no_grad():
        for key, parameter in trained.items():
            parameter.copy_(0.2 * formula(key, tuple(parameter.shape)))
    loss = torch.stack([peft(ids, labels=ids).loss * (ids.shape[1] - 1) for ids in rows]).sum()
    loss.backward()
    out[name]["lora"] = {"loss": loss.item(), "parameters": sum(parameter.numel() for parameter in trained.values())}
    for key, parameter in trained.items():
        tensors[f"{name}.grad.{key}"] = parameter.grad

(HERE / "architectures.json").write_text(json.dumps({"rows": [ids[0].tolist() for ids in rows], "prompts": [ids[0].tolist() for ids in prompts], "models": out}, separators=(",", ":")) + "\n")
save_file({key: value.contiguous() for key, value in tensors.items()}, HERE / "architectures.safetensors")
print({name: (model["parameters"], model["greedy"][0][:4]) for name, model in out.items()})
