#!/usr/bin/env python3
"""seeds.py FOLDER WYVERN - a small corpus for each fuzz target: FOLDER/TARGET/….

Real files, shrunk: a Blenderbot of 8 dimensions in every layout, and as GGUF.  WYVERN converts."""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import checkpoints  # noqa: E402

MARK = b"\xff\xf0"
NAMES = ["config.json", "generation_config.json", "vocab.json", "merges.txt", "added_tokens.json",
         "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
         "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json",
         "part-1.safetensors", "part-1.bin"]  # fuzz.c
TENSORS = {"a": ([2, 3], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), "b": ([4], [1.0, 2.0, 3.0, 4.0])}
TIED = [("c", "a")]
VOCAB = ["<pad>", "<s>", "</s>", "<unk>", "a", "b", "\u0120", "ab", "\u0120a", "\u0120ab", "[1]"]
MERGES = ["a b", "\u0120 a", "\u0120a b"]
WIDTH, FFN, POSITIONS, HEADS = 8, 8, 6, 2


def config(**more):
    return {"model_type": "blenderbot", "vocab_size": len(VOCAB), "d_model": WIDTH,
            "max_position_embeddings": POSITIONS, "encoder_layers": 1, "decoder_layers": 1,
            "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": FFN, "decoder_ffn_dim": FFN, "activation_function": "gelu",
            "scale_embedding": True, "num_beams": 2, "min_length": 2, "max_length": 5,
            "no_repeat_ngram_size": 3, "length_penalty": 0.65, **more}


def model(width=WIDTH):
    """All tensors of one block a side; their numbers do not matter."""
    tensors, seen = {}, 0

    def add(name, *shape):
        nonlocal seen
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        tensors[name] = (list(shape), [((seen + i) * 37 % 64 - 32) / 64 for i in range(count)])
        seen += count

    def pair(name, rows, columns):
        add(f"{name}.weight", *([rows, columns] if columns else [rows]))
        add(f"{name}.bias", rows)

    add("model.shared.weight", len(VOCAB), width)
    add("final_logits_bias", 1, len(VOCAB))
    for side in ("encoder", "decoder"):
        add(f"model.{side}.embed_positions.weight", POSITIONS, width)
        pair(f"model.{side}.layer_norm", width, 0)
        block = f"model.{side}.layers.0"
        attentions = ["self_attn"] + (["encoder_attn"] if side == "decoder" else [])
        for attention in attentions:
            pair(f"{block}.{attention}_layer_norm", width, 0)
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                pair(f"{block}.{attention}.{part}", width, width)
        pair(f"{block}.final_layer_norm", width, 0)
        pair(f"{block}.fc1", FFN, width)
        pair(f"{block}.fc2", width, FFN)
    return tensors


def small_files(folder, **more):
    """A folder in the published layout, without its weights."""
    (folder / "config.json").write_text(json.dumps(config(**more)))
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(VOCAB)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    (folder / "added_tokens.json").write_text(json.dumps({"<mask>": len(VOCAB)}))
    (folder / "special_tokens_map.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}))


def new_files(folder):
    """As newer saves have it."""
    (folder / "config.json").write_text(json.dumps(config()))
    (folder / "generation_config.json").write_text(json.dumps(
        {"num_beams": 3, "max_new_tokens": 4, "early_stopping": "never", "do_sample": False,
         "temperature": 0.9, "top_p": 0.9, "top_k": 3, "forced_eos_token_id": 2}))
    (folder / "tokenizer.json").write_text(json.dumps(
        {"added_tokens": [{"id": 1, "content": "<s>", "special": True}],
         "pre_tokenizer": {"add_prefix_space": True},
         "model": {"type": "BPE", "vocab": {word: i for i, word in enumerate(VOCAB)},
                   "merges": [merge.split() for merge in MERGES]}}))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"add_prefix_space": True, "unk_token": "<unk>",
         "added_tokens_decoder": {"2": {"content": "</s>", "special": True}}}))


def image(folder):
    found = b""
    for i, name in enumerate(NAMES):
        if (folder / name).exists():
            content = (folder / name).read_bytes()
            assert MARK not in content
            found += MARK + bytes([ord("a") + i]) + content
    return found


LAYOUTS = {
    "safetensors": lambda folder: checkpoints.write_safetensors(folder / "model.safetensors",
                                                                model(), "F16"),
    "bf16": lambda folder: checkpoints.write_safetensors(folder / "model.safetensors", model(),
                                                         "BF16"),
    "zip": lambda folder: checkpoints.write_torch_zip(
        folder / "pytorch_model.bin", model(), tied=[("lm_head.weight", "model.shared.weight")]),
    "legacy": lambda folder: checkpoints.write_torch_legacy(folder / "pytorch_model.bin", model()),
}


