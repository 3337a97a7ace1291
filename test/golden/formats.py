"""Golden values for engine/formats.

Made with tokenizers 0.23.3, gguf 0.19.0, safetensors 0.8.0, torch 2.15.0, numpy 2.4.6 by
    python test/golden/formats.py [DIRECTORY WITH THE SmolLM2 GGUF]
Writes beside itself:
    formats-blocks.safetensors   random GGML blocks and their values by gguf.quants; float32 numbers and their 16-bit roundings
    formats-model.gguf           a small random LLaMA with a trained byte-level vocabulary, as llama.cpp's converter lays it out
    formats-model.safetensors    the same weights under Hugging Face's names, dequantised
    tokenizer-corpus.json        texts to encode
    tokenizer-bytelevel.json     the vocabulary of formats-model.gguf as a tokenizer.json
    tokenizer-sentencepiece.json a LLaMA-like tokenizer.json: byte fallback, space prefix, BOS by its post-processor
    tokenizer-ids.json           ids of the texts in the corpus by each of them, and by SmolLM2's (built here from its GGUF)
"""
import glob, json, os, random, sys
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q, GGUFReader, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

here = os.path.dirname(os.path.abspath(__file__))
out = lambda name: os.path.join(here, name)
rng = np.random.default_rng(7)
dump = lambda name, value: open(out(name), "w", encoding="utf-8").write(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")

# --- corpus -------------------------------------------------------------------------------------------------------
random.seed(7)
prose = [
    "Hello world", " Hello world", "Hello  world", "The quick brown fox jumps over the lazy dog.", "don't can't it's we'll I'd you've I'm they're",
    "DON'T CAN'T IT'S", "naïve café résumé", "Zürich Straße Äpfel", "e\u0301 vs \u00e9", "ﬁ ligature ﬀ", "Ｆｕｌｌｗｉｄｔｈ １２３",
    "price: $12.99 (20% off!)", "3.14159 1,000,000 0x1F 1e-10", "1234567890", "٠١٢٣٤٥٦٧٨٩", "Ⅷ ½ ² ₃ ๓", "2026-11-24T07:00:00Z",
    "日本語のテキスト", "中文文本，标点。", "한국어 텍스트", "これは🦙です", "עברית טקסט", "النص العربي", "فارسی\u200cمتن", "हिन्दी पाठ", "ไทยไม่มีช่องว่าง",
    "Привет, мир!", "Ελληνικά κείμενα", "😀😃👍🏽", "👨‍👩‍👧‍👦 family", "🇩🇪🇯🇵", "❤️ vs ❤", "\U0001F9D1\u200D\U0001F680",
    "def f(x):\n    return x ** 2  # comment\n", "if (a && b) { c[i]++; }\r\n", "<div class=\"a\">text</div>", "SELECT * FROM t WHERE a='b';", "\tindented\t\ttabs",
    "https://example.com/a?b=c&d=e#f", "user@example.com", "C:\\path\\to\\file", "a_b-c.d/e", "CamelCaseIdentifier snake_case_identifier",
    "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\r\n", " \n ", "\u00a0", "\u2003\u3000", "\ufeffbom", "\u0000nul", "\u0001\u0002\u007f", "a\u0000b",
    "\u200b\u200c\u200d", "\u202eRTL override", "\ufffd", "\ud7ff", "\ue000", "\U0010ffff", "trailing ", " leading", "a" * 300, "ab" * 120, " " * 70, "\n" * 40,
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>", "a<|endoftext|>b", " <|im_end|> ", "<|im_end", "<s>", "</s>", "<unk>", "text</s> more", "<s> text",
    "<0x0A>", "▁", "▁▁a", "Ġ", "ĠHello", "\u0120\u010a", "### Instruction:\nCreate a detailed description for the following product: X, belonging to category: Y\n\n### Response:\n",
    "### End", "\n### End", "Q: What is it?\nA:",
]
pool = [chr(c) for lo, hi in [(32, 127), (160, 384), (0x370, 0x400), (0x400, 0x460), (0x5d0, 0x5eb), (0x620, 0x64b), (0x900, 0x940), (0x3040, 0x30a0), (0x4e00, 0x4f00),
        (0xac00, 0xad00), (0x1f600, 0x1f640), (0x2000, 0x2070), (0, 32)] for c in range(lo, hi)]
words = sorted({w for p in prose for w in p.split()})
corpus = list(prose)
while len(corpus) < 420:
    corpus.append("".join(random.choice([" ", "", "  ", "\n", "\t"]) + random.choice(words) for _ in range(random.randint(1, 12)))[:200])
while len(corpus) < 560:
    corpus.append("".join(random.choice(pool) for _ in range(random.randint(1, 40))))
while len(corpus) < 620:
    corpus.append("".join(random.choice(" \n\t\r\u00a0aA1.'") for _ in range(random.randint(1, 30))))
dump("tokenizer-corpus.json", corpus)
ids_of = {}
encode_all = lambda tokenizer, special: [tokenizer.encode(text, add_special_tokens=special).ids for text in corpus]

# --- tokenizers -----------------------------------------------------------------------------------------------------
specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
small = Tokenizer(models.BPE())
small.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
small.decoder = decoders.ByteLevel()
small.train_from_iterator(prose * 3, trainers.BpeTrainer(vocab_size=640, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
small.save(out("tokenizer-bytelevel.json"), pretty=False)
ids_of["bytelevel"] = encode_all(small, False)

llama = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
llama.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
llama.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
ascii_prose = ["".join(c for c in p if 32 <= ord(c) < 127) for p in prose]
llama.train_from_iterator(ascii_prose * 3, trainers.BpeTrainer(vocab_size=640, special_tokens=["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)], show_progress=False))
state = json.loads(llama.to_str())
# Byte tokens are plain vocabulary, not text to look for.
state["added_tokens"] = [t for t in state["added_tokens"] if not t["content"].startswith("<0x")]
llama = Tokenizer.from_str(json.dumps(state))
llama.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
llama.save(out("tokenizer-sentencepiece.json"), pretty=False)
ids_of["sentencepiece"] = encode_all(llama, False)
ids_of["sentencepieceWithBos"] = encode_all(llama, True)[:100]

if len(sys.argv) > 1:
    reader = GGUFReader(glob.glob(os.path.join(sys.argv[1], "*.gguf"))[0])
    field = lambda key: reader.fields["tokenizer.ggml." + key].contents()
    tokens, kinds, merges = field("tokens"), field("token_type"), field("merges")
    smol = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges]))
    smol.pre_tokenizer, smol.decoder = small.pre_tokenizer, small.decoder
    smol.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, kinds) if k == 3])
    ids_of["smollm2"] = encode_all(smol, False)
