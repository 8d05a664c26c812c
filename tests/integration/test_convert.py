"""`wyvern convert` on the layouts people have, read back by another GGUF reader; and on broken ones,
which are refused by name and leave nothing."""

import copy
import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import zipfile

import pytest

import checkpoints
from checkpoints import Gguf
from harness import WYVERN, run

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "blenderbot"
TINY, TINY_BIN = DATA / "tiny", DATA / "tiny-bin"
TENSORS = checkpoints.read_safetensors(TINY / "model.safetensors")
Q = "model.encoder.layers.1.self_attn.q_proj.weight"
# a matrix, a vector, the tied matrix, the one that comes as a single row
SAMPLES = {Q: "enc.blk.1.attn_q.weight",
           "model.decoder.layers.2.encoder_attn.out_proj.bias": "dec.blk.2.cross_attn_o.bias",
           "model.decoder.layers.0.fc2.weight": "dec.blk.0.ffn_down.weight",
           "model.shared.weight": "token_embd.weight",
           "model.decoder.embed_positions.weight": "dec.position_embd.weight",
           "final_logits_bias": "output.bias"}


def convert(source, out, *more):
    return subprocess.run([WYVERN, "convert", source, out, *more], capture_output=True, text=True,
                          timeout=60, env=os.environ | {"NO_COLOR": "1"})


def converted(source, out, *more):
    done = convert(source, out, *more)
    assert done.returncode == 0, done.stderr
    return Gguf(out)


def refused(folder, out, *words):
    before = set(out.parent.iterdir())
    done = convert(folder, out)
    assert done.returncode in (64, 65, 66), done.stderr
    assert set(out.parent.iterdir()) == before
    assert done.stderr.startswith("wyvern: ") and done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def check_values(gguf, dtype="F32"):
    assert len(gguf.tensors) == 118
    for theirs, ours in SAMPLES.items():
        assert gguf.floats(ours) == checkpoints.rounded(TENSORS[theirs][1], dtype), theirs


def without_weights(tmp_path, leave=()):
    return checkpoints.copy_small_files(TINY, tmp_path / "model", leave)


def test_safetensors(tmp_path):
    gguf = converted(TINY, tmp_path / "out.gguf")
    check_values(gguf)
    assert {kind for _, kind, _ in gguf.tensors.values()} == {0}
    shapes = {name: shape for name, (shape, _, _) in gguf.tensors.items()}
    assert shapes["token_embd.weight"] == [64, 881]
    assert shapes["enc.blk.0.ffn_up.weight"] == [64, 256]
    assert shapes["dec.blk.0.ffn_down.weight"] == [192, 64]
    keys = gguf.keys
    assert keys["general.architecture"] == "blenderbot"
    for key, value in {
        "vocab_size": 881, "embedding_length": 64, "context_length": 128,
        "encoder.block_count": 2, "decoder.block_count": 3,
        "encoder.attention.head_count": 4, "decoder.attention.head_count": 8,
        "encoder.feed_forward_length": 256, "decoder.feed_forward_length": 192,
        "activation_function": "gelu", "scale_embedding": True, "decoder_start_token_id": 1,
        "generation.num_beams": 10, "generation.max_length": 60, "generation.min_length": 20,
        "generation.no_repeat_ngram_size": 3, "generation.encoder_no_repeat_ngram_size": 3,
        "generation.forced_eos_token_id": 2,
    }.items():
        assert keys[f"blenderbot.{key}"] == value, key
    assert keys["blenderbot.generation.length_penalty"] == pytest.approx(0.65)
    assert "blenderbot.generation.top_p" not in keys
    assert "blenderbot.generation.early_stopping" not in keys


def test_vocabulary(tmp_path):
    keys = converted(TINY, tmp_path / "out.gguf").keys
    vocab = json.loads((TINY / "vocab.json").read_text())
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == 881
    assert all(tokens[i] == token for token, i in vocab.items())
    assert tokens[873] == "<mask>" and types[873] == 3
    assert tokens[874] == "[UNUSED874]" and types[874:] == [5] * 7
    assert types[:5] == [3, 3, 3, 2, 1]
    merges = (TINY / "merges.txt").read_text().splitlines()[1:]
    assert keys["tokenizer.ggml.merges"] == merges
    assert [keys[f"tokenizer.ggml.{name}_token_id"] for name in
            ("bos", "eos", "padding", "unknown")] == [1, 2, 0, 3]
    assert keys["tokenizer.ggml.add_space_prefix"] and keys["tokenizer.ggml.add_eos_token"]


