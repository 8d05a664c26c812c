"""Blenderbot on ggml against Hugging Face's generate(), with a random checkpoint of the 400M shape:
tokens per second, how near to what the memory gives, peak memory, and what quantising costs."""

import collections
import json
import os
import pathlib
import re
import statistics
import subprocess
import tempfile

import processes
from common import ROOT, load, say, service
from checkpoints import Gguf  # behind common, which says where the tests' modules are
from harness import WYVERN

CACHE = ROOT / ".cache" / "blenderbot-400m-random"
FIXTURES = ROOT / "tests" / "data" / "blenderbot"
THREADS = len(os.sched_getaffinity(0))
REPLY = 40  # new tokens, on both sides
TYPES = "f32", "q8_0", "q4_0"

GREEDY = {"num_beams": 1, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
          "min_new_tokens": REPLY, "max_new_tokens": REPLY}
BEAMS = {"min_new_tokens": REPLY, "max_new_tokens": REPLY}  # all else: the checkpoint's defaults
# No rule changes a token's probability, and two beams so that the engine keeps the score.
FORCED = {"num_beams": 2, "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0,
          "min_length": 0, "repetition_penalty": 1.0, "forced_bos_token_id": None,
          "forced_eos_token_id": None}

Case = collections.namedtuple("Case", "name kind engine aim")
# Of one group in turns: Hugging Face once, ours once for each case.
Group = collections.namedtuple("Group", "params prompts rows cases")
GROUPS = (
    Group(GREEDY, 1, 1, (Case("greedy, one prompt, f32", "f32", "f32", 2),
                         Case("greedy, one prompt, q8_0", "q8_0", "q8_0", 7),
                         Case("greedy, one prompt, q4_0", "q4_0", "q4_0", 10))),
    Group(BEAMS, 1, 10, (Case("10 beams, one prompt, f32", "f32", "f32", 2.5),
                         Case("10 beams, one prompt, q8_0", "q8_0", "q8_0", 3.5),
                         Case("10 beams, one prompt, q4_0", "q4_0", "q4_0", None))),
    Group(GREEDY, 8, 8, (Case("greedy, eight prompts at once, f32", "f32", "f32 × 8", 1.7),)),
)


def add_options(parser):
    parser.add_argument("--service-workers", type=int, default=1, metavar="N",
                        help="blenderbot-service: our workers")
    parser.add_argument("--service-slots", type=int, default=4, metavar="N",
                        help="blenderbot-service: slots of each")
    parser.add_argument("--service-repeat", type=int, default=7, metavar="N",
                        help="blenderbot-service: times the fifteen prompts, 7")
    parser.add_argument("--all-prompts", action="store_true",
                        help="blenderbot-service: all 105 through the original's pattern too, "
                             "which takes most of an hour on two cores")


# ---- what there must be first ----