dump("tokenizer-ids.json", ids_of)

# --- GGML blocks ------------------------------------------------------------------------------------------------------
tensors = {}
halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
for name, places in halves.items():
    kind = Q[name]
    values, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (4, size), dtype=np.uint8)
    for place in places:  # random bytes may be a NaN or an infinity
        blocks[:, place:place + 2] = rng.normal(0, 0.1, (4, 1)).astype(np.float16).view(np.uint8)
    tensors[f"{name}.bytes"] = torch.from_numpy(blocks.reshape(-1))
    tensors[f"{name}.values"] = torch.from_numpy(dequantize(blocks.reshape(-1), kind).reshape(-1).astype(np.float32))
bits = np.concatenate([rng.integers(0, 2**32, 3000, dtype=np.uint64).astype(np.uint32), np.array([0, 1, 0x80000000, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x477FEFFF, 0x477FF000,
    0x38800000, 0x387FFFFF, 0x33000000, 0x33000001, 0x33800000, 0x33C00000, 0x7F800000, 0xFF800000], dtype=np.uint32)])
near = rng.normal(0, 1, 3000).astype(np.float32) * np.float32(10.0) ** rng.integers(-8, 5, 3000).astype(np.float32)
numbers = torch.from_numpy(np.concatenate([bits.view(np.float32), near]))
numbers = numbers[~numbers.isnan()]
tensors |= {"round.f32": numbers, "round.bf16": numbers.to(torch.bfloat16), "round.f16": numbers.to(torch.float16)}
save_file(tensors, out("formats-blocks.safetensors"), metadata={"format": "pt"})

