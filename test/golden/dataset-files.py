"""Which files the `datasets` library takes for each split, by the names of a repository's files, and for patterns.

Written with datasets 5.2.0, fsspec as it requires. Run: python dataset-files.py > dataset-files.json
"""
import json
import os
import tempfile

from datasets.data_files import get_data_patterns, resolve_pattern

TREES = [
    ["README.md", "data.csv"],
    ["README.md", "train.csv", "test.csv"],
    ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-00000-of-00001.parquet"],
    ["data/train-00000-of-00001-a1b2c3.parquet", "data/extra-00000-of-00001.parquet", "data/notes.csv"],
    ["train_0.jsonl", "train_1.jsonl", "dev_0.jsonl", "evaluation_0.jsonl"],
    ["data/train/a.csv", "data/train/b.csv", "data/valid/a.csv"],
    ["my-train/part.json", "my-test/part.json", "dataset_info.json"],
    ["a/training.csv", "a/b/val.csv", "trainer.csv", "contest.csv"],
    ["one.json", "two.json", ".gitattributes", "__pycache__/x.json", ".hidden/y.json", "config.json"],
    ["de/train-00000-of-00001.parquet", "en/train-00000-of-00001.parquet"],
    ["raw 2020 train.csv", "raw 2020 test.csv"],
]
PATTERNS = ["*.csv", "data/*", "data/**", "**/*.csv", "data/train-*.csv", "data/[ab]*.csv", "data/[!ab]*.csv", "data/?1.csv", "**/.secret.csv", "data/**/x.csv"]
FILES = ["top.csv", "data/a1.csv", "data/b1.csv", "data/c1.csv", "data/train-1.csv", "data/deep/x.csv", "data/deep/er/x.csv", "data/.secret.csv", "data/__gen__/x.csv", "data/x.csv"]


def make(files):
    root = tempfile.mkdtemp()
    for file in files:
        path = os.path.join(root, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "w").write("x")
    return root


def resolve(root, pattern):
    try:
        found = resolve_pattern(pattern, root)
    except FileNotFoundError:
        return []
    return sorted(os.path.relpath(path, root) for path in found)


trees = []
for files in TREES:
    root = make(files)
    patterns = get_data_patterns(root)
    trees.append({
        "files": files,
        "splits": {str(split): sorted({file for pattern in group for file in resolve(root, pattern)}) for split, group in patterns.items()},
    })
root = make(FILES)
print(json.dumps({"trees": trees, "files": FILES, "patterns": {pattern: resolve(root, pattern) for pattern in PATTERNS}}, indent=1))
