"""Golden losses: 20 optimizer steps of transformers' Trainer on PEFT, on the small model of model.py.

13 batches an epoch of 2 rows, 3 accumulated: each epoch ends with a step of a single batch. AdamW with weight decay, clipping,
linear schedule with warm-up, dropout 0. Three bases: f32, int8 (weights through bitsandbytes' row-wise int8 and back; products
in f32), nf4 with double quantisation (bitsandbytes' own Linear4bit on the CPU, f32 products; its CPU kernel dequantises wrongly unless
a row is a whole number of blocks of 64, which is why every width of the model is a multiple of 64).

Writes into test/golden/train/:
  init/                 the adapter at step 0 as PEFT saves it
  rows.safetensors      the token rows in the order of training
  expected.json         loss, learning rate and gradient norm of each step; the loss on all rows after the last
  final_f32.safetensors the adapter after the 20 steps on the f32 base, as PEFT saves it

transformers 5.23.0, peft 0.21.2, torch 2.15.0, bitsandbytes 0.50.2. Run: python test/golden/train.py (after model.py)
"""
import json
import shutil
import tempfile
from pathlib import Path

import bitsandbytes.functional as bnb
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch.utils.data import SequentialSampler
from transformers import BitsAndBytesConfig, LlamaForCausalLM, Trainer, TrainingArguments

HERE = Path(__file__).parent
OUT = HERE / "train"
BASE = HERE / "model" / "base"
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
LEARNING_RATE, STEPS, BATCH, ACCUMULATION, WARMUP, DECAY, CLIP = 1e-2, 20, 2, 3, 0.1, 0.01, 0.3

torch.manual_seed(11)
rows = []
for _ in range(26):
    length = int(torch.randint(6, 21, (1,)))
    prompt = int(torch.randint(1, length - 3, (1,)))
    ids = torch.randint(3, 128, (length,)).tolist()
    rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})


def load(base):
    if base == "nf4":
        quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32)
        return LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32, quantization_config=quantization, device_map="cpu")
    model = LlamaForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    if base == "int8":
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear) and "lm_head" not in name:
                # Row-wise absmax, as bitsandbytes' int8_vectorwise_quant: scale = absmax / 127, round to nearest even.
                absmax = module.weight.data.abs().amax(dim=1, keepdim=True)
                codes = torch.round(module.weight.data * (127.0 / absmax)).to(torch.int8)
                reference, scales, _ = bnb.int8_vectorwise_quant(module.weight.data.half())
                assert (codes - reference).abs().max() <= 1 and torch.allclose(scales, absmax.flatten(), rtol=1e-3)
                module.weight.data = codes.float() * absmax * 7.874015718698502e-3
    return model


def collate(batch):
    longest = max(len(row["input_ids"]) for row in batch)
    pad = lambda values, fill: values + [fill] * (longest - len(values))
    return {
        "input_ids": torch.tensor([pad(row["input_ids"], 0) for row in batch]),
        "attention_mask": torch.tensor([pad([1] * len(row["input_ids"]), 0) for row in batch]),
        "labels": torch.tensor([pad(row["labels"], -100) for row in batch]),
    }


class InOrder(Trainer):
    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


torch.manual_seed(3)
initial = get_peft_model(load("f32"), LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"))
initial.peft_config["default"].base_model_name_or_path = "base"
initial.save_pretrained(OUT / "init", save_embedding_layers=False)
(OUT / "init" / "README.md").unlink(missing_ok=True)

expected = {"settings": {"learningRate": LEARNING_RATE, "steps": STEPS, "batchSize": BATCH, "accumulation": ACCUMULATION, "warmupRatio": WARMUP, "weightDecay": DECAY, "maxGradNorm": CLIP}}
for base in ["f32", "int8", "nf4"]:
    model = PeftModel.from_pretrained(load(base), OUT / "init", is_trainable=True)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch, per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION, max_steps=STEPS, learning_rate=LEARNING_RATE,
            lr_scheduler_type="linear", warmup_steps=WARMUP, weight_decay=DECAY, max_grad_norm=CLIP, optim="adamw_torch", logging_steps=1,
            save_strategy="no", report_to=[], use_cpu=True, seed=1, remove_unused_columns=False, disable_tqdm=True,
        )
        trainer = InOrder(model=model, args=arguments, train_dataset=rows, data_collator=collate)
        trainer.train()
        log = [entry for entry in trainer.state.log_history if "loss" in entry]
    # Stays in training mode, which changes nothing without dropout: bitsandbytes' CPU path for inference computes in bf16.
    with torch.no_grad():
        total, count = 0.0, 0
        for row in rows:
            batch = collate([row])
            counted = int((batch["labels"][:, 1:] != -100).sum())
            total += model(**batch).loss.item() * counted
            count += counted
    expected[base] = {
        "loss": [entry["loss"] for entry in log], "learningRate": [entry["learning_rate"] for entry in log],
        "gradNorm": [entry["grad_norm"] for entry in log], "epoch": [entry["epoch"] for entry in log], "finalLoss": total / count,
    }
    if base == "f32":
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch, save_embedding_layers=False)
            shutil.copy(Path(scratch) / "adapter_model.safetensors", OUT / "final_f32.safetensors")

offsets = torch.tensor([0] + [len(row["input_ids"]) for row in rows]).cumsum(0).int()
save_file(
    {
        "input_ids": torch.tensor([i for row in rows for i in row["input_ids"]], dtype=torch.int32),
        "loss_mask": torch.tensor([int(label != -100) for row in rows for label in row["labels"]], dtype=torch.uint8),
        "row_offsets": offsets,
    },
    OUT / "rows.safetensors",
)
(OUT / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
print({base: (expected[base]["loss"][0], expected[base]["loss"][-1], expected[base]["finalLoss"]) for base in ["f32", "int8", "nf4"]})
