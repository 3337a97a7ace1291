"""Files of torch.save, good and hostile.

Writes into test/golden/pytorch/:
  half/      a small random LLaMA's state dict, float16, as one pytorch_model.bin (with _metadata, as torch.save leaves it)
  sharded/   the same in bfloat16 and float32, as two shards with pytorch_model.bin.index.json
  expected.safetensors  its values (exact in all three types)
  views.bin, views-big-endian.bin, views.json   strides, offsets, shared storages, parameters and dtypes, and their values
  legacy.bin            the format from before PyTorch 1.6
  hostile.json          name -> a file (zlib, base64) that must be refused; "good" is the one they were made from

torch 2.15.0, safetensors 0.8.0. Run: python test/golden/pytorch.py
"""
import base64
import collections
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file

OUT = Path(__file__).parent / "pytorch"
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "hidden_act": "silu",
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}


def state_dict():
    torch.manual_seed(3)
    h, w, kv, v = 32, 48, 16, 64
    shapes = {"model.embed_tokens.weight": (v, h)}
    for i in range(2):
        block = f"model.layers.{i}"
        shapes |= {
            f"{block}.self_attn.q_proj.weight": (h, h), f"{block}.self_attn.k_proj.weight": (kv, h), f"{block}.self_attn.v_proj.weight": (kv, h),
            f"{block}.self_attn.o_proj.weight": (h, h), f"{block}.self_attn.rotary_emb.inv_freq": (4,), f"{block}.mlp.gate_proj.weight": (w, h),
            f"{block}.mlp.up_proj.weight": (w, h), f"{block}.mlp.down_proj.weight": (h, w), f"{block}.input_layernorm.weight": (h,),
            f"{block}.post_attention_layernorm.weight": (h,),
        }
    shapes |= {"model.norm.weight": (h,), "lm_head.weight": (v, h)}
    # Multiples of 1/64 below 2: exact in float16 and bfloat16.
    return collections.OrderedDict((name, torch.randint(-100, 100, shape).float() / 64) for name, shape in shapes.items())


