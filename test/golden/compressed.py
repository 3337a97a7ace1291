"""One CSV of 20,000 rows compressed in three ways, in several members, frames, streams and blocks; written to test/golden/compressed/.

Python 3.11 (gzip, bz2), pyarrow 26.0.1 (Zstandard). Run: python test/golden/compressed.py
"""
import bz2
import gzip
from pathlib import Path

import pyarrow

OUT = Path(__file__).parent / "compressed"
OUT.mkdir(exist_ok=True)
text = "name,text\n" + "".join(f"row {i},caf\u00e9 {i % 7}\n" for i in range(20_000))
data = text.encode()
parts = [data[:100_001], data[100_001:]]  # within a character
(OUT / "rows.csv.gz").write_bytes(b"".join(gzip.compress(part, mtime=0) for part in parts))
(OUT / "rows.csv.bz2").write_bytes(b"".join(bz2.compress(part, 1) for part in parts))
(OUT / "rows.csv.zst").write_bytes(b"".join(pyarrow.compress(part, codec="zstd", asbytes=True) for part in parts))
