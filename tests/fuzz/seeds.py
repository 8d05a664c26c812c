#!/usr/bin/env python3
"""seeds.py FOLDER - a corpus for fuzz_convert: one small good file of each format."""

import pathlib
import sys
import tempfile
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import checkpoints  # noqa: E402

TENSORS = {"a": ([2, 3], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "b": ([4], [1.0, 2.0, 3.0, 4.0])}
TIED = [("c", "a")]


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "file"
        checkpoints.write_safetensors(path, TENSORS)
        (folder / "safetensors").write_bytes(b"\0" + path.read_bytes())
        checkpoints.write_torch_legacy(path, TENSORS, "F16", tied=TIED)
        (folder / "legacy").write_bytes(b"\1" + path.read_bytes())
        for protocol in (2, 4):
            checkpoints.write_torch_zip(path, TENSORS, protocol=protocol, tied=TIED,
                                        transposed=["a"])
            (folder / f"zip-{protocol}").write_bytes(b"\1" + path.read_bytes())
            with zipfile.ZipFile(path) as archive:
                state = archive.read("archive/data.pkl")
            (folder / f"pickle-{protocol}").write_bytes(b"\2" + state)


if __name__ == "__main__":
    main()
