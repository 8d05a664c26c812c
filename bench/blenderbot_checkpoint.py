#!/usr/bin/env python3
"""Writes a checkpoint of Blenderbot-400M-distill's shape with random weights, the same each time.

    bench/blenderbot_checkpoint.py FOLDER [--seed N]

Needs torch and transformers (bench/requirements.txt).  The layout is a present save_pretrained():
model.safetensors (f32, 1.4 GiB), config.json, generation_config.json, and the tokenizer's
tokenizer.json, vocab.json and merges.txt.  Nothing is written where a whole checkpoint of this
script is already.
"""

import argparse
import json
import pathlib
import shutil
import sys

import torch
from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration, GenerationConfig

VERSION = 1  # of what this script writes
DATA = pathlib.Path(__file__).resolve().parent.parent / "tests" / "data" / "blenderbot" / "tiny"
VOCABULARY = 8008
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]

MODEL = {"vocab_size": VOCABULARY, "max_position_embeddings": 128, "d_model": 1280,
         "encoder_layers": 2, "decoder_layers": 12, "encoder_attention_heads": 32,
         "decoder_attention_heads": 32, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 5120,
         "activation_function": "gelu", "scale_embedding": True, "pad_token_id": 0,
         "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
         "forced_eos_token_id": 2, "dropout": 0.0}
GENERATION = {"num_beams": 10, "length_penalty": 0.65, "min_length": 20, "max_length": 60,
              "no_repeat_ngram_size": 3, "encoder_no_repeat_ngram_size": 3, "bos_token_id": 1,
              "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1,
              "forced_eos_token_id": 2}

# How wide the weights are drawn.  With narrower ones (0.02) the embedding of the last token decides,
# and every reply is one word over and over; and the scores would be nearly the same for all tokens,
# which no trained model's are: hence the last norm's weight.
WIDTH, LAST_NORM = 0.07, 4.0


def vocabulary():
    """({token: id}, [merges]): the small model's, and words joined of its pieces."""
    known = json.loads((DATA / "vocab.json").read_text(encoding="utf-8"))
    merges = [tuple(line.split(" ")) for line in
              (DATA / "merges.txt").read_text(encoding="utf-8").splitlines()[1:] if line]
    bytes_ = [t for t in sorted(known, key=known.get) if len(t) == 1]
    tokens = SPECIAL + bytes_ + ["".join(pair) for pair in merges]
    made, words = set(tokens), ["".join(pair) for pair in merges]
    for length in range(2 * len(words)):  # pairs of pieces, the most frequent first
        for first in range(max(0, length - len(words) + 1), min(length + 1, len(words))):
            left, right = words[first], words[length - first]
            if len(tokens) == VOCABULARY - 1:
                break
            if right.startswith("Ġ") or left + right in made or not (left + right)[1:].isalpha():
                continue
            made.add(left + right)
            tokens.append(left + right)
            merges.append((left, right))
    return {token: i for i, token in enumerate(tokens + ["<mask>"])}, merges


def write_tokenizer(folder):
    vocab, merges = vocabulary()
    if len(vocab) != VOCABULARY:
        raise SystemExit(f"the vocabulary has {len(vocab)} tokens, not {VOCABULARY}")
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    whole = json.loads((DATA / "tokenizer.json").read_text(encoding="utf-8"))
    whole["model"] |= {"vocab": vocab, "merges": merges}
    for token in whole["added_tokens"]:
        token["id"] = vocab[token["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False), encoding="utf-8")
    shutil.copy(DATA / "tokenizer_config.json", folder / "tokenizer_config.json")


@torch.no_grad()
def draw_weights(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.fill_(LAST_NORM if name == "model.decoder.layer_norm.weight" else 1.0)
        elif name.endswith("bias"):
            weight.normal_(0.0, 0.02, generator=generator)
        else:
            narrow = "shared" in name or "embed" in name
            weight.normal_(0.0, 0.02 if narrow else WIDTH, generator=generator)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()
    stamp, what = args.folder / "made-by.json", {"version": VERSION, "seed": args.seed}
    if stamp.exists() and json.loads(stamp.read_text()) == what:
        return
    args.folder.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    write_tokenizer(args.folder)
    model = BlenderbotForConditionalGeneration(BlenderbotConfig(**MODEL)).eval()
    draw_weights(model, args.seed)
    model.generation_config = GenerationConfig(**GENERATION)
    model.save_pretrained(args.folder, max_shard_size="20GB")
    stamp.write_text(json.dumps(what))


if __name__ == "__main__":
    sys.exit(main())
