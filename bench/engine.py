#!/usr/bin/env python3
"""Tokens per second through engine_step() beside llama-batched-bench, same libllama, same file.

    bench/engine.py MODEL --bench PROGRAM --peer PROGRAM [--slots 8,16] [--runs 3]

Runs alternate, because the machine's speed changes from minute to minute; the best run of each side
counts, as anything else on the machine can only make a run slower.  One JSON object on stdout.
"""

import argparse
import json
import os
import subprocess
import sys

PROMPT, REPLY = 32, 128


def run_ours(args, slots):
    out = subprocess.run([args.bench, args.model, str(PROMPT), str(REPLY), str(slots)],
                         check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def run_peer(args, slots):
    out = subprocess.run(
        [args.peer, "-m", args.model, "-c", str(slots * 256), "-b", "2048", "-ub", "512",
         "-npp", str(PROMPT), "-ntg", str(REPLY), "-npl", str(slots),
         "-t", str(args.threads), "--output-format", "jsonl"],
        check=True, capture_output=True, text=True)
    return json.loads(next(line for line in out.stdout.splitlines() if line.startswith("{")))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--bench", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--slots", default="8,16")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    report = []
    for slots in map(int, args.slots.split(",")):
        ours, peer = [], []
        for number in range(args.runs):
            print(f"{slots} slots, run {number + 1} of {args.runs}", file=sys.stderr)
            peer.append(run_peer(args, slots))
            ours.append(run_ours(args, slots))
        tg = max(r["tg_per_s"] for r in ours)
        all_per_s = max(r["all_per_s"] for r in ours)
        peer_tg = max(r["speed_tg"] for r in peer)
        peer_all = max(r["speed"] for r in peer)
        report.append({
            "slots": slots,
            "decode_per_s": tg, "peer_decode_per_s": peer_tg, "decode_ratio": tg / peer_tg,
            "all_per_s": all_per_s, "peer_all_per_s": peer_all, "all_ratio": all_per_s / peer_all,
            "outside_us": min(r["outside_us"] for r in ours),
        })
    json.dump({"threads": args.threads, "prompt": PROMPT, "reply": REPLY, "results": report},
              sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
