#!/usr/bin/env python3
"""The measures of docs/BENCHMARKS.md on this machine, each beside its aim.

Every ratio is made of two sides measured in turns within one run; medians are reported, with the
number of samples.  A table goes to stdout, progress to stderr, --json FILE takes all figures.
"""

import argparse
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import httpx

import blenderbot
import figures
import gateway
import processes
import telemetry
from common import ROOT, Report, load, prompts_file, say, service
from harness import MODEL, WYVERN, Service, free_ports, run_json

REPLY = 200    # tokens of a reply where speed is measured: the mean of the original's 100 to 300
STEP_MS = 20   # of the fake model where CPU is measured: what a worker with 16 slots needs


# ---- 105 prompts over four workers on two nodes ----

def spread(workers, key):
    """How far, in percent, the worker that is farthest off is from the mean."""
    values = [w[key] for w in workers]
    mean = statistics.mean(values)
    return 100 * max(abs(v / mean - 1) for v in values)


class Records:
    """The records that the broker republishes while a load runs."""

    def __init__(self, up):
        self.broker = up.broker("setup")
        self.broker.subscribe("live.*.*")
        self.broker.flush()
        self.stop = threading.Event()
        self.spans = {}
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self):
        while not self.stop.is_set():
            for message in self.broker.messages(lambda got: bool(got), 0.5):
                record = message.json()
                self.spans[record["id"]] = record["finished_at"] - record["started_at"]

    def longest(self):
        time.sleep(0.6)  # what is still on its way
        self.stop.set()
        self.thread.join()
        self.broker.close()
        return max(self.spans.values())


def measure_shares(report, args):
    figures = {"busy": [], "tokens": [], "slot": [], "finish": [], "wrong": [], "rate": []}
    with service(model=MODEL, nodes=2, workers=4, slots=4, node_net=None) as up:
        for number in range(args.runs):
            say(f"105 prompts, run {number + 1} of {args.runs}")
            records = Records(up)
            try:
                result = load(up, "--repeat", "7", "--min-tokens", "100", "--max-tokens", "300")
            finally:
                longest = records.longest()
            workers = result["workers"]
            figures["busy"].append(spread(workers, "busy_seconds"))
            figures["tokens"].append(spread(workers, "tokens"))
            figures["slot"].append(spread(workers, "slot_seconds"))
            ends = [w["last_end"] for w in workers]
            figures["finish"].append((max(ends) - min(ends)) / longest)
            figures["wrong"].append(result["sent"] - result["answered"] + result["failed"] +
                                    result["duplicates"] + (len(workers) != 4) +
                                    (result["sent"] != 105))
            figures["rate"].append(result["tokens_per_second"])
        measure_resident(report, up)
    note = f"worst of {args.runs} runs, 4 workers × 4 slots, 2 nodes"
    report.add("105 prompts: not answered exactly once", sum(figures["wrong"]), "", 0,
               f"{args.runs} runs", samples=figures["wrong"])
    for name, key, aim in (("busy time", "busy", 10), ("tokens", "tokens", 15),
                           ("slot-seconds", "slot", 15)):
        report.add(f"105 prompts: {name}, farthest from the mean", max(figures[key]), "%", aim,
                   note, samples=figures[key])
    report.add("105 prompts: finish spread ÷ longest prompt", max(figures["finish"]), "", 1, note,
               samples=figures["finish"])
    report.add("105 prompts: rate", statistics.median(figures["rate"]), "tokens/s", None,
               "median", samples=figures["rate"])


def measure_resident(report, up):
    """After the load: what stays resident, file pages and shared libraries included."""
    roles = processes.role_pids(up.family)
    for role, name in (("gateway", "gateway"), ("respond", "response worker"),
                       ("telemetry", "telemetry worker")):
        values = [processes.resident_mib(pid) for pid in roles[role]]
        report.add(f"resident: {name}", max(values), "MiB", 24, "RSS after the load, largest",
                   samples=values)
    beyond = []
    for worker in up.workers():
        logs = [p for p in up.state_dir.glob("logs/*.log") if "infer" in p.name]
        sizes = None
        for path in logs:
            for line in path.read_text(errors="replace").splitlines():
                if "model.loaded" in line:
                    sizes = [int(v) for v in re.findall(r"_bytes=(\d+)", line)]
        beyond.append(processes.resident_mib(worker["pid"]) - sum(sizes) / (1 << 20))
    report.add("resident: inference worker beyond model, KV and compute buffers", max(beyond),
               "MiB", 64, "RSS less the bytes of its model.loaded line, largest", samples=beyond)