def environment():
    """The interpreter with torch, or None."""
    done = subprocess.run([ROOT / "bench" / "make_env.sh"], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        say("no torch and transformers: the rows against Hugging Face are left out")
        return None
    return ROOT / done.stdout.strip()


def peer_settings():
    return os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def checkpoint(python):
    folder = CACHE / "hf"
    if not (folder / "made-by.json").exists():
        say("writing a random checkpoint of the 400M shape, 1.4 GiB")
    subprocess.run([python, ROOT / "bench" / "blenderbot_checkpoint.py", folder], check=True,
                   env=peer_settings(), stderr=subprocess.DEVNULL)
    return folder


def convert(folder, out, kind):
    subprocess.run([WYVERN, "convert", folder, out, "--type", kind], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return out


def prompts():
    """The fifteen that `wyvern load` sends."""
    text = (ROOT / "src" / "verbs" / "prompts.c").read_text(encoding="utf-8")
    lines = re.search(r"built_in\[\] = \{(.*?)\};", text, re.S)[1]
    found = [json.loads(line) for line in re.findall(r'"(?:[^"\\]|\\.)*"', lines)]
    assert len(found) == 15
    return found


class Program:
    """A process that answers a line of JSON with a line of JSON."""

    def __init__(self, *command):
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=peer_settings())
        self.hello = self._read()

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"bench: {self.process.args[0]} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, **job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self._read()

    def peak_mib(self):
        return processes.resident_mib(self.process.pid, "VmHWM")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(60)


def open_engine(args, gguf, slots, threads=THREADS):
    return Program(args.build / "bench" / "blenderbot_bench", gguf, slots, threads)


# ---- what a request must read ----

class Sizes:
    """Bytes of a GGUF's weights: read once a prompt, and once a step."""

    def __init__(self, gguf, config):
        self.once = self.step = 0
        for name, (_, _, raw) in Gguf(gguf).tensors.items():
            if "position_embd" in name:
                continue
            if name.startswith("enc.") or ".cross_attn_k." in name or ".cross_attn_v." in name:
                self.once += len(raw)
            else:
                self.step += len(raw)
        self.cell = 2 * 4 * config["d_model"] * config["decoder_layers"]  # a key and a value

    def request(self, group, prompt_tokens):
        """All steps of a whole request; prompts at once read the weights together."""
        steps = REPLY
        own = group.rows * self.cell * steps * (steps + 1) // 2
        prompt = sum(prompt_tokens) * self.cell * steps
        return self.once * group.prompts + self.step * steps + own + prompt


# ---- tokens per second ----

class Sides:
    """Everything that takes turns."""

    def __init__(self, args, python, folder, ggufs):
        self.peer = Program(python, ROOT / "bench" / "blenderbot_peer.py", folder, THREADS)
        self.reader = subprocess.Popen([args.build / "bench" / "read_bench", str(THREADS)],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.engines = {kind: open_engine(args, ggufs[kind], 1) for kind in TYPES}
        self.engines["f32 × 8"] = open_engine(args, ggufs["f32"], 8)
        config = json.loads((folder / "config.json").read_text())
        self.sizes = {kind: Sizes(ggufs[kind], config) for kind in TYPES}

    def read_rate(self):
        """GB/s"""
        self.reader.stdin.write("\n")
        self.reader.stdin.flush()
        return float(self.reader.stdout.readline())

    def close(self):
        for program in (self.peer, *self.engines.values()):
            program.__exit__()
        self.reader.stdin.close()
        self.reader.wait(60)


def rate(answer, count):
    if answer["tokens"] != count * REPLY:
        raise SystemExit(f"bench: {answer['tokens']} tokens, not {count * REPLY}")
    return answer["tokens"] / answer["seconds"]


class Samples:
    def __init__(self):
        self.ours, self.peer, self.ratio = [], [], []
        self.read = []  # GB/s that a request read
        self.same = 0   # replies of the peer's very tokens


def run_group(sides, group, texts, backwards, found):
    """One pair of each case; found: {case name: Samples}.  Returns ours in f32."""
    answers = {}
    turns = [("peer", sides.peer)] + [(c.engine, sides.engines[c.engine]) for c in group.cases]
    for name, program in reversed(turns) if backwards else turns:
        answers[name] = program.ask(prompts=texts, params=group.params)
    peer = rate(answers["peer"], group.prompts)
    for case in group.cases:
        answer, samples = answers[case.engine], found[case.name]
        ours = rate(answer, group.prompts)
        samples.ours.append(ours)
        samples.peer.append(peer)
        samples.ratio.append(ours / peer)
        needed = sides.sizes[case.kind].request(group, answer["prompt_tokens"])
        samples.read.append(needed / answer["seconds"] / 1e9)
        samples.same += sum(a == b for a, b in zip(answer["ids"], answers["peer"]["ids"]))
    return answers[group.cases[0].engine]["ids"]


def warm(sides):
    short = {"min_new_tokens": 8, "max_new_tokens": 8}
    for group in GROUPS:
        texts = prompts()[:group.prompts]
        for program in [sides.peer] + [sides.engines[case.engine] for case in group.cases]:
            program.ask(prompts=texts, params=group.params | short)


def run_pairs(sides, count):
    """({case name: Samples}, [GB/s], {prompt: f32's replies})"""
    found = {case.name: Samples() for group in GROUPS for case in group.cases}
    texts, replies, speeds = prompts(), collections.defaultdict(list), []
    warm(sides)
    for number in range(count):
        say(f"Blenderbot, pair {number + 1} of {count}")
        speeds.append(sides.read_rate())
        for group in GROUPS:
            mine = [texts[(number + k) % len(texts)] for k in range(group.prompts)]
            ids = run_group(sides, group, mine, number % 2 == 1, found)
            for text, reply in zip(mine, ids):
                if reply not in replies[text]:
                    replies[text].append(reply)
    return found, speeds, replies


def report_pairs(report, found, speeds, versions):
    speed = statistics.median(speeds)
    report.add("memory: read by all cores together", speed, "GB/s", None,
               f"a sum over 1 GiB of floats, median of {len(speeds)}, between the pairs",
               samples=speeds)
    for group in GROUPS:
        for case in group.cases:
            samples = found[case.name]
            ours, peer, read = map(statistics.median, (samples.ours, samples.peer, samples.read))
            note = (f"{ours:.1f} and {peer:.1f} tok/s, median of {len(samples.ratio)} pairs; ours "
                    f"reads {read:.1f} GB/s, {100 * read / speed:.0f}% of the memory's")
            if case.kind == "f32":
                note += f"; {samples.same} of {group.prompts * len(samples.ratio)} replies the same"
            report.add(f"{case.name} ÷ Hugging Face f32", statistics.median(samples.ratio), "",
                       case.aim, note, least=True,
                       samples=[{"ratio": r, "ours_per_s": o, "peer_per_s": p, "read_gb_per_s": g}
                                for r, o, p, g in zip(samples.ratio, samples.ours, samples.peer,
                                                      samples.read)])
    say(f"Hugging Face: torch {versions['torch']}, transformers {versions['transformers']}")


def report_peaks(report, sides):
    names = {"f32 × 8": "f32, eight slots"}
    for kind, engine in sides.engines.items():
        name = names.get(kind, f"{kind}, one slot")
        report.add(f"peak memory: engine, {name}", engine.peak_mib(), "MiB", None,
                   "VmHWM, loading included")
    report.add("peak memory: Hugging Face, f32", sides.peer.peak_mib(), "MiB", None,
               "the same; the checkpoint's mapped file included")


# ---- what quantising costs ----

def nats(engine, replies, end=2):
    """(sum of -log p, tokens) of replies under a model; [(prompt, ids with start and end)]."""
    total, count = 0.0, 0
    for text, ids in replies:
        forced = [token for token in ids[1:] if token != end]
        total -= engine.ask(prompts=[text], forced=[forced], params=FORCED)["scores"][0]
        count += len(forced)
    return total, count


def reference():
    """For each small model: [(prompt, mode's name, its params, ids)]"""
    found = {}
    for name in ("tiny", "tiny-bin"):
        modes = json.loads((FIXTURES / name / "modes.json").read_text())["modes"]
        with (FIXTURES / name / "expected.jsonl").open(encoding="utf-8") as lines:
            found[name] = [(line["prompt"], mode, params, line["generate"][mode]["output_ids"])
                           for line in map(json.loads, lines) for mode, params in modes.items()]
    return found


def measure_small(args, folder, kind):
    """({mode: [is it the reference's, …]}, {mode: [-log p of the reference's replies, tokens]})"""
    same, losses = collections.defaultdict(list), {"default": [0.0, 0], "full": [0.0, 0]}
    for name, rows in reference().items():
        gguf = convert(FIXTURES / name, folder / f"{name}.gguf", kind)
        with open_engine(args, gguf, 1, threads=1) as engine:  # too small for more
            for text, mode, params, ids in rows:
                same[mode].append(engine.ask(prompts=[text], params=params)["ids"][0] == ids)
            for wanted, sums in losses.items():
                loss, tokens = nats(engine, [(text, ids) for text, mode, _, ids in rows
                                             if mode == wanted])
                sums[0] += loss
                sums[1] += tokens
    return same, losses


def report_small(report, args):
    say("the small models, quantised")
    base = None
    with tempfile.TemporaryDirectory(prefix="wyvern-bench-") as folder:
        for kind in ("f32", "f16", "q8_0", "q4_0"):
            same, losses = measure_small(args, pathlib.Path(folder), kind)
            each = {mode: loss / tokens for mode, (loss, tokens) in losses.items()}
            base = base or each
            hits = [hit for mode in same.values() for hit in mode]
            modes = ", ".join(f"{mode} {sum(own)}" for mode, own in same.items())
            loss = ", ".join(f"{mode} {each[mode] - base[mode]:+.4f}" for mode in each)
            if kind == "f32":
                loss = ", ".join(f"{mode} {each[mode]:.4f} its own" for mode in each)
            report.add(f"small trained models, {kind}: reference outputs token for token",
                       100 * statistics.mean(hits), "%", 100 if kind == "f32" else None,
                       f"{sum(hits)} of {len(hits)} (of {len(same['default'])} each: {modes}); loss "
                       f"against f32, nats a token of the reference's replies: {loss}", least=True,
                       samples=[{"same": {m: sum(own) for m, own in same.items()}, "nats": each}])


def report_loss(report, args, sides, folder, replies):
    rows = [(text, ids) for text, all_ids in replies.items() for ids in all_ids]
    base = None
    for kind in ("f32", "f16", "q8_0", "q4_0"):
        if kind == "f16":
            with open_engine(args, convert(folder, CACHE / "f16.gguf", kind), 1) as engine:
                loss, tokens = nats(engine, rows)
        else:
            loss, tokens = nats(sides.engines[kind], rows)
        each = loss / tokens
        base = each if base is None else base
        if kind != "f32":
            report.add(f"400M shape, random weights, {kind}: loss against f32", each - base,
                       "nats a token", None,
                       f"over {tokens} tokens of {len(rows)} replies of f32, which itself has "
                       f"{base:.3f}", samples=[{"nats": each, "f32_nats": base}])


# ---- measures ----

def measure(report, args):
    report_small(report, args)
    python = environment()
    if python is None:
        return
    folder = checkpoint(python)
    ggufs = {kind: convert(folder, CACHE / f"{kind}.gguf", kind) for kind in TYPES}
    sides = Sides(args, python, folder, ggufs)
    try:
        found, speeds, replies = run_pairs(sides, args.pairs)
        report_pairs(report, found, speeds, sides.peer.hello)
        report_peaks(report, sides)
        report_loss(report, args, sides, folder, replies)
    finally:
        sides.close()


def run_pattern(python, folder, shape, lines):
    workers, threads = shape
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
        file.flush()
        out = subprocess.run([python, ROOT / "bench" / "original_pattern.py", folder, "--workers",
                              str(workers), "--threads", str(threads), "--prompts", file.name],
                             check=True, stdout=subprocess.PIPE, text=True, env=peer_settings())
    return json.loads(out.stdout)


def shapes():
    """(workers, threads of each) that the original's pattern is tried with."""
    return [(1, THREADS)] + ([(2, THREADS // 2)] if THREADS > 1 else [])


def tokens_per_s(runs):
    return sum(run["tokens"] for run in runs) / sum(run["seconds"] for run in runs)


def run_service(args, gguf):
    with service(model=gguf, workers=args.service_workers, slots=args.service_slots) as up:
        result = load(up, "--repeat", str(args.service_repeat), "--min-tokens", "100",
                      "--max-tokens", "127")
    if result["answered"] != 15 * args.service_repeat:
        raise SystemExit(f"bench: {result['answered']} of {result['sent']} prompts were answered")
    return result


def measure_service(report, args):
    """Before ours both shapes of the pattern, after it the better one once more."""
    python = environment()
    if python is None:
        return
    folder = checkpoint(python)
    gguf = convert(folder, CACHE / "q8_0.gguf", "q8_0")
    lines = prompts()
    runs = {}
    for shape in shapes():
        say(f"the original's pattern, {shape[0]} × {shape[1]} threads, 2 prompts")
        runs[shape] = [run_pattern(python, folder, shape, lines[:2])]
    best = max(runs, key=lambda shape: tokens_per_s(runs[shape]))
    say(f"{15 * args.service_repeat} prompts through the service, 10 beams, q8_0")
    result = run_service(args, gguf)
    more = lines * 7 if args.all_prompts else lines[2:6]
    say(f"the original's pattern, {best[0]} × {best[1]} threads, {len(more)} prompts")
    runs[best].append(run_pattern(python, folder, best, more))
    peer, ours = tokens_per_s(runs[best]), result["tokens_per_second"]
    tried = ", ".join(f"{w} × {t} threads {tokens_per_s(r):.1f}" for (w, t), r in runs.items())
    report.add(f"{result['answered']} prompts through the service, 10 beams, q8_0 ÷ the original's "
               "pattern, f32",
               ours / peer, "", 4,
               f"{ours:.1f} tok/s ({args.service_workers} worker × {args.service_slots} slots, "
               f"{result['seconds']:.0f} s) and {peer:.1f} ({best[0]} worker × {best[1]} threads, "
               f"{sum(run['prompts'] for run in runs[best])} prompts; tried: {tried})", least=True,
               samples=[{"ours_per_s": ours, "ours": result,
                         "peer": [{"workers": w, "threads": t, **run}
                                  for (w, t), list_ in runs.items() for run in list_]}])
