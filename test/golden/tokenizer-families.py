"""Golden token ids of small tokenizers of every kind, by Python's libraries, over 2,200 texts.

Writes into test/golden/tokenizer-families/ a directory for each tokenizer, as a model's would be, with expected.json: for each text
the first 8 hex digits of the SHA-256 of its ids, comma-separated, and for the first 200 also with what the tokenizer adds around a text; and of
what the first 7 · i mod (n + 1) of the n ids of text i decode to, special tokens skipped for even i; and
    corpus.json       the texts: those of tokenizer-corpus.json and more
    templates.json    what chat templates with the features of published ones give for some conversations

transformers 5.23.0, tokenizers 0.23.3, sentencepiece 0.2.3, jinja2 3.1.6. Run: python test/golden/tokenizer-families.py [DIRECTORY OF llama.cpp]
"""
import hashlib, io, json, random, sys
from pathlib import Path

import sentencepiece as spm
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = Path(__file__).parent
OUT = HERE / "tokenizer-families"
dump = lambda path, value: path.write_text(json.dumps(value, ensure_ascii=True, separators=(",", ":")) + "\n")

# --- corpus ---------------------------------------------------------------------------------------------------------
random.seed(11)
corpus = json.loads((HERE / "tokenizer-corpus.json").read_text())
prose = corpus[:80]
specials = ["<s>", "</s>", "<unk>", "<pad>", "[INST]", "[/INST]", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<|endoftext|>", "<tool>", "<0x0A>", "▁"]
pieces = sorted({w for p in prose for w in p.split()}) + ["\u0301", "\u200d", "\ufe0f", "🏽", "👩", "\u3099", "か", "ﾞ", "각", "ᄀ", "ᅡ", "ᆨ", "é", "ﬃ", "①", "㍿", "½", "İ", "ß", "\u00ad", "\u2028", "\u0085"]
while len(corpus) < 1300:
    corpus.append("".join(random.choice([" ", "", "  ", "\n", "\t", "\u00a0", "\u3000"]) + random.choice(pieces) for _ in range(random.randint(1, 9))))
while len(corpus) < 1700:
    corpus.append("".join(random.choice([" ", "", "", "  ", "\n"]) + random.choice(pieces + specials * 4) for _ in range(random.randint(1, 6))))
while len(corpus) < 2000:
    lo, hi = random.choice([(32, 127), (0x20, 0x2100), (0x2190, 0x27c0), (0x3000, 0xa000), (0xac00, 0xd7a4), (0x1f300, 0x1fa00), (0x20000, 0x20100), (0, 160)])
    corpus.append("".join(chr(random.randrange(lo, hi)) for _ in range(random.randint(1, 12))))
while len(corpus) < 2200:
    corpus.append("".join(random.choice("   \n\t ab1.(=_") for _ in range(random.randint(1, 24))))
OUT.mkdir(exist_ok=True)
dump(OUT / "corpus.json", corpus)
training = [t for t in prose if t.strip()] * 6
short = lambda ids: hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:8]


text_hash = lambda tokenizer, ids, skip: hashlib.sha256(tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False).encode()).hexdigest()[:8]


def write(name, files, expected):
    """`expected`: a function from a text to its ids, without and with special tokens; by default that of AutoTokenizer."""
    directory = OUT / name
    directory.mkdir(exist_ok=True)
    for file, content in files.items():
        if isinstance(content, bytes):
            (directory / file).write_bytes(content)
        else:
            dump(directory / file, content)
    tokenizer = None
    if expected is None:
        tokenizer = AutoTokenizer.from_pretrained(directory)
        assert type(tokenizer).__name__ == (files["tokenizer_config.json"]["tokenizer_class"].replace("PreTrainedTokenizerFast", "TokenizersBackend").replace("LlamaTokenizerFast", "LlamaTokenizer")), type(tokenizer)
        expected = lambda text: (tokenizer.encode(text, add_special_tokens=False), tokenizer.encode(text))
    pairs = [expected(text) for text in corpus]
    decoded = {} if tokenizer is None else {"decoded": "".join(text_hash(tokenizer, ids[: 7 * i % (len(ids) + 1)], i % 2 == 0) for i, (ids, _) in enumerate(pairs))}
    dump(directory / "expected.json", decoded | {"plain": "".join(short(ids) for ids, _ in pairs), "added": "".join(short(ids) for _, ids in pairs[:200])})
    print(name, pairs[0], pairs[1], pairs[80])


# --- tokenizer.model ------------------------------------------------------------------------------------------------
def sentencepiece_model(**options):
    stream = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=iter(training), model_writer=stream, minloglevel=2, hard_vocab_limit=False, **options)
    return stream.getvalue()