def test_tokenizer_json_alone(tmp_path):
    folder = without_weights(tmp_path, ("vocab.json", "merges.txt"))
    shutil.copy(TINY / "model.safetensors", folder)
    whole, alone = (converted(source, tmp_path / "out.gguf").keys for source in (TINY, folder))
    for key, value in whole.items():
        assert key == "general.name" or alone[key] == value, key


def test_published_layout(tmp_path):
    """f16 in a zip archive, generation defaults in config.json."""
    gguf = converted(TINY_BIN, tmp_path / "out.gguf")
    assert gguf.tensors["enc.blk.0.attn_q.weight"][1] == 1
    assert gguf.tensors["enc.blk.0.attn_q.bias"][1] == 0
    with zipfile.ZipFile(TINY_BIN / "pytorch_model.bin") as archive:
        stored = archive.read("pytorch_model/data/1")
    assert gguf.tensors["token_embd.weight"][2] == stored
    assert gguf.keys["blenderbot.generation.num_beams"] == 10
    assert gguf.keys["blenderbot.generation.length_penalty"] == pytest.approx(0.65)
    wide = converted(TINY_BIN, tmp_path / "wide.gguf", "--type", "f32")
    assert wide.floats("token_embd.weight") == gguf.floats("token_embd.weight")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("layout", ["safetensors", "shards", "zip", "zip-tied", "zip-protocol-4",
                                    "legacy", "transposed"])
def test_layouts(tmp_path, layout, dtype):
    folder = without_weights(tmp_path)
    binary = folder / "pytorch_model.bin"
    tied = [("model.encoder.embed_tokens.weight", "model.shared.weight"),
            ("lm_head.weight", "model.shared.weight")]
    {"safetensors": lambda: checkpoints.write_safetensors(folder / "model.safetensors", TENSORS,
                                                          dtype),
     "shards": lambda: checkpoints.write_shards(folder, TENSORS, dtype),
     "zip": lambda: checkpoints.write_torch_zip(binary, TENSORS, dtype),
     "zip-tied": lambda: checkpoints.write_torch_zip(binary, TENSORS, dtype, tied=tied),
     "zip-protocol-4": lambda: checkpoints.write_torch_zip(binary, TENSORS, dtype, protocol=4),
     "legacy": lambda: checkpoints.write_torch_legacy(binary, TENSORS, dtype, tied=tied),
     "transposed": lambda: checkpoints.write_torch_zip(binary, TENSORS, dtype, transposed=[Q]),
     }[layout]()
    check_values(converted(folder, tmp_path / "out.gguf", "--type", "f32"), dtype)
    natural = converted(folder, tmp_path / "natural.gguf")
    assert natural.tensors["token_embd.weight"][1] == (1 if dtype == "F16" else 0)
    check_values(natural, dtype)


