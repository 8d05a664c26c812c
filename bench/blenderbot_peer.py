#!/usr/bin/env python3
"""Hugging Face's generate() on command: the other side of bench/blenderbot_bench.c.

    bench/blenderbot_peer.py CHECKPOINT THREADS

Says a line when the model is loaded; then one JSON object a line in, one a line out, of the same
fields as blenderbot_bench's: {"prompts": […], "params": {…}} → {"seconds", "tokens", "ids"}.
Several prompts are one padded batch.  The time is of generate() alone.
"""

import json
import sys
import time

import torch
import transformers


def main():
    folder, threads = sys.argv[1], int(sys.argv[2])
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BlenderbotForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32).eval()
    print(json.dumps({"torch": torch.__version__, "transformers": transformers.__version__}),
          flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        batch = tokenizer(job["prompts"], return_tensors="pt", padding=True)
        begin = time.monotonic()
        output = model.generate(**batch, **job.get("params", {}))
        seconds = time.monotonic() - begin
        pad = model.generation_config.pad_token_id
        ids = [[token for token in row if token != pad] for row in output.tolist()]
        print(json.dumps({"seconds": seconds, "tokens": sum(len(row) - 1 for row in ids),
                          "ids": ids}), flush=True)


if __name__ == "__main__":
    main()
