"""Adapters and merged models that Temper wrote, loaded by PEFT and transformers: the error of their logits, case by case.

‖a - b‖ / ‖b‖ against Temper's own logits. Merged models are of the bases in f32 alone; the last column compares them with PEFT's
merge_and_unload, which leaves tied embeddings tied and so is not asked where they are.

transformers 5.23.0, peft 0.21.2, torch 2.15.0. Run: npx tsx test/golden/lora-write.ts OUT && python test/golden/lora-check.py OUT
"""
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lora import CASES, load, rows

OUT = Path(sys.argv[1])
ids = torch.tensor([rows[0]["input_ids"]])
error = lambda a, b: f"{(torch.linalg.norm(a - b) / torch.linalg.norm(b)).item():.1e}"
print("case | adapter | merged | merged, against merge_and_unload")
for case, options in CASES.items():
    base = options.get("base", "f32")
    ours = torch.from_numpy(np.fromfile(OUT / case / "logits.f32", dtype=np.float32)).reshape(ids.shape[1], -1)
    adapted = lambda: PeftModel.from_pretrained(load(base), OUT / case / "adapter").train(base == "nf4")  # bitsandbytes' CPU path for inference computes in bf16
    with torch.no_grad():
        figures = [error(adapted()(ids).logits[0], ours)]
        if base not in ("nf4", "int8"):
            merged = AutoModelForCausalLM.from_pretrained(OUT / case / "merged", dtype=torch.float32)(ids).logits[0]
            figures.append(error(merged, ours))
            if base != "tied":
                figures.append(error(merged, adapted().merge_and_unload()(ids).logits[0]))
    print(case, *figures, sep=" | ")
