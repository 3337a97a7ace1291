"""Golden runs of LoRA's options: 12 optimizer steps of transformers' Trainer on PEFT, on the small model of model.py.

Each case of CASES starts from an adapter as PEFT saves it and trains it as train.py does (its rows, in its order; AdamW with
weight decay, clipping, warm-up). Two cases run on a base with biases on q, k, v and o, two on one with tied embeddings.

Writes into test/golden/lora/:
  <case>/            the adapter at step 0 as PEFT saves it, and its adapter_config.json
  expected.json      settings; of each case the base, LoRA+'s ratio, NEFTune's alpha, parameter counts as PEFT prints them, loss and gradient norm of each step
  final.safetensors  under "<case>/": the logits of one batch after the last step, and the trained tensors that are small, as PEFT saves them
  biases.safetensors the biases of the base that has some

transformers 5.23.0, peft 0.21.2, torch 2.15.0, bitsandbytes 0.50.2. Run: python test/golden/lora.py (after model.py and train.py)
"""
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch.utils.data import SequentialSampler
from transformers import BitsAndBytesConfig, LlamaForCausalLM, Trainer, TrainingArguments

HERE = Path(__file__).parent
OUT = HERE / "lora"
BASE = HERE / "model" / "base"
LEARNING_RATE, STEPS, BATCH, ACCUMULATION, WARMUP, DECAY, CLIP = 1e-2, 12, 2, 3, 0.1, 0.01, 0.3
SMALL = 2048  # values of the tensors that are kept

CASES = {
    "rslora": dict(use_rslora=True, target_modules=["q_proj", "v_proj"]),
    "gaussian": dict(init_lora_weights="gaussian", target_modules=["q_proj"]),
    "dora": dict(use_dora=True, target_modules=["q_proj", "v_proj", "down_proj", "lm_head"]),
    "dora-nf4": dict(use_dora=True, target_modules=["q_proj", "v_proj"], base="nf4"),
    "dora-int8": dict(use_dora=True, target_modules=["q_proj", "v_proj"], base="int8"),
    "lora-plus": dict(target_modules=["q_proj", "v_proj"], ratio=16),
    "lora-plus-dora": dict(use_dora=True, target_modules=["o_proj"], ratio=4),
    "all-linear-patterns": dict(
        r=2, target_modules="all-linear", rank_pattern={"q_proj": 3, r"layers\.1\.mlp\.(up|down)_proj": 1}, alpha_pattern={"layers.0.self_attn.q_proj": 16}, use_rslora=True
    ),
    "regex": dict(target_modules=r".*\.layers\.1\.(self_attn\.q|mlp\.gate)_proj", exclude_modules=r".*q_proj"),
    "layers": dict(target_modules=["q_proj", "v_proj", "o_proj"], layers_to_transform=[1], exclude_modules=["o_proj"]),
    "saved": dict(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["embed_tokens", "lm_head"]),
    "saved-tied": dict(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], base="tied"),
    "saved-tied-embedding": dict(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"], base="tied"),
    "bias-lora-only": dict(bias="lora_only", target_modules=["q_proj", "o_proj", "up_proj"], base="biased"),
    "dropout": dict(r=2, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.25),
    "dropout-dora": dict(r=2, target_modules=["v_proj", "up_proj"], lora_dropout=0.25, use_dora=True),
    "neftune": dict(r=2, target_modules=["q_proj", "v_proj"], noise=5.0),
    "bias-all-dora": dict(bias="all", use_dora=True, target_modules=["q_proj"], base="biased", ratio=4),
}

stored = load_file(HERE / "train" / "rows.safetensors")
offsets = stored["row_offsets"].tolist()
rows = []
for start, end in zip(offsets, offsets[1:]):
    ids, mask = stored["input_ids"][start:end].tolist(), stored["loss_mask"][start:end].tolist()
    rows.append({"input_ids": ids, "labels": [i if counted else -100 for i, counted in zip(ids, mask)]})

