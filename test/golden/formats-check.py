"""Checks that transformers and PEFT load what engine/formats writes, and see the same numbers.

    npx tsx test/golden/formats-write.ts OUT [MODEL] && python test/golden/formats-check.py OUT
Run with transformers 5.23.0, peft 0.21.2, torch 2.15.0 (and transformers 4.57.6, peft 0.17.1).
"""
import json, os, sys
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

out = sys.argv[1]
at = lambda *names: os.path.join(out, *names)
expected = json.load(open(at("expected.json")))
written = load_file(at("f32", "model.safetensors"))

for name, dtype in [("f32", torch.float32), ("sharded", torch.float32), ("bf16", torch.bfloat16)]:
    model, info = AutoModelForCausalLM.from_pretrained(at(name), dtype="auto", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    assert model.dtype == dtype, (name, model.dtype)
    state = model.state_dict()
    for key, value in written.items():
        assert torch.equal(state[key], value.to(dtype)), (name, key)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.generation_config.eos_token_id == expected["eos"], model.generation_config
    print(f"{name}: {len(written)} tensors equal, rope {getattr(model.config, 'rope_parameters', None) or model.config.rope_theta}")

tokenizer = AutoTokenizer.from_pretrained(at("f32"))
for text, ids, decoded in zip(expected["texts"], expected["ids"], expected["decoded"]):
    got = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert got == ids, (text, got, ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == decoded, (text, decoded)
assert (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id) == (expected["eos"], expected["bos"], expected["pad"])
assert tokenizer.apply_chat_template(expected["messages"], tokenize=False, add_generation_prompt=True) == expected["chat"]
print(f"{type(tokenizer).__name__}: ids, text and chat equal")

base = AutoModelForCausalLM.from_pretrained(at("f32"), dtype=torch.float32)
adapted = PeftModel.from_pretrained(base, at("adapter"))
stored = load_file(at("adapter", "adapter_model.safetensors"))
state = {key.replace(".default.", "."): value for key, value in adapted.state_dict().items() if "lora_" in key}
assert set(state) == set(stored), set(state) ^ set(stored)
assert all(torch.equal(state[key], stored[key]) for key in stored)
config = adapted.peft_config["default"]
assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 8, 0.05)
merged = adapted.merge_and_unload().state_dict()
key = "model.layers.0.self_attn.q_proj"
b, a = stored[f"base_model.model.{key}.lora_B.weight"], stored[f"base_model.model.{key}.lora_A.weight"]
assert torch.allclose(merged[f"{key}.weight"], written[f"{key}.weight"] + 4 * (b @ a), atol=1e-5)
print(f"adapter: {len(stored)} tensors equal, merged as expected")