like_llama = dict(model_type="bpe", vocab_size=900, byte_fallback=True, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98)
llama_model = sentencepiece_model(**like_llama)
llama_config = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False}
config_json = {"model_type": "llama"}
write("spm-llama", {"tokenizer.model": llama_model, "tokenizer_config.json": llama_config | {"legacy": False}, "config.json": config_json}, None)
write("spm-llama-legacy", {"tokenizer.model": llama_model, "tokenizer_config.json": llama_config | {"legacy": True}, "config.json": config_json}, None)
user = sentencepiece_model(**like_llama, user_defined_symbols=["[INST]", "[/INST]"])
size = spm.SentencePieceProcessor(model_proto=user).get_piece_size()
write("spm-llama-added", {"tokenizer.model": user, "config.json": config_json, "added_tokens.json": {"<pad>": size, "<tool>": size + 1},
      "tokenizer_config.json": {key: value for key, value in llama_config.items() if key != "add_bos_token"} | {"legacy": False, "pad_token": "<pad>", "add_bos_token": False}}, None)


def by_sentencepiece(model):
    processor = spm.SentencePieceProcessor(model_proto=model)
    control = [processor.id_to_piece(i) for i in range(processor.get_piece_size()) if processor.is_control(i) or processor.is_unknown(i)]

    def expected(text):
        """Special tokens are cut out first; what is between them is SentencePiece's."""
        ids, rest = [], text
        while rest:
            places = [(rest.find(c), -len(c), c) for c in control if c in rest]
            at, _, token = min(places, default=(len(rest), 0, ""))
            ids += processor.encode(rest[:at]) + ([processor.piece_to_id(token)] if token else [])
            rest = rest[at + len(token):]
        return ids, [processor.bos_id()] + ids
    return expected