torch.manual_seed(17)
biases = {
    f"model.layers.{layer}.self_attn.{name}.bias": 0.3 * torch.randn(32 if name in ("k_proj", "v_proj") else 64)
    for layer in range(2) for name in ("q_proj", "k_proj", "v_proj", "o_proj")
}


def load(base):
    if base == "nf4":
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
        return LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32, quantization_config=quantization, device_map="cpu")
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32, attention_bias=base == "biased")
    if base == "tied":  # transformers leaves what a file has twice untied
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    if base == "biased":
        model.load_state_dict(biases, strict=False)
    if base == "int8":  # row-wise absmax, held against bitsandbytes by train.py; a number over a tensor would be a product with its reciprocal
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                absmax = module.weight.data.abs().amax(dim=1, keepdim=True)
                module.weight.data = torch.round(module.weight.data * (torch.tensor(127.0) / absmax)) * absmax * 7.874015718698502e-3
    return model


def collate(batch):
    longest = max(len(row["input_ids"]) for row in batch)
    pad = lambda values, fill: values + [fill] * (longest - len(values))
    return {
        "input_ids": torch.tensor([pad(row["input_ids"], 0) for row in batch]),
        "attention_mask": torch.tensor([pad([1] * len(row["input_ids"]), 0) for row in batch]),
        "labels": torch.tensor([pad(row["labels"], -100) for row in batch]),
    }


