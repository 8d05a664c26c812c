"""What counting costs: the share of the worker's and the gateway's CPU that goes into figures.

perf takes samples of both processes with their stacks while 16 streams run; a sample in which a
function of FIGURES stands anywhere, at the top, as a caller, or inlined, counts; /metrics is read each
5 s meanwhile.  Of a presence, which is sent anyway, only what it says of work counts.
"""

import re
import shutil
import statistics
import subprocess
import threading

import httpx

import processes
from common import load, prompts_file, say, service

HERTZ = 4999  # no multiple of the rate at which tokens come
FIGURES = re.compile(
    r"figures_\w+|metrics_\w+|jobs_count_time|model_figures|engine_figures|engine_spent|\w+_kv_held|"
    r"tell_figures|refresh_presence|write_work|heard_attempt|trace_\w+|room_used|write_metrics")


def record(pids, path, run):
    """perf's samples of some processes while run() lasts, as text."""
    # No -g by frame pointers: nothing here is compiled with them.
    perf = subprocess.Popen(
        ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(HERTZ), "--call-graph", "dwarf,2048",
         "-p", ",".join(map(str, pids)), "-o", str(path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        result = run()
    finally:
        perf.terminate()
        perf.wait(30)
    text = subprocess.run(["perf", "script", "-i", str(path), "-F", "pid,ip,sym"],
                          capture_output=True, text=True, check=True).stdout
    return result, text


def share(text):
    """(samples, those of figures, {function: samples}) of what `perf script` wrote."""
    samples = counted = 0
    where = {}
    for block in text.split("\n\n"):
        names = [re.split(r"[+ ]", line.split(None, 1)[1])[0] for line in block.splitlines()
                 if re.match(r"\s+[0-9a-f]+ \S", line)]
        if not names:
            continue
        samples += 1
        mine = [n for n in names if FIGURES.fullmatch(n)]
        counted += bool(mine)
        if mine:
            where[mine[-1]] = where.get(mine[-1], 0) + 1
    return samples, counted, where


def scrape(url, stop):
    """As Prometheus does, each 5 s: writing the figures out is a part of their cost."""
    while not stop.wait(5):
        httpx.get(url + "/metrics", trust_env=False)


def measure(report, args):
    if shutil.which("perf") is None:
        say("no perf: what counting costs is left out")
        return
    with service(model="fake:tokens=10,delay_ms=5", workers=1, slots=16) as up:
        roles = processes.role_pids(up.family)
        path = prompts_file(up, [f"t{i} tokens=600 delay_ms=20" for i in range(16)])
        data = up.state_dir / "perf.data"
        shares, taken = {"gateway": [], "infer": []}, dict.fromkeys(("gateway", "infer"), 0)
        seen = {}
        for role, out in ((r, o) for _ in range(min(3, args.runs)) for r, o in shares.items()):
            stop = threading.Event()
            reader = threading.Thread(target=scrape, args=(up.url, stop))
            reader.start()
            try:
                _, text = record(roles[role], data, lambda: load(
                    up, "--prompts", path, "--repeat", "1", "--min-tokens", "1",
                    "--max-tokens", "600"))
            finally:
                stop.set()
                reader.join()
            samples, counted, where = share(text)
            if samples < 100:
                say(f"perf took {samples} samples only: what counting costs is left out")
                return
            out.append(100 * counted / samples)
            taken[role] += samples
            for name, count in where.items():
                seen[name] = seen.get(name, 0) + count
        dearest = ", ".join(sorted(seen, key=seen.get, reverse=True)[:3]) or "none"
        for role, values in shares.items():
            name = {"infer": "worker"}.get(role, role)
            report.add(f"figures: share of the {name}'s CPU", statistics.median(values), "%", 1,
                       f"{taken[role]} samples, median of {len(values)}; dearest in both: {dearest}",
                       samples=values)