# ---- how greedily slots are filled ----

def measure_makespan(report, args):
    draw = random.Random(4)
    sizes = [draw.randint(5, 80) for _ in range(200)]
    work_s = sum(sizes) * 0.005
    ratios, inside = [], []
    with service(model="fake:tokens=10,delay_ms=5", workers=4, slots=1) as up:
        path = prompts_file(up, [f"job{i} tokens={n} delay_ms=5" for i, n in enumerate(sizes)])
        for _ in range(args.runs):
            result = load(up, "--prompts", path, "--repeat", "1", "--min-tokens", "1",
                          "--max-tokens", "100")
            if result["answered"] != len(sizes):
                raise SystemExit("bench: not all jobs were answered")
            ratios.append(result["seconds"] / (work_s / 4))
            workers = result["workers"]
            span = max(w["last_end"] for w in workers) - min(w["first_start"] for w in workers)
            inside.append(span / (work_s / 4))
    report.add("200 jobs, 4 slots: makespan ÷ (work ÷ 4)", statistics.median(ratios), "", 1.05,
               f"first sent to last answered, median of {args.runs}", samples=ratios)
    report.add("200 jobs, 4 slots: first start to last end ÷ (work ÷ 4)",
               statistics.median(inside), "", None, "the same runs", samples=inside)


# ---- against llama-batched-bench ----

def prompt_tokens(text):
    return len(run_json("generate", "--quiet", "--model", MODEL, "--json", "--max-tokens", "1",
                        text)["input_ids"])