def philox(count, step, stream, rounds=10, seed=42):
    """Words of Philox4x32: counter [block, 0, step, stream], key [seed, 0]."""
    mask, blocks = np.uint64(0xFFFFFFFF), np.arange((count + 3) // 4, dtype=np.uint64)
    c = [blocks, np.zeros_like(blocks), np.full_like(blocks, step), np.full_like(blocks, stream)]
    k0, k1 = seed, 0
    for _ in range(rounds):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        c = [high1 ^ c[1] ^ np.uint64(k0), p1 & mask, high0 ^ c[3] ^ np.uint64(k1), p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1).reshape(-1)[:count]


LINEAR = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


class KnownDraws:
    """Puts what Temper draws in the place of what is drawn by the hook of NEFTune and by dropout, micro-batch by micro-batch."""

    def __init__(self, model):
        self.model, per_epoch = model, -(-len(rows) // BATCH)
        self.places, step = [], 0
        while step < STEPS:
            for first in range(0, per_epoch, ACCUMULATION):
                step += 1
                self.places += [(step, micro, rows[BATCH * (first + micro) : BATCH * (first + micro + 1)]) for micro in range(min(ACCUMULATION, per_epoch - first))]

    def in_rows(self, values, shape, batch):
        """Values in the order of Temper's lines, of which the first has the longest row, in the order of the rows."""
        order = sorted(range(len(batch)), key=lambda row: -len(batch[row]["input_ids"]))
        lines, result = torch.from_numpy(values).reshape(shape), torch.empty(shape)
        result[order] = lines
        return result

    def noise(self):
        places = iter(self.places)

        def draw(tensor, low, high):
            step, micro, batch = next(places)
            words = philox(tensor.numel(), step, micro * 4096 + 4095)
            values = (((words & np.uint64(0x7FFFFF)).astype(np.float64) + 0.5) / 2**22 - 1).astype(np.float32)
            return tensor.copy_(self.in_rows(values, tensor.shape, batch) * high)

        return draw

    def dropout(self, place, rate):
        places = iter(self.places)

        def draw(x):
            step, micro, batch = next(places)
            words = philox(-(-x.numel() // 64) * 16, step, micro * 4096 + place, rounds=7).astype(np.uint32).reshape(-1, 1, 16)
            words = np.concatenate([words, words << np.uint32(8) | words >> np.uint32(24)], axis=1)
            draws = (np.ascontiguousarray(words).view(np.uint16) & np.uint16(0x7FFF)).reshape(-1)[: x.numel()]
            return x * self.in_rows((draws >= rate * 32768).astype(np.float32), x.shape, batch) / (1 - rate)

        return draw

    def __enter__(self):
        self.uniform, torch.Tensor.uniform_ = torch.Tensor.uniform_, self.noise()
        self.dropouts = []
        for path, module in self.model.named_modules():
            if isinstance(module, LoraLayer) and isinstance(module.lora_dropout["default"], torch.nn.Dropout):
                layer, name = path.split(".layers.")[1].split(".", 1)
                dropout = module.lora_dropout["default"]
                self.dropouts.append(dropout)
                dropout.forward = self.dropout(int(layer) * len(LINEAR) + LINEAR.index(name), dropout.p)

    def __exit__(self, *_):
        torch.Tensor.uniform_ = self.uniform
        for dropout in self.dropouts:
            del dropout.forward


class InOrder(Trainer):
    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


def save(model, directory):
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch, save_embedding_layers=False)
        directory.mkdir(parents=True, exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(Path(scratch) / name, directory / name)


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    save_file(biases, OUT / "biases.safetensors")
    expected = {"settings": {"learningRate": LEARNING_RATE, "steps": STEPS, "batchSize": BATCH, "accumulation": ACCUMULATION, "warmupRatio": WARMUP, "weightDecay": DECAY, "maxGradNorm": CLIP}, "cases": {}}
    final = {}
    for case, options in CASES.items():
        options = dict(options)
        base, ratio, noise = options.pop("base", "f32"), options.pop("ratio", None), options.pop("noise", None)
        torch.manual_seed(3)
        model = get_peft_model(load(base), LoraConfig(**dict(r=4, lora_alpha=8, lora_dropout=0.0, task_type="CAUSAL_LM") | options))
        model.peft_config["default"].base_model_name_or_path = "base"
        trainable, total = model.get_nb_trainable_parameters()
        if base == "nf4":  # as PEFT counts it, every packed byte is two parameters
            assert total > trainable
        save(model, OUT / case)
        if base == "nf4" or "modules_to_save" not in options:
            model = PeftModel.from_pretrained(load(base), OUT / case, is_trainable=True)
        with tempfile.TemporaryDirectory() as scratch:
            arguments = TrainingArguments(
                scratch, per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION, max_steps=STEPS, learning_rate=LEARNING_RATE,
                lr_scheduler_type="linear", warmup_steps=WARMUP, weight_decay=DECAY, max_grad_norm=CLIP, optim="adamw_torch", logging_steps=1,
                save_strategy="no", report_to=[], use_cpu=True, seed=1, remove_unused_columns=False, disable_tqdm=True, neftune_noise_alpha=noise,
            )
            optimizer = ratio and create_loraplus_optimizer(model, torch.optim.AdamW, lr=LEARNING_RATE, loraplus_lr_ratio=ratio, loraplus_weight_decay=DECAY, eps=1e-8)
            trainer = InOrder(model=model, args=arguments, train_dataset=rows, data_collator=collate, optimizers=(optimizer, None))
            with KnownDraws(model):
                trainer.train()
            log = [entry for entry in trainer.state.log_history if "loss" in entry]
        with torch.no_grad():
            model.train(base == "nf4")  # bitsandbytes' CPU path for inference computes in bf16
            batch = collate([rows[0]])
            final[f"{case}/logits"] = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0].contiguous()
        expected["cases"][case] = {"base": base, **({"ratio": ratio} if ratio else {}), **({"noise": noise} if noise else {}), "trainable": trainable, "total": total, "loss": [e["loss"] for e in log], "gradNorm": [e["grad_norm"] for e in log]}
        with tempfile.TemporaryDirectory() as scratch:
            save(model, Path(scratch))
            for name, tensor in load_file(Path(scratch) / "adapter_model.safetensors").items():
                if tensor.numel() <= SMALL and not name.endswith("base_layer.weight"):
                    final[f"{case}/{name}"] = tensor.clone()
        print(case, base, trainable, total, log[0]["loss"], log[-1]["loss"])
    save_file(final, OUT / "final.safetensors")
    (OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
