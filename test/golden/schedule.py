"""Learning rates of transformers' schedules, for peak 1. Writes test/golden/schedule.json.

transformers 5.23.0, torch 2.15.0. Run: python test/golden/schedule.py
"""
import json
from pathlib import Path

import torch
from transformers import (
    get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup, get_cosine_with_min_lr_schedule_with_warmup,
    get_inverse_sqrt_schedule, get_linear_schedule_with_warmup, get_wsd_schedule,
)

SCHEDULES = {
    "linear": lambda optimizer, warmup, steps: get_linear_schedule_with_warmup(optimizer, warmup, steps),
    "cosine": lambda optimizer, warmup, steps: get_cosine_schedule_with_warmup(optimizer, warmup, steps),
    "constant": lambda optimizer, warmup, steps: get_constant_schedule_with_warmup(optimizer, warmup),
    "inverse_sqrt": lambda optimizer, warmup, steps: get_inverse_sqrt_schedule(optimizer, warmup),
}
MINIMUM = 0.1
WITH_MINIMUM = {
    "cosine": lambda optimizer, warmup, steps, decay: get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, steps, min_lr_rate=MINIMUM),
    "warmup_stable_decay": lambda optimizer, warmup, steps, decay: get_wsd_schedule(
        optimizer, warmup, decay, num_training_steps=steps, min_lr_ratio=MINIMUM),
}


def rates(build, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


cases = []
for name, build in SCHEDULES.items():
    for warmup, steps in [(0, 7), (3, 10), (1, 1), (10, 10)]:
        cases.append({"name": name, "warmupSteps": warmup, "steps": steps, "rates": rates(lambda o: build(o, warmup, steps), steps)})
for name, build in WITH_MINIMUM.items():
    for warmup, steps, decay in [(0, 7, 3), (3, 10, 2), (2, 12, 10), (1, 9, 0)]:
        cases.append({"name": name, "warmupSteps": warmup, "steps": steps, "minimum": MINIMUM, "decaySteps": decay,
                      "rates": rates(lambda o: build(o, warmup, steps, decay), steps)})
(Path(__file__).parent / "schedule.json").write_text(json.dumps(cases) + "\n")