for name, options in {
    "spm-bpe-nfkc": dict(model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="nmt_nfkc"),
    "spm-bpe-no-prefix": like_llama | dict(add_dummy_prefix=False, vocab_size=700),
    "spm-unigram": dict(model_type="unigram", vocab_size=700, byte_fallback=True, normalization_rule_name="nmt_nfkc"),
    "spm-unigram-identity": dict(model_type="unigram", vocab_size=450, normalization_rule_name="identity", remove_extra_whitespaces=True, add_dummy_prefix=True),
}.items():
    model = sentencepiece_model(**options)
    write(name, {"tokenizer.model": model, "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}, "config.json": config_json}, by_sentencepiece(model))


# --- tokenizer.json -------------------------------------------------------------------------------------------------
def trained(tokenizer, trainer, *, special, size):
    tokenizer.train_from_iterator(training, trainer(vocab_size=size, special_tokens=special, show_progress=False))
    return json.loads(tokenizer.to_str())


byte_alphabet = pre_tokenizers.ByteLevel.alphabet()
byte_bpe = lambda **options: trainers.BpeTrainer(initial_alphabet=byte_alphabet, **options)
contractions = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
split = lambda digits: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(contractions % digits), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
token = lambda content, **flags: dict(content=content, lstrip=False, normalized=False, rstrip=False, single_word=False, special=True) | flags

llama3 = Tokenizer(models.BPE(ignore_merges=True))
llama3.pre_tokenizer, llama3.decoder = split("{1,3}"), decoders.ByteLevel()
llama3 = trained(llama3, byte_bpe, special=[], size=600)
tokens = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
llama3["added_tokens"] = [token(content) | {"id": 600 + i} for i, content in enumerate(tokens)]
llama3["post_processor"] = {"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, json.loads(processors.TemplateProcessing(
    single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|> $B", special_tokens=[("<|begin_of_text|>", 600)]).__getstate__())]}
write("json-llama3", {"tokenizer.json": llama3, "config.json": config_json, "tokenizer_config.json": {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "clean_up_tokenization_spaces": False,
    "added_tokens_decoder": {str(600 + i): token(content) for i, content in enumerate(tokens)}}}, None)

qwen2 = Tokenizer(models.BPE())
qwen2.normalizer, qwen2.pre_tokenizer, qwen2.decoder = normalizers.NFC(), split(""), decoders.ByteLevel()
qwen2 = trained(qwen2, byte_bpe, special=[], size=600)
tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
qwen2["added_tokens"] = [token(content) | {"id": 600 + i} for i, content in enumerate(tokens)]
write("json-qwen2", {"tokenizer.json": qwen2, "config.json": {"model_type": "qwen2"}, "tokenizer_config.json": {
    "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "add_bos_token": False, "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
    "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "clean_up_tokenization_spaces": False, "added_tokens_decoder": {
        **{str(600 + i): token(content) for i, content in enumerate(tokens)}, "603": token("<tool>", special=False)}}}, None)

# The vocabulary of spm-llama as transformers 4 converted it: Mistral 7B, TinyLlama, LLaMA 2.
converted = AutoTokenizer.from_pretrained(OUT / "spm-llama").backend_tokenizer
converted.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
converted.pre_tokenizer = None
write("json-mistral", {"tokenizer.json": json.loads(converted.to_str()), "config.json": {"model_type": "mistral"}, "added_tokens.json": {}, "special_tokens_map.json": {"pad_token": "<pad>"},
      "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **{f"{kind}_token": token(content) | {"__type": "AddedToken"} for kind, content in [("bos", "<s>"), ("eos", "</s>"), ("unk", "<unk>")]}, "clean_up_tokenization_spaces": False,
                                "extra_special_tokens": ["[INST]", "[/INST]"]}}, None)

gemma = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
gemma.normalizer, gemma.pre_tokenizer = normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")
gemma.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
tokens = ["<pad>", "<eos>", "<bos>", "<unk>"]
gemma = trained(gemma, trainers.BpeTrainer, special=tokens + [f"<0x{byte:02X}>" for byte in range(256)], size=800)
gemma["added_tokens"] = [entry for entry in gemma["added_tokens"] if entry["content"] in tokens]
write("json-gemma", {"tokenizer.json": gemma, "config.json": config_json, "tokenizer_config.json": {
    "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "add_bos_token": True, "clean_up_tokenization_spaces": False}}, None)


# --- chat templates -------------------------------------------------------------------------------------------------
from transformers.utils.chat_template_utils import render_jinja_template

templates = {
    "alternating roles, as Mistral's": """{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {%- if loop.last and system_message is defined %}
            {{- '[INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}
        {%- else %}
            {{- '[INST] ' + message['content'] + ' [/INST]' }}
        {%- endif %}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content']|trim + eos_token }}
    {%- endif %}
{%- endfor %}""",
    "headers, a date and tools, as LLaMA 3's": """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = "26 Jul 2024" %}{%- else %}{%- set date_string = "none" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = "undefined" %}{%- endif %}
{#- a comment #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{{ tools | tojson(indent=4) }}{%- endif %}
{{- "Today: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}""",
    "thoughts taken out of earlier answers, as Qwen3's": """{%- set ns = namespace(last=-1, any=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.last < 0 and message.role == "user" and not(message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}{%- set content = message.content %}{%- else %}{%- set content = '' %}{%- endif %}
    {%- if message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>' ~ '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}""",
    "macros, filters and joins": """{% macro turn(role, content, end='') %}[{{ role | upper }}] {{ content | replace('\\n', ' ') | trim }}{{ end }}
{% endmacro %}
{% for message in messages if message.content %}
{{ turn(message.role, message['content'], end='.' if loop.last else ';') }}
{% else %}
nothing
{% endfor %}
{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}
{{ {'a': 1, 'b': [true, none, "x<'é"]} | tojson }} {{ (messages | first).role | capitalize }} {{ ["c", "a"] | sort | last }}
{%- for key, value in {'x': 1, 'y': 2.5}.items() %} {{ key }}={{ value }}{% endfor %} {{ none | default('d', true) }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 3 * 2 }}""",
    "blocks on lines of their own, a loop that stops": """{% for message in messages %}
    {% if loop.index > 2 %}
        {% break %}
    {% endif %}
    {% if message.role == 'system' %}
        {% continue %}
    {% endif %}
<{{ message.role }} {{ loop.index }}/{{ loop.length }}{{ ' first' if loop.first }}>{{ message.content }}
{% endfor %}
{{ eos_token }}
""",
    "the answer marked for training": """{% for message in messages %}{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ message.role + ': ' + message.content + '\\n' }}{% endif %}{% endfor %}""",
}
conversations = {
    "a question": [{"role": "user", "content": "  Hi \"there\"\n é <b>&amp;</b>\n"}],
    "with a system message": [{"role": "system", "content": " Be terse. "}, {"role": "user", "content": "2+2?"}],
    "several turns": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb "}, {"role": "user", "content": " c"}, {"role": "assistant", "content": "<think>d</think>e"}],
    "two questions in a row": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "nothing said": [{"role": "user", "content": ""}],
}
rendered = []
for name, template in templates.items():
    for conversation, messages in conversations.items():
        for prompt in (False, True):
            case = {"template": name, "conversation": conversation, "prompt": prompt}
            try:
                texts, _ = render_jinja_template([messages], chat_template=template, add_generation_prompt=prompt, tools=None, documents=None, bos_token="<s>", eos_token="</s>")
                rendered.append(case | {"text": texts[0]})
            except Exception as error:
                rendered.append(case | {"error": str(error)})
dump(OUT / "templates.json", {"templates": templates, "conversations": conversations, "rendered": rendered})
