"""Training steps of other QLoRA trainers on this machine's GPU, in the shapes of the speed table: random weights in
OpenLLaMA-3b-v2's shape, NF4 with double quantisation, r = 8, AdamW and clipping included, medians over 20 steps.

    python3 bench/peers/qlora.py peft|unsloth

Prints one line `ROW {"peer", "name", "tokensPerSecond", "peakGiB"}` a shape, or `MISSING <module>` where a library is not installed.
"""
import json
import statistics
import sys
import tempfile
import time

SHAPES = [
    ("16 x 256", 16, 256, 1, False),
    ("4 x 256, 4 accumulated", 4, 256, 4, False),
    ("4 x 2048", 4, 2048, 1, False),
    ("4 x 2048, recomputing", 4, 2048, 1, True),
    ("16 x 256, lowest memory", 16, 256, 1, True),
]
BLOCK_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WARM_UP, STEPS = 4, 20

which = sys.argv[1] if len(sys.argv) > 1 else "peft"
try:
    if which == "unsloth":
        from unsloth import FastLanguageModel
    import bitsandbytes  # noqa: F401
    import peft
    import tokenizers
    import torch
    import transformers
except ImportError as error:
    print(f"MISSING {error.name}")
    sys.exit(0)


def random_checkpoint(folder):
    config = transformers.LlamaConfig(
        hidden_size=3200, intermediate_size=8640, num_hidden_layers=26, num_attention_heads=32, vocab_size=32000,
        max_position_embeddings=2048, pad_token_id=0)
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    del model
    torch.cuda.empty_cache()
    # Unsloth asks for a tokenizer, though nothing is read by it here.
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>").save_pretrained(folder)


def with_peft(folder, recompute):
    quantization = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, device_map={"": 0}, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.config.use_cache = False
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    lora = peft.LoraConfig(r=8, lora_alpha=8, lora_dropout=0.05, target_modules=[*BLOCK_MODULES, "lm_head"], task_type="CAUSAL_LM")
    return peft.get_peft_model(model, lora).train()


def with_unsloth(folder, recompute):
    model, _ = FastLanguageModel.from_pretrained(model_name=folder, max_seq_length=2048, dtype=torch.bfloat16, load_in_4bit=True, local_files_only=True)
    model = FastLanguageModel.get_peft_model(
        model, r=8, lora_alpha=8, lora_dropout=0, bias="none", target_modules=BLOCK_MODULES, use_gradient_checkpointing="unsloth" if recompute else False)
    return model.train()


def measure(model, rows, length, accumulation):
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    ids = torch.randint(3, 32000, (rows, length), device="cuda")
    times = []
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(accumulation):
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(input_ids=ids, labels=ids).loss
            (loss / accumulation).backward()
        torch.nn.utils.clip_grad_norm_(trained, 0.3)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return rows * length * accumulation / statistics.median(times[WARM_UP:]), torch.cuda.max_memory_allocated() / 2**30


with tempfile.TemporaryDirectory() as folder:
    random_checkpoint(folder)
    peer, load = ("Unsloth", with_unsloth) if which == "unsloth" else ("PEFT + bitsandbytes", with_peft)
    for recompute in (False, True):
        model = load(folder, recompute)
        for name, rows, length, accumulation, recomputes in SHAPES:
            if recomputes != recompute:
                continue
            speed, peak = measure(model, rows, length, accumulation)
            print("ROW " + json.dumps({"peer": peer, "name": name, "tokensPerSecond": round(speed), "peakGiB": round(peak, 2)}), flush=True)
        del model
        torch.cuda.empty_cache()
