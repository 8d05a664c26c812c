#!/usr/bin/env python3
"""The original's pattern: Python processes that take prompts from a queue and put replies into one.

    bench/original_pattern.py CHECKPOINT --workers N --threads N --prompts FILE

A worker does what the original's does: get(timeout=1), tokenize, generate() with the checkpoint's
defaults and 100 to 127 new tokens (the original asks for 300, which the model's 128 positions do
not hold), batch_decode, put.  The clock runs from the first prompt put, with all models loaded, to
the last reply taken.  One JSON object on stdout; tokens without start and end token.
"""

import argparse
import json
import multiprocessing
import pathlib
import queue
import time


class InfWorker:
    def __init__(self, q_in, q_out, end_ev, ready, folder, threads):
        self.q_in, self.q_out, self.end_ev = q_in, q_out, end_ev
        self.ready, self.folder, self.threads = ready, folder, threads

    def infer(self, idx):
        model, tokenizer = self._start_model()
        self.ready.wait()
        while True:
            try:
                prompt, number = self.q_in.get(timeout=1)
            except queue.Empty:
                if self.end_ev.is_set() or not multiprocessing.parent_process().is_alive():
                    break
                continue
            reply, tokens = self._respond(prompt, model, tokenizer)
            reply = str(reply[0]).strip("<s>").strip("</s>")
            self.q_out.put((prompt, number, reply, idx, tokens))

    def _start_model(self):
        import torch
        import transformers
        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(self.threads)
        self.special = {0, 1, 2}
        return (transformers.BlenderbotForConditionalGeneration.from_pretrained(
                    self.folder, dtype=torch.float32).eval(),
                transformers.AutoTokenizer.from_pretrained(self.folder))

    def _respond(self, prompt, model, tokenizer):
        input_ids = tokenizer([prompt], return_tensors="pt")
        output = model.generate(**input_ids, min_new_tokens=100, max_new_tokens=127)
        return (tokenizer.batch_decode(output),
                sum(token not in self.special for token in output[0].tolist()))


def take(q_out, workers):
    while True:
        try:
            return q_out.get(timeout=5)
        except queue.Empty:
            if not all(worker.is_alive() for worker in workers):
                raise SystemExit("a worker died") from None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompts", type=pathlib.Path, required=True)
    args = parser.parse_args()
    prompts = args.prompts.read_text(encoding="utf-8").splitlines()
    context = multiprocessing.get_context("spawn")
    q_in, q_out, end_ev = context.Queue(), context.Queue(), context.Event()
    ready = context.Barrier(args.workers + 1)
    workers = [context.Process(target=InfWorker(q_in, q_out, end_ev, ready, args.folder,
                                                args.threads).infer, args=(i,), daemon=True)
               for i in range(args.workers)]
    for worker in workers:
        worker.start()
    ready.wait(600)
    begin = time.monotonic()
    for number, prompt in enumerate(prompts):
        q_in.put((prompt, number))
    replies = [take(q_out, workers) for _ in prompts]
    seconds = time.monotonic() - begin
    end_ev.set()
    for worker in workers:
        worker.join()
    print(json.dumps({"prompts": len(replies), "tokens": sum(reply[4] for reply in replies),
                      "seconds": seconds}))


if __name__ == "__main__":
    main()
