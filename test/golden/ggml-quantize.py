"""Values quantised by ggml, to hold engine/formats/ggml-quantize.ts against.

Made with the library that node-llama-cpp 3.22.0 ships (`npm run setup -- --llama-cpp`), numpy 2.4.6, safetensors 0.8.0:
    python test/golden/ggml-quantize.py .temper/cache/tools/node-llama-cpp-3.22.0/node_modules/@node-llama-cpp/linux-x64/bins/linux-x64/libggml-base.so
Writes ggml-quantize.safetensors: `values`, rows of 512 of several kinds (normal, heavy-tailed, all of one sign, mostly zero, zero),
and by the name of each type the bytes that ggml_quantize_chunk makes of them.
"""
import ctypes
import os
import sys

import numpy as np
from safetensors.numpy import save_file

library = ctypes.CDLL(sys.argv[1])
library.ggml_quantize_chunk.restype = ctypes.c_size_t
library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
columns = 512
rng = np.random.default_rng(11)
normal = rng.standard_normal((12, columns)) * 0.03
heavy = rng.standard_t(3, (12, columns)) * 0.02
positive = np.abs(rng.standard_normal((4, columns))) * 0.1 + 0.02
sparse = np.where(rng.random((3, columns)) < 0.95, 0, rng.standard_normal((3, columns)))
values = np.concatenate([normal, heavy, positive, -positive, sparse, np.zeros((1, columns))]).astype(np.float32)
made = {"values": values}
for number, name, block, size in [(1, "F16", 1, 2), (6, "Q5_0", 32, 22), (8, "Q8_0", 32, 34), (12, "Q4_K", 256, 144), (14, "Q6_K", 256, 210)]:
    out = np.zeros(values.size // block * size, dtype=np.uint8)
    written = library.ggml_quantize_chunk(number, values.ctypes.data, out.ctypes.data, 0, len(values), columns, None)
    assert written == out.size, (name, written, out.size)
    made[name] = out
save_file(made, os.path.join(os.path.dirname(os.path.abspath(__file__)), "ggml-quantize.safetensors"))
