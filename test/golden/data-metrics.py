# Writes data-metrics.json: ROUGE-L of Google's rouge_score and the order of transformers' LengthGroupedSampler.
# rouge-score 0.1.2, transformers 5.23.0, torch 2.15.0:  python test/golden/data-metrics.py
import json, pathlib, random
import torch
from rouge_score import rouge_scorer
from transformers.trainer_pt_utils import get_length_grouped_indices

random.seed(1)
words = "a the mouse vacuum wireless ergonomic 4K design, light-weight, It's héllo straße İstanbul — 3.5mm\n".split(" ")
pairs = [
    ("the cat sat on the mat", "the cat is on the mat"), ("", "x"), ("x", ""), ("!!!", "..."), ("same", "same"), ("no", "overlap"),
    ("A smooth, ergonomic mouse.", "an ERGONOMIC mouse; smooth"), ("Naïve café", "naive cafe"), ("\u212aelvin", "kelvin"), ("日本語 abc", "abc 日本語"),
]
pairs += [(" ".join(random.choices(words, k=random.randint(1, 40))), " ".join(random.choices(words, k=random.randint(1, 40)))) for _ in range(60)]
scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
rouge = [{"text": text, "reference": reference, "f1": scorer.score(reference, text)["rougeL"].fmeasure} for text, reference in pairs]

orders = []
for count, batch, seed in [(1, 4, 0), (10, 4, 1), (37, 2, 2), (200, 4, 3), (500, 2, 4), (7, 16, 5)]:
    lengths = [random.randint(1, 30) for _ in range(count)]
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    grouped = get_length_grouped_indices(lengths, batch, generator=torch.Generator().manual_seed(seed))
    orders.append({"lengths": lengths, "batchSize": batch, "shuffled": shuffled, "grouped": grouped})

pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps({"rouge": rouge, "orders": orders}) + "\n")