def run_peer(args, slots, tokens):
    context = slots * -(-(tokens + REPLY + 32) // 256) * 256
    out = subprocess.run(
        [args.peer, "-m", MODEL, "-c", str(context), "-b", "2048", "-ub", "512",
         "-npp", str(tokens), "-ntg", str(REPLY), "-npl", str(slots),
         "-t", str(len(os.sched_getaffinity(0))), "--output-format", "jsonl"],
        check=True, capture_output=True, text=True)
    result = json.loads(next(ln for ln in out.stdout.splitlines() if ln.startswith("{")))
    return slots * REPLY / (result["t_pp"] + result["t_tg"])


def run_ours(up, path, slots):
    result = load(up, "--prompts", path, "--repeat", "1", "--min-tokens", REPLY,
                  "--max-tokens", REPLY)
    worker, = result["workers"]
    if worker["tokens"] != slots * REPLY:
        raise SystemExit(f"bench: {worker['tokens']} tokens, not {slots * REPLY}")
    return worker["tokens"] / result["seconds"]


def measure_rate(report, args):
    if not os.access(args.peer, os.X_OK):
        say("no llama-batched-bench: its measure is left out")
        return
    for slots in (8, 16):
        lines = [f"{i * 37 + 11} apples, rivers, stones and clouds: tell me what you know of all of "
                 "them, one after the other, and do not stop early." for i in range(slots)]
        tokens = round(statistics.mean(prompt_tokens(line) for line in lines[:3]))
        ratios, ours, peer = [], [], []
        with service(model=MODEL, workers=1, slots=slots) as up:
            path = prompts_file(up, lines)
            run_ours(up, path, slots)  # warm
            for number in range(args.pairs):
                say(f"{slots} streams, pair {number + 1} of {args.pairs}")
                sides = [lambda: peer.append(run_peer(args, slots, tokens)),
                         lambda: ours.append(run_ours(up, path, slots))]
                for side in sides if number % 2 == 0 else reversed(sides):
                    side()
                ratios.append(ours[-1] / peer[-1])
        report.add(f"service ÷ llama-batched-bench, {slots} streams", statistics.median(ratios),
                   "", 0.88,
                   f"reply tokens/s of whole requests over HTTP ({tokens} in, {REPLY} out): "
                   f"{statistics.median(ours):.0f} and {statistics.median(peer):.0f}, "
                   f"median ratio of {args.pairs} pairs", least=True, samples=ratios)


# ---- from accepted to claimed ----

def measure_claim(report, args):
    with service(model="fake:tokens=1,delay_ms=1", workers=1, slots=4) as up:
        out = subprocess.run([args.build / "bench" / "claim_bench", str(up.port),
                              up.state_dir / "service.ini", str(args.rounds)],
                             check=True, capture_output=True, text=True)
    figures = json.loads(out.stdout)
    report.add("accepted → claimed ÷ bare request/reply", figures["ratio"], "", 2,
               f"medians of {figures['rounds']}, in turns, an idle worker: "
               f"{figures['claim_p50_us']:.0f} and {figures['bare_p50_us']:.0f} µs",
               samples=[figures])
    report.add("accepted → claimed ÷ bare request/reply that follows another at once",
               figures["claim_p50_us"] / figures["bare_at_once_p50_us"], "", None,
               f"{figures['bare_at_once_p50_us']:.0f} µs: everybody is still awake")


# ---- from nothing to the first token ----

def first_token_s():
    MODEL.read_bytes()  # into the page cache
    port = free_ports(1)
    body = {"model": "default", "stream": True, "max_tokens": 8,
            "messages": [{"role": "user", "content": "Good morning!!!"}]}
    with tempfile.TemporaryDirectory(prefix="wyvern-bench-") as folder:
        begin = time.monotonic()
        up = Service(folder, model=MODEL, workers=None, port=port)
        try:
            while not up.ready():
                time.sleep(0.005)
            ready = time.monotonic() - begin
            with httpx.stream("POST", up.url + "/v1/chat/completions", json=body, timeout=60,
                              trust_env=False) as reply:
                for line in reply.iter_lines():
                    if '"content":"' in line and '"content":""' not in line:
                        first = time.monotonic() - begin
                        break
            up.stop(60)
        finally:
            up.kill()
    return first, ready


def measure_start(report, args):
    times = [first_token_s() for _ in range(args.runs)]
    firsts = [first for first, _ in times]
    report.add("wyvern up → first token", statistics.median(firsts), "s", 3,
               f"median of {args.runs}; ready after "
               f"{statistics.median(r for _, r in times):.2f} s; model in the page cache",
               samples=firsts)


# ---- CPU outside the model ----

def cpu_per_token(up, path, limit):
    roles = processes.role_pids(up.family)
    names = ("gateway", "infer", "respond", "broker")
    before = {n: sum(map(processes.cpu, roles[n])) for n in names}
    result = load(up, "--prompts", path, "--repeat", "1", "--min-tokens", "1", "--max-tokens", limit)
    after = {n: sum(map(processes.cpu, roles[n])) for n in names}
    tokens = sum(w["tokens"] for w in result["workers"])
    return ({n: (after[n] - before[n]) * 1e6 / tokens for n in names}, result["tokens_per_second"])


def measure_cpu(report, args):
    """The fake model: all that worker and gateway do is outside the model."""
    cases = ((f"16 streams, a step each {STEP_MS} ms", 16, STEP_MS, 600, 50),
             ("16 streams, a step each ms", 16, 1, 4000, None))
    with service(model="fake:tokens=10,delay_ms=5", workers=1, slots=16) as up:
        for name, slots, delay_ms, tokens, aim in cases:
            path = prompts_file(up, [f"t{i} tokens={tokens} delay_ms={delay_ms}"
                                     for i in range(slots)])
            runs = [cpu_per_token(up, path, tokens) for _ in range(min(3, args.runs))]
            both = [use["gateway"] + use["infer"] for use, _ in runs]
            middle = {n: statistics.median(use[n] for use, _ in runs) for n in runs[0][0]}
            report.add(f"CPU per token, worker + gateway, {name}", statistics.median(both), "µs", aim,
                       f"worker {middle['infer']:.0f}, gateway {middle['gateway']:.0f} (broker "
                       f"{middle['broker']:.0f}) at {statistics.median(r for _, r in runs):.0f} "
                       f"tokens/s, median of {len(runs)}", samples=both)


def model_outside_us(args):
    """CPU of the engine's own thread outside llama_decode: sampling, text, bookkeeping."""
    out = subprocess.run([args.build / "bench" / "engine_bench", MODEL, "32", "64", "16"],
                         check=True, capture_output=True, text=True)
    return json.loads(out.stdout)["outside_us"]


def measure_cpu_real(report, args):
    """The real model: every thread of the worker but those that compute, and the gateway; what the
    model's thread does besides computing is measured without a service."""
    slots, threads = 16, len(os.sched_getaffinity(0))
    with service(model=MODEL, workers=1, slots=slots) as up:
        roles = processes.role_pids(up.family)
        worker, gateway = roles["infer"][0], roles["gateway"][0]
        before, before_gateway = processes.threads_cpu(worker), processes.cpu(gateway)
        path = prompts_file(up, [f"Story number {i}, please." for i in range(slots)])
        result = load(up, "--prompts", path, "--repeat", "1", "--min-tokens", REPLY,
                      "--max-tokens", REPLY)
        used = sorted((v - before.get(t, 0) for t, v in processes.threads_cpu(worker).items()),
                      reverse=True)
        tokens = sum(w["tokens"] for w in result["workers"])
        loop_us = sum(used[threads:]) * 1e6 / tokens
        gateway_us = (processes.cpu(gateway) - before_gateway) * 1e6 / tokens
    outside_us = model_outside_us(args)
    report.add("CPU per token, worker + gateway, the real model, 16 streams",
               loop_us + outside_us + gateway_us, "µs", 50,
               f"worker's loop and broker threads {loop_us:.0f}, model's thread outside decode "
               f"{outside_us:.0f}, gateway {gateway_us:.0f}, at "
               f"{result['tokens_per_second']:.0f} tokens/s")


MEASURES = {"shares": measure_shares, "makespan": measure_makespan, "rate": measure_rate,
            "claim": measure_claim, "start": measure_start, "cpu": measure_cpu,
            "cpu-real": measure_cpu_real, "figures": figures.measure,
            "telemetry": telemetry.measure, "latency": gateway.measure_latency,
            "completions": gateway.measure_completions, "idle": gateway.measure_idle,
            "leave": gateway.measure_leave, "resume": gateway.measure_resume,
            "blenderbot": blenderbot.measure,
            "blenderbot-service": blenderbot.measure_service}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=lambda p: pathlib.Path(p).absolute(), default=ROOT / "build")
    parser.add_argument("--peer", help="llama-batched-bench of the same libllama")
    parser.add_argument("--only", help="of: " + ",".join(MEASURES))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=200)
    blenderbot.add_options(parser)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    args.peer = args.peer or str(args.build / "peers" / "llama-batched-bench")
    names = args.only.split(",") if args.only else list(MEASURES)
    unknown = [name for name in names if name not in MEASURES]
    if unknown or args.runs < 1 or args.pairs < 1 or args.rounds < 1:
        parser.error(f"no measure {unknown[0]}" if unknown else "counts begin at 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that services are stopped
    report = Report()
    begin_load = os.getloadavg()[0]
    if begin_load > 0.5:
        say(f"others are at work here (load {begin_load:.1f}): times will be longer than they need be")
    for name in names:
        MEASURES[name](report, args)
    print(report.table())
    print(f"\n{len(os.sched_getaffinity(0))} CPUs, load before {begin_load:.1f}, {WYVERN.name}, "
          f"{MODEL.name}")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(
            {"cpus": len(os.sched_getaffinity(0)), "load_before": begin_load,
             "rows": report.rows}, indent=1) + "\n")
    return 1 if any(row["met"] is False for row in report.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