def test_weight_types(tmp_path):
    for name, matrix, embedding in (("f16", 1, 1), ("bf16", 30, 30), ("q8_0", 8, 8),
                                    ("q5_1", 7, 8), ("q4_0", 2, 8), ("q4_k_m", 1, 8)):
        gguf = converted(TINY, tmp_path / "out.gguf", "--type", name)
        assert gguf.tensors["dec.blk.1.cross_attn_k.weight"][1] == matrix, name
        assert gguf.tensors["token_embd.weight"][1] == embedding, name
        assert gguf.tensors["enc.position_embd.weight"][1] == 0
        assert gguf.tensors["enc.output_norm.weight"][1] == 0
        if name == "q8_0":
            for got, want in zip(gguf.floats("enc.blk.1.attn_q.weight"), TENSORS[Q][1]):
                assert abs(got - want) < 0.01


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model of 64 MiB."""
    config = json.loads((TINY / "config.json").read_text())
    config |= {"encoder_ffn_dim": 65536, "decoder_ffn_dim": 192}
    folder = checkpoints.copy_small_files(TINY, tmp_path_factory.mktemp("large") / "model")
    (folder / "config.json").write_text(json.dumps(config))
    tensors = dict(TENSORS)
    for block in range(2):
        name = f"model.encoder.layers.{block}"
        tensors[f"{name}.fc1.weight"] = ([65536, 64], [0.5] * (65536 * 64))
        tensors[f"{name}.fc1.bias"] = ([65536], [0.5] * 65536)
        tensors[f"{name}.fc2.weight"] = ([64, 65536], [0.5] * (65536 * 64))
    checkpoints.write_torch_zip(folder / "pytorch_model.bin", tensors)
    return folder


def test_peak_memory(tmp_path, large):
    """A model of 64 MiB must not need them."""
    out = tmp_path / "out.gguf"
    least, most = (subprocess.run(
        ["python3", "-c", "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=1);"
         "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)", WYVERN, "convert", source,
         out, "-q"], capture_output=True, text=True, check=True, timeout=60).stdout
        for source in (TINY, large))
    assert out.stat().st_size > 64 << 20
    assert int(most) - int(least) < 32 << 10


def test_killed(tmp_path, large):
    """Nothing is left of a conversion that was killed while it wrote."""
    target = tmp_path / "target"
    target.mkdir()
    try:
        os.close(os.open(target, os.O_TMPFILE | os.O_RDWR))
    except OSError:
        pytest.skip("files here always have a name")

    def limit():  # the kernel kills it where it writes byte 16 Mi, which is no file's of its own
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 20, 16 << 20))

    done = subprocess.run([WYVERN, "convert", large, target / "out.gguf", "-q"], timeout=60,
                          preexec_fn=limit)
    assert done.returncode == -signal.SIGXFSZ
    assert not list(target.iterdir())


# ---- what is refused ----


def break_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("fields, words", [
    ({"model_type": "blenderbot-small"}, ["BlenderbotSmall"]),
    ({"model_type": "bart"}, ["model_type", "bart"]),
    ({"activation_function": "mish"}, ["activation_function", "mish"]),
    ({"d_model": 96}, ["model.shared.weight", "881x64"]),
    ({"d_model": -1}, ["d_model"]),
    ({"d_model": 10**12}, ["d_model"]),
    ({"encoder_layers": 3}, ["model.encoder.layers.2"]),
    ({"encoder_layers": 10**6}, ["encoder_layers"]),
    ({"encoder_attention_heads": 5}, ["encoder_attention_heads"]),
    ({"vocab_size": 800}, ["vocabulary does not fit"]),
    ({"vocab_size": 900}, ["model.shared.weight"]),
    ({"vocab_size": 1 << 20}, ["model.shared.weight"]),
    ({"max_position_embeddings": 1}, ["max_position_embeddings"]),
    ({"tie_word_embeddings": False}, ["tie_word_embeddings"]),
    ({"eos_token_id": 900}, ["eos_token_id"]),
])
def test_bad_config(tmp_path, fields, words):
    folder = without_weights(tmp_path)
    shutil.copy(TINY / "model.safetensors", folder)
    break_config(folder, **fields)
    refused(folder, tmp_path / "out.gguf", *words)


@pytest.mark.parametrize("fields, words", [
    ({"num_beams": 0}, ["num_beams", "1 to 64"]),
    ({"max_length": 0}, ["max_length"]),
    ({"length_penalty": 1e12}, ["length_penalty"]),
    ({"repetition_penalty": 0}, ["repetition_penalty"]),
    ({"temperature": -1}, ["temperature"]),
    ({"top_p": 1.5}, ["top_p"]),
    ({"forced_eos_token_id": 881}, ["forced_eos_token_id"]),
    ({"early_stopping": "perhaps"}, ["early_stopping"]),
])
def test_bad_defaults(tmp_path, fields, words):
    """What would convert and then not load."""
    folder = tmp_path / "model"
    shutil.copytree(TINY_BIN, folder)
    break_config(folder, **fields)
    refused(folder, tmp_path / "out.gguf", "config.json", *words)


def change_json(path, **fields):
    """None: takes the field out."""
    value = json.loads(path.read_text()) if path.exists() else {}
    value = {k: v for k, v in (value | fields).items() if v is not None}
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("fields", [
    {"sequence_bias": [[[5], 1.0]]}, {"num_beam_groups": 2}, {"penalty_alpha": 0.6},
    {"guidance_scale": 1.5}, {"exponential_decay_length_penalty": [5, 1.1]},
    {"stop_strings": ["x"]}, {"do_sample": True, "typical_p": 0.9},
])
def test_settings_that_are_not_followed_are_refused(tmp_path, fields):
    for name in ("generation_config.json", "config.json"):
        folder = without_weights(tmp_path / name, ["generation_config.json"])
        shutil.copy(TINY / "model.safetensors", folder)
        change_json(folder / name, **fields)
        refused(folder, tmp_path / "out.gguf", name, list(fields)[-1])


def test_neutral_settings_are_none(tmp_path):
    folder = without_weights(tmp_path)
    shutil.copy(TINY / "model.safetensors", folder)
    change_json(folder / "generation_config.json", typical_p=0.9, num_beam_groups=1,
                diversity_penalty=0.0, guidance_scale=1.0)
    done = convert(folder, tmp_path / "out.gguf")
    assert done.returncode == 0 and "typical_p" in done.stderr


def test_defaults_come_from_one_file(tmp_path):
    """generation_config.json has all the say; without it config.json; the class has none."""
    folder = without_weights(tmp_path)
    shutil.copy(TINY / "model.safetensors", folder)
    change_json(folder / "config.json", no_repeat_ngram_size=7, forced_eos_token_id=None,
                eos_token_id=5, num_hidden_layers=1)
    keys = converted(folder, tmp_path / "a.gguf").keys
    assert keys["blenderbot.generation.no_repeat_ngram_size"] == 3
    assert keys["blenderbot.generation.forced_eos_token_id"] == 2
    assert keys["blenderbot.generation.eos_token_id"] == [2]
    assert keys["blenderbot.encoder.block_count"] == 1  # another name of encoder_layers, goes before
    (folder / "generation_config.json").unlink()
    change_json(folder / "config.json", eos_token_id=[2, 9], suppress_tokens=[4, 6],
                bad_words_ids=[[7, 8], [2], [3]])
    keys = converted(folder, tmp_path / "b.gguf").keys
    assert keys["blenderbot.generation.no_repeat_ngram_size"] == 7
    assert "blenderbot.generation.forced_eos_token_id" not in keys
    assert keys["blenderbot.generation.eos_token_id"] == [2, 9]
    assert keys["blenderbot.generation.suppress_tokens"] == [4, 6]
    assert keys["blenderbot.generation.bad_words_ids"] == [7, 8, -1, 3, -1]
    assert keys["tokenizer.ggml.eos_token_id"] == 2


def test_saved_without_head_or_bias(tmp_path):
    folder = without_weights(tmp_path)
    inner = {name.removeprefix("model."): value for name, value in TENSORS.items()
             if name != "final_logits_bias"}
    checkpoints.write_safetensors(folder / "model.safetensors", inner)
    gguf = converted(folder, tmp_path / "out.gguf", "--type", "f32")
    assert gguf.floats("token_embd.weight") == TENSORS["model.shared.weight"][1]
    assert not any(gguf.floats("output.bias"))


@pytest.mark.parametrize("tied", [True, False])
def test_matrix_of_its_own_is_refused(tmp_path, tied):
    folder = without_weights(tmp_path)
    change_json(folder / "config.json", tie_word_embeddings=tied)
    shape, values = TENSORS["model.shared.weight"]
    copies = {name: (shape, values) for name in (
        "lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")}
    checkpoints.write_safetensors(folder / "model.safetensors", TENSORS | copies)
    converted(folder, tmp_path / "same.gguf")
    copies["lm_head.weight"] = shape, values[:-1] + [values[-1] + 1]
    checkpoints.write_safetensors(folder / "model.safetensors", TENSORS | copies)
    refused(folder, tmp_path / "out.gguf", "lm_head.weight", "differs")


def test_vocabularies_that_differ(tmp_path):
    folder = without_weights(tmp_path)
    shutil.copy(TINY / "model.safetensors", folder)
    lines = (folder / "merges.txt").read_text().rstrip().split("\n")
    (folder / "merges.txt").write_text("\n".join(lines[:-1]) + "\n")
    refused(folder, tmp_path / "out.gguf", "tokenizer.json holds another vocabulary")


def lie(name, **fields):
    return lambda header: header[name].update(fields)


@pytest.mark.parametrize("change, word", [
    (lie(Q, shape=[64, 32]), Q),
    (lie(Q, shape=[2**62, 2**62]), Q),
    (lie(Q, shape=[-1, 64]), Q),
    (lie(Q, dtype="F99"), Q),
    (lie(Q, dtype="I32"), Q),
    (lie(Q, data_offsets=[0, 16384]), "overlaps"),
    (lie(Q, data_offsets=[10**12, 10**12 + 16384]), Q),
    (lambda header: header.pop(Q), "hole"),
    (lambda header: header.pop("model.shared.weight"), "belong to no tensor"),
    (lambda header: header.update({Q: 5}), Q),
])
def test_bad_safetensors(tmp_path, change, word):
    folder = without_weights(tmp_path)
    checkpoints.write_safetensors(folder / "model.safetensors", TENSORS, change=change)
    refused(folder, tmp_path / "out.gguf", "model.safetensors" if word != Q else Q, word)


@pytest.mark.parametrize("source, name", [(TINY, "model.safetensors"),
                                          (TINY_BIN, "pytorch_model.bin")])
def test_truncated(tmp_path, source, name):
    folder = checkpoints.copy_small_files(source, tmp_path / "model")
    whole = (source / name).read_bytes()
    for length in (0, 1, 8, 100, 12000, len(whole) // 2, len(whole) - 1):
        (folder / name).write_bytes(whole[:length])
        refused(folder, tmp_path / "out.gguf", name)
    (folder / name).write_bytes(struct.pack("<Q", 2**63) + whole[8:])
    refused(folder, tmp_path / "out.gguf", name)


def test_truncated_legacy(tmp_path):
    folder = without_weights(tmp_path)
    path = folder / "pytorch_model.bin"
    checkpoints.write_torch_legacy(path, TENSORS)
    whole = path.read_bytes()
    for data in (whole[:30], whole[:3000], whole[:-1], whole + b"\0"):
        path.write_bytes(data)
        refused(folder, tmp_path / "out.gguf", "pytorch_model.bin")


def test_damaged_archive(tmp_path):
    """A flipped bit in a weight is seen by its checksum."""
    folder = checkpoints.copy_small_files(TINY_BIN, tmp_path / "model")
    data = bytearray((TINY_BIN / "pytorch_model.bin").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "pytorch_model.bin").write_bytes(data)
    refused(folder, tmp_path / "out.gguf", "damaged")


def test_compressed_archive(tmp_path):
    folder = without_weights(tmp_path)
    checkpoints.write_torch_zip(folder / "pytorch_model.bin", TENSORS, method=zipfile.ZIP_DEFLATED)
    refused(folder, tmp_path / "out.gguf", "compressed")


@pytest.mark.parametrize("stride", [(0, 0), (0, 1), (1, 1), (2, 2), (64, 0), (2**40, 1)])
def test_tensor_of_few_numbers(tmp_path, stride):
    """Strides that make much of little, or reach beyond the storage."""
    folder = without_weights(tmp_path)
    checkpoints.write_torch_zip(folder / "pytorch_model.bin", TENSORS, strides={Q: stride})
    refused(folder, tmp_path / "out.gguf", Q)


def test_archive_of_one_file(tmp_path):
    """A hundred entries of an archive that are all the same bytes of it."""
    folder = without_weights(tmp_path)
    path = folder / "pytorch_model.bin"
    checkpoints.write_torch_zip(path, {Q: TENSORS[Q]})
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("archive/data/0")
        for i in range(1, 100):
            other = copy.copy(first)
            other.filename = f"archive/data/{i}"
            archive.filelist.append(other)
        archive._didModify = True
    refused(folder, tmp_path / "out.gguf", "overlap")


@pytest.mark.parametrize("source", [None, TINY_BIN])
def test_archive_that_claims_files(tmp_path, source):
    """In the archive's end; and in its long form, which torch writes and which lies before it."""
    folder = without_weights(tmp_path)
    path = folder / "pytorch_model.bin"
    if source:
        shutil.copy(source / path.name, path)
    else:
        checkpoints.write_torch_zip(path, {Q: TENSORS[Q]})
    data = bytearray(path.read_bytes())
    if source:
        count = data.rindex(b"PK\6\6") + 32
        data[count:count + 8] = struct.pack("<Q", 1 << 32)
    else:
        count = data.rindex(b"PK\5\6") + 10
        data[count:count + 2] = struct.pack("<H", 65520)
    path.write_bytes(data)
    refused(folder, tmp_path / "out.gguf", path.name, "claims", "files")


