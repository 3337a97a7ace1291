"""A miniature of openlm-research/open_llama_3b_v2: the files it has, with two layers of random float16 weights.

Writes test/golden/article/. torch 2.15.0, transformers 5.23.0, sentencepiece 0.2.3. Run: python test/golden/article.py
"""
import json
import random
import tempfile
from pathlib import Path

import sentencepiece
import torch
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent / "article"
OUT.mkdir(exist_ok=True)
random.seed(5)
torch.manual_seed(5)

words = ("A small light wireless ergonomic quiet modern mouse vacuum cleaner lamp chair with clean lines and soft edges for home office travel "
         "its design makes it easy to hold use store award product category description Create a detailed following Below is an instruction "
         "that describes task Write response appropriately completes the request Instruction Response End ### : , .").split()
with tempfile.TemporaryDirectory() as folder:
    text = Path(folder) / "text.txt"
    text.write_text("\n".join(" ".join(random.choices(words, k=random.randint(4, 20))) for _ in range(2000)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(Path(folder) / "spm"), vocab_size=400, model_type="bpe", byte_fallback=True, character_coverage=1.0,
        add_dummy_prefix=True, remove_extra_whitespaces=False, normalization_rule_name="identity", split_digits=True, minloglevel=2)
    (OUT / "tokenizer.model").write_bytes((Path(folder) / "spm.model").read_bytes())

config = LlamaConfig(
    vocab_size=400, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
    rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0)
model = LlamaForCausalLM(config).half()
torch.save(model.state_dict(), OUT / "pytorch_model.bin")
# As the original has it: written by transformers 4.30, before rope_parameters.
(OUT / "config.json").write_text(json.dumps({
    "architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
    "intermediate_size": 128, "max_position_embeddings": 512, "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": 0,
    "rms_norm_eps": 1e-06, "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.30.0.dev0", "use_cache": True, "vocab_size": 400,
}, indent=2) + "\n")
token = lambda content: {"__type": "AddedToken", "content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
(OUT / "tokenizer_config.json").write_text(json.dumps({
    "add_bos_token": True, "add_eos_token": False, "model_max_length": 512, "pad_token": None, "sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer",
    "clean_up_tokenization_spaces": False, "bos_token": token("<s>"), "eos_token": token("</s>"), "unk_token": token("<unk>"),
}, indent=2) + "\n")
(OUT / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, indent=2) + "\n")
