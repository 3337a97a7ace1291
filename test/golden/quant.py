"""Golden values for engine/quant: what bitsandbytes quantises and dequantises on a CPU.

Made with bitsandbytes 0.50.2, torch CPU: python test/golden/quant.py  (writes quant.json beside itself)
Float32 values are hexadecimal bit patterns joined to one string, eight digits each, so that equality is exact;
of dequantised values only the SHA-256 of those bytes is kept.
"""
import hashlib
import json
import struct
from pathlib import Path

import bitsandbytes.functional as F
import torch

generator = torch.Generator().manual_seed(7)
normal = lambda *shape: torch.randn(*shape, generator=generator) * 0.02


def hex32(tensor):
    return b"".join(struct.pack(">f", v) for v in tensor.flatten().tolist()).hex()


def digest(tensor):
    return hashlib.sha256(bytes.fromhex(hex32(tensor))).hexdigest()


def hex8(tensor):
    return bytes(tensor.flatten().view(torch.uint8).tolist()).hex()


LEVELS = F.get_4bit_type("nf4", device="cpu")
MIDPOINTS = (LEVELS[1:] + LEVELS[:-1]) / 2


def ties():
    """A block with absmax 1 that holds every level, every midpoint and its neighbours on both sides."""
    near = torch.cat([MIDPOINTS, torch.nextafter(MIDPOINTS, torch.tensor(2.0)), torch.nextafter(MIDPOINTS, torch.tensor(-2.0)), LEVELS])
    return torch.cat([near, torch.zeros(3 * 64 - near.numel())])


nf4_cases = {
    # Rows that are no multiple of 64 stay below 512 values: above, bitsandbytes' AVX-512 dequantisation restarts the blocks at
    # each row, which neither its own quantisation nor its CUDA kernels do.
    "normal": normal(12, 128),
    "odd": normal(5, 67),
    "smaller than a block": normal(1, 7),
    "one value": normal(1, 1),
    "block of zeros": torch.cat([torch.zeros(64), normal(64), torch.zeros(63)]).reshape(1, -1),
    "extremes": torch.tensor([3.4e38, -3.4e38, 1e-38, -1e-45, 1.0, 0.0, -0.0] * 11).reshape(1, -1),
    "subnormal": torch.tensor([1e-39, -5e-40, 3e-45, 0.0] * 16).reshape(1, -1),
    "ties": ties().reshape(3, 64),
    "more than a nested block": normal(68, 256),
}
nf4 = []
for name, values in nf4_cases.items():
    codes, state = F.quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=False)
    nested_codes, nested = F.quantize_4bit(values, blocksize=64, quant_type="nf4", compress_statistics=True)
    assert torch.equal(codes, nested_codes)
    nf4.append({
        "name": name,
        "values": hex32(values),
        "codes": hex8(codes),
        "absmax": hex32(state.absmax),
        "dequantized": digest(F.dequantize_4bit(codes, state)),
        "nested": {
            "offset": hex32(nested.offset.reshape(1)),
            "codes": hex8(nested.absmax),
            "absmax": hex32(nested.state2.absmax),
            "dequantized": digest(F.dequantize_4bit(nested_codes, nested)),
        },
    })

# Scales alone, many of them, so that every branch of the 8-bit search is met.
levels = F.create_dynamic_map()
blockwise = []
for name, values in {
    "uniform": torch.rand(700, generator=generator) * 2 - 1,
    "ties": torch.cat([(levels[1:] + levels[:-1]) / 2, torch.tensor([1.0])]),
    "levels": levels.clone(),
    "zeros": torch.zeros(300),
    "one": torch.tensor([0.25]),
}.items():
    codes, state = F.quantize_blockwise(values, blocksize=256)
    blockwise.append({"name": name, "values": hex32(values), "codes": hex8(codes), "absmax": hex32(state.absmax)})

int8 = []
for name, values in {
    "normal": normal(6, 50),
    "row of zeros among others": torch.cat([normal(1, 33), torch.zeros(1, 33), normal(1, 33)]),
    "ties": torch.cat([torch.arange(-127, 128) + 0.5, torch.tensor([127.0])]).clamp(-127, 127).reshape(1, -1),
    "extremes": torch.tensor([[3.4e38, -1.7e38, 1e30], [1e-30, -2e-30, 3e-31]]),
    "one value": torch.tensor([[-0.3]]),
}.items():
    codes, stats, _ = F.int8_vectorwise_quant(values.clone())
    int8.append({
        "name": name,
        "shape": list(values.shape),
        "values": hex32(values),
        "codes": hex8(codes),
        "absmax": hex32(stats),
        "dequantized": digest(F.int8_vectorwise_dequant(codes, stats)),
    })

out = {"levels": hex32(LEVELS), "dynamicLevels": hex32(levels), "nf4": nf4, "blockwise": blockwise, "int8": int8}
Path(__file__).with_suffix(".json").write_text(json.dumps(out) + "\n")