def test_pickled_code(tmp_path):
    folder = without_weights(tmp_path)
    mark = tmp_path / "ran"
    code = b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(f"touch {mark}"))
    code += f"touch {mark}".encode() + b"\x85R."
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", code)
    refused(folder, tmp_path / "out.gguf", "posix.system")
    assert not mark.exists()


def test_missing(tmp_path):
    folder = without_weights(tmp_path)
    refused(folder, tmp_path / "out.gguf", "holds no weights")
    checkpoints.write_shards(folder, TENSORS)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, tmp_path / "out.gguf", "model-00002-of-00003.safetensors")
    index = {"weight_map": {"a": "../../etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(folder, tmp_path / "out.gguf", "is not a file name")
    some = {name: value for name, value in TENSORS.items() if name != Q}
    checkpoints.write_safetensors(folder / "model.safetensors", some)
    refused(folder, tmp_path / "out.gguf", Q)
    (folder / "config.json").unlink()
    refused(folder, tmp_path / "out.gguf", "config.json")


def test_not_finite(tmp_path):
    folder = without_weights(tmp_path)
    tensors = dict(TENSORS)
    tensors[Q] = (tensors[Q][0], [float("nan")] + tensors[Q][1][1:])
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)
    refused(folder, tmp_path / "out.gguf", Q)
    tensors[Q] = (tensors[Q][0], [1e6] + tensors[Q][1][1:])
    checkpoints.write_safetensors(folder / "model.safetensors", tensors)
    done = convert(folder, tmp_path / "out.gguf", "--type", "f16")
    assert done.returncode == 65 and Q in done.stderr and not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("token, number, words", [
    ("Ġt", 5000, ["Ġt", "does not fit"]), ("Ġt", 5, ["same id"]), ("Ġt", None, ["merges"]),
    ("Ġt", "7", ["Ġt"]), ("Ġt", -1, ["Ġt"])])
def test_bad_vocabulary(tmp_path, token, number, words):
    folder = without_weights(tmp_path)
    shutil.copy(TINY / "model.safetensors", folder)
    vocab = json.loads((folder / "vocab.json").read_text())
    del vocab[token]
    if number is not None:
        vocab[token] = number
    (folder / "vocab.json").write_text(json.dumps(vocab))
    refused(folder, tmp_path / "out.gguf", *words)


def test_long_tokens_and_lists(tmp_path):
    """What the engine would not load is not written."""
    folder = without_weights(tmp_path, ("tokenizer.json",))
    shutil.copy(TINY / "model.safetensors", folder)
    (folder / "added_tokens.json").write_text(json.dumps({"x" * 512: 880}))
    out = tmp_path / "out.gguf"
    assert converted(folder, out).keys["tokenizer.ggml.tokens"][880] == "x" * 512
    run("generate", "--model", out, "--max-tokens", 2, "--", "hello", check=0)
    out.unlink()
    (folder / "added_tokens.json").write_text(json.dumps({"x" * 513: 880}))
    refused(folder, out, "makes no sense")
    (folder / "added_tokens.json").unlink()
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"additional_special_tokens": ["x"] * 5000}))
    refused(folder, out, "special tokens")


@pytest.mark.parametrize("added, fits", [({"<mask>": 881}, True), ({"<mask>": 880}, True),
                                         ({"<more>": 880}, True), ({"<more>": 881}, False)])
def test_added_tokens(tmp_path, added, fits):
    """Published checkpoints add <mask> right behind the model's last row."""
    folder = without_weights(tmp_path, ("tokenizer.json",))
    shutil.copy(TINY / "model.safetensors", folder)
    (folder / "added_tokens.json").write_text(json.dumps(added))
    if not fits:
        refused(folder, tmp_path / "out.gguf", "<more>", "does not fit")
        return
    tokens = converted(folder, tmp_path / "out.gguf").keys["tokenizer.ggml.tokens"]
    name, number = next(iter(added.items()))
    assert len(tokens) == 881 and (number == 881 or tokens[number] == name)


def test_existing_output_survives(tmp_path):
    out = tmp_path / "out.gguf"
    out.write_bytes(b"mine")
    folder = without_weights(tmp_path)
    refused(folder, out)
    assert out.read_bytes() == b"mine"
    converted(TINY, out)
