"""transformers and PEFT look at what test/e2e/article.test.ts publishes with TEMPER_KEEP_ARTICLE=DIR. Prints one line an arm, ends with 1 on an error.

transformers 5.23.0, peft 0.21.2. Run: python test/golden/article-check.py DIR
"""
import json
import sys
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer

BASE = Path(__file__).parent / "article"
TEXT = "Below is an instruction that describes a task.\n\n### Instruction:\nCreate a detailed description: Lamp 7é\n\n### Response:\n"
failed = False


def error(actual, expected):
    return (torch.linalg.norm(actual - expected) / torch.linalg.norm(expected)).item()


for arm in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    [run] = [path.parent for path in arm.glob("*/*/manifest.json")]
    tokenizer = AutoTokenizer.from_pretrained(run / "merged")
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    same = ids[0].tolist() == LlamaTokenizer.from_pretrained(BASE)(TEXT).input_ids
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32)(ids).logits
        base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, run / "adapter")(ids).logits
    distance, change = error(merged, adapted), error(adapted, plain)
    state = json.loads((run / "adapter" / "trainer_state.json").read_text())
    # The merged model may be the one on dequantised weights, which differs from the original by the quantisation's error.
    accepted = same and change > 1e-3 and distance < 0.2 and state["global_step"] == 6
    failed |= not accepted
    print(f"{arm.name}: tokens {'equal' if same else 'DIFFER'}; adapter moves the logits by {change:.3f}; merged model against PEFT {distance:.2e}; {'accepted' if accepted else 'REFUSED'}")
sys.exit(failed)