def models():
    state = state_dict()
    for folder in ["half", "sharded"]:
        (OUT / folder).mkdir(parents=True, exist_ok=True)
        (OUT / folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    save_file({k: t.bfloat16() for k, t in state.items() if "inv_freq" not in k}, OUT / "expected.safetensors")
    half = collections.OrderedDict((k, t.half()) for k, t in state.items())
    half._metadata = collections.OrderedDict([("", {"version": 1}), ("model", {"version": 1})])  # what Module.state_dict() leaves
    torch.save(half, OUT / "half" / "pytorch_model.bin")
    names = list(state)
    index = {"metadata": {"total_size": sum(t.numel() * 2 for t in state.values())}, "weight_map": {}}
    for part, chunk in enumerate([names[: len(names) // 2], names[len(names) // 2 :]]):
        file = f"pytorch_model-0000{part + 1}-of-00002.bin"
        # The second shard is float32, and its tensors are parameters.
        torch.save({k: state[k].bfloat16() if part == 0 else torch.nn.Parameter(state[k]) for k in chunk}, OUT / "sharded" / file)
        index["weight_map"] |= {k: file for k in chunk}
    (OUT / "sharded" / "pytorch_model.bin.index.json").write_text(json.dumps(index, indent=1))


def views():
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    wide = torch.arange(4096, dtype=torch.float32).reshape(2, 2048)
    tensors = {
        "whole": base, "transposed": base.t(), "row": base[2], "column": base[:, 1], "block": base[1:3, 2:5], "stepped": base[::2, ::3],
        "flipped_axes": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).permute(2, 0, 1), "scalar": torch.tensor(1.5), "empty": torch.empty(0, 3),
        "expanded": torch.arange(3, dtype=torch.float32)[:1].expand(3), "long_rows": wide[:, 1024:], "half": base.half().t(), "bf16": base.bfloat16()[1:],
        "parameter": torch.nn.Parameter(base[:2].clone()), "far_apart": wide.reshape(-1)[::512],
    }
    torch.save(tensors, OUT / "views.bin")
    values = {k: {"shape": list(t.shape), "values": t.detach().float().flatten().tolist()} for k, t in tensors.items()}
    (OUT / "views.json").write_text(json.dumps(values))
    swap(OUT / "views.bin", OUT / "views-big-endian.bin")
    again = torch.load(OUT / "views-big-endian.bin", weights_only=True)
    assert all(torch.equal(again[k], t) for k, t in tensors.items())
    torch.save({"a": base}, OUT / "legacy.bin", _use_new_zipfile_serialization=False)
    torch.save({"longs": torch.arange(3), "doubles": torch.arange(3).double()}, OUT / "integers.bin")


def swap(source, target):
    """The same file as a big-endian machine writes it; torch.load is asked to agree above."""
    sizes = {"FloatStorage": 4, "HalfStorage": 2, "BFloat16Storage": 2}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        types = {}

        class Types(pickle.Unpickler):
            def find_class(self, module, name):
                return name if name.endswith("Storage") else (lambda *args: collections.OrderedDict() if name == "OrderedDict" else None)

            def persistent_load(self, pid):
                types[pid[2]] = sizes[pid[1]]

        Types(io.BytesIO(old.read("views/data.pkl"))).load()
        for name in old.namelist():
            data = old.read(name)
            key = name.removeprefix("views/data/")
            if name == "views/byteorder":
                data = b"big"
            elif key in types:
                data = b"".join(data[i : i + types[key]][::-1] for i in range(0, len(data), types[key]))
            new.writestr(zipfile.ZipInfo(name), data)


class Call:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def rebuild(storage_type=b"ctorch\nFloatStorage\n", key=b"X\x01\x00\x00\x000", numel=b"K\x04", offset=b"K\x00", size=b"K\x02K\x02\x86", stride=b"K\x02K\x01\x86", extra=b""):
    """One tensor `a` by hand, of the storage `0` that every hostile file has: four float32."""
    pid = b"(X\x07\x00\x00\x00storage" + storage_type + key + b"X\x03\x00\x00\x00cpu" + numel + b"tQ"
    return (b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + pid + offset + size + stride + b"\x89ccollections\nOrderedDict\n)R" + extra + b"tRs.")


def archive(pickled, entries=None, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    others = {"x/data/0": struct.pack("<4f", 1, 2, 3, 4), "x/byteorder": b"little"} if entries is None else entries
    with zipfile.ZipFile(out, "w") as zip:
        for name, data in {"x/data.pkl": pickled, "x/version": b"3\n", **others}.items():
            zip.writestr(zipfile.ZipInfo(name), data, compression)  # without the time of day
    return out.getvalue()


def hostile():
    dumps = lambda value, protocol=2: pickle.dumps(value, protocol)
    longs = lambda n: b"\x8a" + bytes([8]) + struct.pack("<q", n)
    good = archive(rebuild())
    assert torch.equal(torch.load(io.BytesIO(good), weights_only=True)["a"], torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    return {
        "good": good,
        "os.system": archive(dumps({"a": Call(os.system, "touch /tmp/pwned")})),
        "os.system, protocol 4": archive(dumps({"a": Call(os.system, "touch /tmp/pwned")}, 4)),
        "builtins.eval": archive(dumps({"a": Call(eval, "1")})),
        "nested getattr": archive(dumps({"a": Call(getattr, Call(__import__, "os"), "system")})),
        "a known module's other name": archive(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nctorch.hub\nload\n(X\x01\x00\x00\x00atR."),
        "dots in a name": archive(b"\x80\x04\x8c\x05torch\x8c\x10_utils.__globals\x93."),
        "a prototype's name": archive(b"\x80\x02c__proto__\nconstructor\n."),
        "INST": archive(b"(ios\nsystem\n."),
        "OBJ": archive(b"(cos\nsystem\nX\x02\x00\x00\x00ido."),
        "NEWOBJ": archive(b"\x80\x02ccollections\nOrderedDict\n)\x81."),
        "EXT1": archive(b"\x80\x02\x82\x01."),
        "calls what is no function": archive(b"\x80\x02ctorch\nFloatStorage\n)R."),
        "calls a tensor": archive(b"\x80\x02}X\x01\x00\x00\x00ah\x00)R."),
        "attributes of a tensor": archive(rebuild()[:-2] + b"}bs."),
        "a dict with arguments": archive(b"\x80\x02ccollections\nOrderedDict\n](K\x01e\x85R."),
        "a stack that is empty": archive(b"\x80\x02R."),
        "pops below a mark": archive(b"\x80\x02K\x01(\x86."),
        "no mark": archive(b"\x80\x02K\x01t."),
        "a million marks": archive(b"\x80\x02" + b"(" * 1_000_000 + b"t" * 1_000_001 + b".", compression=zipfile.ZIP_STORED),
        "deep tuples": archive(b"\x80\x02)" + b"\x85" * 500_000 + b"."),
        "a list of itself": archive(b"\x80\x02]q\x00h\x00a."),
        "an unknown memo": archive(b"\x80\x02h\x07."),
        "a huge memo place": archive(b"\x80\x02K\x01r\xff\xff\xff\xffj\xfe\xff\xff\xff."),
        "a huge text": archive(b"\x80\x02X\xff\xff\xff\xffabc."),
        "a huge number": archive(b"\x80\x02\x8a\xff" + b"\x7f" * 255 + b"."),
        "no STOP": archive(b"\x80\x02}"),
        "an empty pickle": archive(b""),
        "a truncated name": archive(b"\x80\x02ctorch"),
        "protocol 9": archive(b"\x80\x09}."),
        "no dict": archive(b"\x80\x02K\x01."),
        "a single tensor": archive(rebuild().replace(b"}X\x01\x00\x00\x00a", b"", 1)[:-2] + b"."),
        "an optimizer in it": archive(dumps({"a": {"lr": 1}})),
        "a tensor past its storage": archive(rebuild(size=b"K\x02K\x04\x86", stride=b"K\x01K\x01\x86")),
        "an offset past its storage": archive(rebuild(offset=b"K\x03")),
        "a stride past its storage": archive(rebuild(stride=b"K\x04K\x01\x86")),
        "a negative stride": archive(rebuild(stride=b"J\xff\xff\xff\xffK\x01\x86")),
        "a huge shape of one element": archive(rebuild(size=longs(2**40) + b"K\x02\x86", stride=b"K\x00K\x00\x86")),
        "a shape that overflows": archive(rebuild(size=longs(2**52) + longs(2**52) + b"\x86", stride=b"K\x00K\x00\x86")),
        "a storage larger than its bytes": archive(rebuild(numel=longs(2**40))),
        "a storage without bytes": archive(rebuild(), {}),
        "a storage of another name": archive(rebuild(key=b"X\x09\x00\x00\x00../../../")),
        "a storage of two sizes": archive(rebuild()[:-1] + rebuild(numel=b"K\x08").replace(b"\x80\x02}X\x01\x00\x00\x00a", b"X\x01\x00\x00\x00b", 1)),
        "compressed entries": archive(rebuild(), compression=zipfile.ZIP_DEFLATED),
        "a TorchScript program": archive(rebuild(), {"x/constants.pkl": b"\x80\x02).", "x/data/0": bytes(16)}),
        "no data.pkl": (lambda out: (zipfile.ZipFile(out, "w").close(), out.getvalue())[1])(io.BytesIO()),
        "a byte order of neither": archive(rebuild(), {"x/data/0": bytes(16), "x/byteorder": b"middle"}),
        "an archive cut short": good[:-30],
        "an archive of zeros after its magic": b"PK\x03\x04" + bytes(200),
        "a directory that points past the end": good.replace(b"PK\x05\x06", b"PK\x05\x06", 1)[:-6] + b"\xff\xff\xff\x7f\x00\x00",
        "text": b"this is not a model at all",
    }


models()
views()
files = hostile()

(OUT / "hostile.json").write_text(json.dumps({name: base64.b64encode(zlib.compress(data)).decode() for name, data in files.items()}, indent=0))
print(len(files), "files;", sum(f.stat().st_size for f in OUT.rglob("*") if f.is_file()), "bytes")
