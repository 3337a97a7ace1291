"""The rows that pandas' `sample` and datasets' `train_test_split` take. Writes test/golden/numpy-random.json.

numpy 2.4.6, pandas 3.1.1, datasets 5.2.0. Run: python test/golden/numpy-random.py
"""
import hashlib
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd

def digest(rows):
    return {"first": [int(row) for row in rows[:8]], "sha256": hashlib.sha256(",".join(map(str, rows)).encode()).hexdigest()}

samples = [
    {"rows": rows, "count": count, "seed": seed, **digest(pd.DataFrame({"i": range(rows)}).sample(n=count, random_state=seed)["i"].tolist())}
    for rows, count, seed in [(1, 1, 0), (10, 3, 1), (100, 100, 7), (21183, 5000, 42), (65537, 40000, 4294967295)]
]
splits = []
for rows, test, seed in [(2, 1, 0), (10, 0.2, 1), (99, 0.05, 7), (5000, 0.05, 42), (4097, 1000, 2**40 + 5)]:
    split = datasets.Dataset.from_dict({"i": list(range(rows))}).train_test_split(test_size=test, seed=seed)
    splits.append({"rows": rows, "test": test, "seed": seed, "train": digest(list(split["train"]["i"])), "held": digest(list(split["test"]["i"]))})
words = [{"seed": seed, "mt19937": np.random.RandomState(seed % 2**32).randint(0, 2**32, 700, dtype=np.uint32)[[0, 1, 623, 624, 699]].tolist(),
          "pcg64": [int(half) for raw in np.random.PCG64(seed).random_raw(3) for half in (raw & 0xFFFFFFFF, raw >> 32)]} for seed in [0, 42, 2**40 + 5]]
Path(__file__).with_suffix(".json").write_text(json.dumps({"samples": samples, "splits": splits, "words": words}) + "\n")
