"""Blenderbot checkpoints in the layouts that people have on disk, made from a small one without
torch; and a GGUF reader that shares nothing with ggml's."""

import collections
import io
import json
import mmap
import pickle
import shutil
import struct
import sys
import types
import zipfile

SIZES = {"F32": 4, "F16": 2, "BF16": 2}
STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"}


def read_safetensors(path):
    """{name: (shape, [floats])} of an f32 file."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    found = {}
    for name, row in header.items():
        if name != "__metadata__":
            begin, end = row["data_offsets"]
            raw = data[8 + size + begin:8 + size + end]
            found[name] = (row["shape"], list(struct.unpack(f"<{len(raw) // 4}f", raw)))
    return found


def pack(values, dtype):
    if dtype == "F32":
        return struct.pack(f"<{len(values)}f", *values)
    if dtype == "F16":
        return struct.pack(f"<{len(values)}e", *values)
    words = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
    return struct.pack(f"<{len(values)}H", *(word >> 16 for word in words))


def rounded(values, dtype):
    """What is left of the values in this type."""
    raw = pack(values, dtype)
    if dtype == "BF16":
        halves = struct.unpack(f"<{len(values)}H", raw)
        raw = struct.pack(f"<{len(values)}I", *(half << 16 for half in halves))
        return list(struct.unpack(f"<{len(values)}f", raw))
    return list(struct.unpack(f"<{len(values)}{'f' if dtype == 'F32' else 'e'}", raw))


def write_safetensors(path, tensors, dtype="F32", change=None):
    """change(header): what a test breaks."""
    header, body = {"__metadata__": {"format": "pt"}}, io.BytesIO()
    for name, (shape, values) in tensors.items():
        begin = body.tell()
        body.write(pack(values, dtype))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, body.tell()]}
    if change:
        change(header)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + body.getvalue())


def write_shards(folder, tensors, dtype="F32", parts=3):
    names, weight_map = list(tensors), {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        mine = names[part::parts]
        write_safetensors(folder / file, {name: tensors[name] for name in mine}, dtype)
        weight_map |= {name: file for name in mine}
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


class Storage:
    def __init__(self, key, dtype, values):
        self.key, self.dtype, self.values = key, dtype, values


def fake_torch():
    """Modules that make Python's pickle write torch's names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def _rebuild_tensor_v2(*_):
        raise AssertionError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    torch._utils = utils
    return {"torch": torch, "torch._utils": utils}


class Tensor:
    def __init__(self, storage, shape, stride=None):
        self.storage, self.shape, self.stride = storage, tuple(shape), stride

    def __reduce__(self):
        stride = self.stride
        if stride is None:
            stride, size = [], 1
            for width in reversed(self.shape):
                stride.insert(0, size)
                size *= width
        return (sys.modules["torch._utils"]._rebuild_tensor_v2,
                (self.storage, 0, self.shape, tuple(stride), False, collections.OrderedDict()))


def dump(value, protocol, legacy):
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if not isinstance(obj, Storage):
                return None
            found = ("storage", getattr(sys.modules["torch"], STORAGES[obj.dtype]), obj.key, "cpu",
                     len(obj.values))
            return found + (None,) if legacy else found

    out = io.BytesIO()
    Pickler(out, protocol).dump(value)
    return out.getvalue()


def state_dict(tensors, dtype, tied=(), transposed=(), strides=()):
    """An OrderedDict of tensors, and their storages; tied: names that share another's storage;
    strides: what some claim."""
    storages, state = [], collections.OrderedDict()
    for name, (shape, values) in tensors.items():
        stride = None
        if name in transposed:  # stored column by column
            rows, columns = shape
            values = [values[r * columns + c] for c in range(columns) for r in range(rows)]
            stride = (1, rows)
        storages.append(Storage(str(len(storages)), dtype, values))
        state[name] = Tensor(storages[-1], shape, dict(strides).get(name, stride))
    for name, other in tied:
        state[name] = Tensor(state[other].storage, state[other].shape)
    return state, storages


def write_torch_zip(path, tensors, dtype="F32", protocol=2, method=zipfile.ZIP_STORED, **shape):
    state, storages = state_dict(tensors, dtype, **shape)
    sys.modules.update(fake_torch())
    try:
        head = dump(state, protocol, False)
    finally:
        del sys.modules["torch"], sys.modules["torch._utils"]
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", head)
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", pack(storage.values, dtype))
        archive.writestr("archive/version", "3\n")


def write_torch_legacy(path, tensors, dtype="F32", **shape):
    state, storages = state_dict(tensors, dtype, **shape)
    sys.modules.update(fake_torch())
    try:
        facts = {"protocol_version": 1001, "little_endian": True,
                 "type_sizes": {"short": 2, "int": 4, "long": 4}}
        parts = [dump(value, 2, True) for value in (
            0x1950A86A20F9469CFC6C, 1001, facts, state, sorted(s.key for s in storages))]
    finally:
        del sys.modules["torch"], sys.modules["torch._utils"]
    for storage in sorted(storages, key=lambda s: s.key):
        parts += [struct.pack("<q", len(storage.values)), pack(storage.values, dtype)]
    path.write_bytes(b"".join(parts))


def copy_small_files(source, target, leave=()):
    """Everything but the weights."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".txt") and file.name not in leave:
            shutil.copy(file, target / file.name)
    return target


class Gguf:
    """keys: {name: value}; tensors: {name: (shape, type number, bytes)}, shape row first."""

    SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
               12: "d"}
    BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24),
              8: (32, 34), 12: (256, 144), 13: (256, 176), 14: (256, 210), 30: (1, 2)}

    def __init__(self, path):
        with path.open("rb") as file:
            self.data, self.at = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)), 4
        assert self.data[:4] == b"GGUF" and self.take("I") == 3
        tensors, keys = self.take("Q"), self.take("Q")
        self.keys = {self.text(): self.value(self.take("I")) for _ in range(keys)}
        rows = []
        for _ in range(tensors):
            name, dims = self.text(), self.take("I")
            shape = [self.take("Q") for _ in range(dims)]
            rows.append((name, shape, self.take("I"), self.take("Q")))
        start = -(-self.at // 32) * 32
        self.tensors, end = {}, 0
        for name, shape, kind, offset in rows:
            count, (block, size) = 1, self.BLOCKS[kind]
            for width in shape:
                count *= width
            length = count // block * size
            assert offset == end
            end = -(-(offset + length) // 32) * 32
            self.tensors[name] = (shape, kind, self.data[start + offset:start + offset + length])
        assert len(self.data) == start + end

    def take(self, code):
        value = struct.unpack_from("<" + code, self.data, self.at)[0]
        self.at += struct.calcsize("<" + code)
        return value

    def text(self):
        size = self.take("Q")
        self.at += size
        return bytes(self.data[self.at - size:self.at]).decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            inner, count = self.take("I"), self.take("Q")
            return [self.value(inner) for _ in range(count)]
        return self.take(self.SCALARS[kind])

    def floats(self, name):
        _, kind, raw = self.tensors[name]
        if kind == 30:
            halves = struct.unpack(f"<{len(raw) // 2}H", raw)
            raw = struct.pack(f"<{len(halves)}I", *(half << 16 for half in halves))
            kind = 0
        if kind == 8:  # q8_0
            found = []
            for at in range(0, len(raw), 34):
                scale, *levels = struct.unpack_from("<e32b", raw, at)
                found += [scale * level for level in levels]
            return found
        return list(struct.unpack(f"<{len(raw) // (4, 2)[kind]}{'fe'[kind]}", raw))