def put_shard(folder):
    (folder / "part-1.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"weight_map": {name: "part-1.safetensors" for name in model()}}))


def write_readers(seeds, scratch):
    """One small good file for each reader."""
    path = scratch / "file"
    checkpoints.write_safetensors(path, TENSORS)
    (seeds["safetensors"] / "f32").write_bytes(path.read_bytes())
    checkpoints.write_torch_legacy(path, TENSORS, "F16", tied=TIED)
    (seeds["legacy"] / "f16").write_bytes(path.read_bytes())
    for protocol in (2, 4):
        checkpoints.write_torch_zip(path, TENSORS, protocol=protocol, tied=TIED, transposed=["a"])
        (seeds["zip"] / f"protocol-{protocol}").write_bytes(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            state = archive.read("archive/data.pkl")
        (seeds["pickle"] / f"protocol-{protocol}").write_bytes(state)


def write_models(seeds, scratch, wyvern):
    for number, (name, write) in enumerate(LAYOUTS.items()):
        folder = scratch / name
        folder.mkdir()
        (small_files if number % 2 else new_files)(folder)
        (seeds["config"] / name).write_bytes(image(folder))
        write(folder)
        (seeds["convert"] / name).write_bytes(bytes([number]) + image(folder))
        subprocess.run([wyvern, "convert", folder, seeds["gguf"] / name, "--quiet"], check=True)
        if name == "bf16":
            put_shard(folder)
            (seeds["convert"] / "shard").write_bytes(bytes([6]) + image(folder))
    folder = scratch / "wide"  # wide enough for quantised weights
    folder.mkdir()
    small_files(folder, d_model=32)
    checkpoints.write_safetensors(folder / "model.safetensors", model(32), "F16")
    for kind in ("q8_0", "q4_0"):
        subprocess.run([wyvern, "convert", folder, seeds["gguf"] / kind, "--quiet", "--type", kind],
                       check=True)


def write_llama(path):
    """A header with the keys that are looked at before llama.cpp sees it."""
    def text(string):
        return struct.pack("<Q", len(string.encode())) + string.encode()

    def texts(strings):
        return struct.pack("<IQ", 8, len(strings)) + b"".join(map(text, strings))

    keys = [("general.architecture", 8, text("llama")),
            ("general.alignment", 4, struct.pack("<I", 32)),
            ("tokenizer.ggml.tokens", 9, texts(VOCAB)),
            ("tokenizer.ggml.merges", 9, texts(MERGES)),
            ("tokenizer.ggml.scores", 9, struct.pack(f"<IQ{len(VOCAB)}f", 6, len(VOCAB), *range(11))),
            ("tokenizer.ggml.token_type", 9, struct.pack(f"<IQ{len(VOCAB)}i", 5, len(VOCAB),
                                                         *[1] * len(VOCAB)))]
    keys += [(f"tokenizer.ggml.{name}_token_id", 4, struct.pack("<I", 1))
             for name in ("bos", "eos", "unknown", "padding")]
    keys += [(f"llama.{name}", 4, struct.pack("<I", 8)) for name in (
        "block_count", "context_length", "embedding_length", "feed_forward_length",
        "attention.head_count", "attention.head_count_kv", "rope.dimension_count", "vocab_size")]
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys))
    for name, kind, value in keys:
        head += text(name) + struct.pack("<I", kind) + value
    head += text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, len(VOCAB), 0, 0)
    path.write_bytes(head + bytes(-len(head) % 32 + 8 * len(VOCAB) * 4))


def write_texts(folder):
    for i, text in enumerate(["What is a wyvern?", " it's  we'll\t\n 12,345 \u00e9t\u00e9 \u4f60\u597d",
                              "</s> <s>", "\U0001f409\u00a0\u3000x", "a" * 200]):
        (folder / f"text-{i}").write_bytes(text.encode())


def write_grammars(folder):
    for i, (rules, text) in enumerate([
            ('root ::= "yes" | "no"', "yes"),
            ('root ::= [a-c]+ ("x" | [^\\u00e0-\\u00ff]){2,3} # end', "abxq"),
            ('root ::= "(" root ")" | "x"*\n', "((xx))"),
            ('root ::= "a" root "b" | "a" root "c" | .', "aaaa"),
            ('root ::= v\nv ::= "[" s ( v ("," s v)* )? "]" s | [0-9]{1,15} s\ns ::= | " " | "\\n" [ \\t]{0,20}',
             "[1, [], [22 ]]")]):
        (folder / f"grammar-{i}").write_bytes(f"{rules}\0{text}".encode())


def main():
    root, wyvern = pathlib.Path(sys.argv[1]), sys.argv[2]
    seeds = {name: root / name for name in ("pickle", "safetensors", "zip", "legacy", "config",
                                            "convert", "gguf", "tokenizer", "grammar")}
    for folder in seeds.values():
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        write_readers(seeds, pathlib.Path(scratch))
        write_models(seeds, pathlib.Path(scratch), wyvern)
    write_llama(seeds["gguf"] / "llama")
    write_texts(seeds["tokenizer"])
    write_grammars(seeds["grammar"])


if __name__ == "__main__":
    main()