# --- a small model --------------------------------------------------------------------------------------------------
vocab, hidden, wide, layers, heads, kv, head_dim = small.get_vocab_size(), 32, 64, 2, 4, 2, 8
writer = GGUFWriter(out("formats-model.gguf"), "llama")
writer.add_context_length(128); writer.add_embedding_length(hidden); writer.add_block_count(layers); writer.add_feed_forward_length(wide)
writer.add_head_count(heads); writer.add_head_count_kv(kv); writer.add_rope_dimension_count(head_dim); writer.add_rope_freq_base(10000.0)
writer.add_layer_norm_rms_eps(1e-5); writer.add_vocab_size(vocab)
state = json.loads(small.to_str())
table = sorted(small.get_vocab().items(), key=lambda item: item[1])
writer.add_tokenizer_model("gpt2"); writer.add_tokenizer_pre("smollm")
writer.add_token_list([t for t, _ in table]); writer.add_token_types([3 if t in specials else 1 for t, _ in table])
writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in state["model"]["merges"]])
writer.add_bos_token_id(1); writer.add_eos_token_id(2); writer.add_unk_token_id(0); writer.add_pad_token_id(2); writer.add_add_bos_token(False)
writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
weights = {}
def put(gguf_name, name, shape, kind, permute_heads=None):
    values = rng.normal(0, 0.1, shape).astype(np.float32) + (1 if len(shape) == 1 else 0)
    laid = values
    if permute_heads:  # llama.cpp's converter: halves of a head become neighbours
        laid = values.reshape(permute_heads, 2, shape[0] // permute_heads // 2, shape[1]).swapaxes(1, 2).reshape(shape)
    stored = quantize(laid, kind)
    read = dequantize(stored, kind).reshape(shape)
    if permute_heads:
        read = read.reshape(permute_heads, shape[0] // permute_heads // 2, 2, shape[1]).swapaxes(1, 2).reshape(shape)
    weights[name] = torch.from_numpy(np.ascontiguousarray(read.astype(np.float32)))
    writer.add_tensor(gguf_name, stored, raw_dtype=kind)
put("token_embd.weight", "model.embed_tokens.weight", (vocab, hidden), Q.Q8_0)
for i in range(layers):
    block = f"model.layers.{i}."
    put(f"blk.{i}.attn_norm.weight", block + "input_layernorm.weight", (hidden,), Q.F32)
    put(f"blk.{i}.attn_q.weight", block + "self_attn.q_proj.weight", (heads * head_dim, hidden), Q.Q4_1, heads)
    put(f"blk.{i}.attn_k.weight", block + "self_attn.k_proj.weight", (kv * head_dim, hidden), Q.Q5_0, kv)
    put(f"blk.{i}.attn_v.weight", block + "self_attn.v_proj.weight", (kv * head_dim, hidden), Q.F16)
    put(f"blk.{i}.attn_output.weight", block + "self_attn.o_proj.weight", (hidden, heads * head_dim), Q.BF16)
    put(f"blk.{i}.ffn_norm.weight", block + "post_attention_layernorm.weight", (hidden,), Q.F32)
    put(f"blk.{i}.ffn_gate.weight", block + "mlp.gate_proj.weight", (wide, hidden), Q.Q4_0)
    put(f"blk.{i}.ffn_up.weight", block + "mlp.up_proj.weight", (wide, hidden), Q.Q5_1)
    put(f"blk.{i}.ffn_down.weight", block + "mlp.down_proj.weight", (hidden, wide), Q.Q8_0)
put("output_norm.weight", "model.norm.weight", (hidden,), Q.F32)
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
save_file(weights, out("formats-model.safetensors"), metadata={"format": "pt"})
