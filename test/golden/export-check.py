"""PEFT loads our adapter and transformers loads our merged model: how far are their logits from ours?

Writes test/golden/export.json: relative errors ‖theirs - ours‖ / ‖ours‖.
`mergedAgainstAdapter` is what rounding the merged weights to bf16 costs, and `adapterAgainstBase` how much was learnt at all.

transformers 5.23.0, peft 0.21.2, torch 2.15.0. Run: npx tsx test/golden/export-write.ts DIR && python test/golden/export-check.py DIR
"""
import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

HERE = Path(__file__).parent
directory = Path(sys.argv[1])
ours = load_file(directory / "logits.safetensors")
load = lambda path: LlamaForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
ids = ours["ids"].long()[None]
error = lambda theirs, ours: (torch.linalg.vector_norm(theirs - ours) / torch.linalg.vector_norm(ours)).item()
with torch.no_grad():
    peft = PeftModel.from_pretrained(load(HERE / "model" / "base"), directory / "adapter").eval()(ids).logits[0]
    merged = load(directory / "merged")(ids).logits[0]
result = {
    "peftLoadsOurAdapter": error(peft, ours["adapter"]), "transformersLoadsOurMergedModel": error(merged, ours["merged"]),
    "mergedAgainstAdapter": error(ours["merged"], ours["adapter"]), "adapterAgainstBase": error(ours["adapter"], ours["base"]),
}
(HERE / "export.json").write_text(json.dumps(result, indent=1) + "\n")
print(result)
