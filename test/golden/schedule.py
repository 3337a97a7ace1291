"""Learning rates of transformers' schedules, for peak 1. Writes test/golden/schedule.json.

transformers 5.23.0, torch 2.15.0. Run: python test/golden/schedule.py
"""
import json
from pathlib import Path

import torch
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

SCHEDULES = {
    "linear": lambda optimizer, warmup, steps: get_linear_schedule_with_warmup(optimizer, warmup, steps),
    "cosine": lambda optimizer, warmup, steps: get_cosine_schedule_with_warmup(optimizer, warmup, steps),
    "constant": lambda optimizer, warmup, steps: get_constant_schedule_with_warmup(optimizer, warmup),
}
cases = []
for name, build in SCHEDULES.items():
    for warmup, steps in [(0, 7), (3, 10), (1, 1), (10, 10)]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        schedule = build(optimizer, warmup, steps)
        rates = []
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        cases.append({"name": name, "warmupSteps": warmup, "steps": steps, "rates": rates})
(Path(__file__).parent / "schedule.json").write_text(json.dumps(cases) + "\n")
