"""What the telemetry worker costs: eight stand-in GPUs, read each second, scraped each five."""

import http.client
import os
import pathlib
import statistics
import tempfile
import time

import processes
from common import say, service

GPUS = 8
WINDOW_S = 60
SCRAPE_EACH_S = 5
SCRAPES = 200
FIGURES = ["util 71 33", "memory 85899345920 12884901888 73014444032", "power 312500",
           "limit 700000", "energy 98765432", "temperature 63", "clock 1980 2619", "ecc 7 2"]


def script():
    lines = [f"{gpu} {figure}" for gpu in range(GPUS) for figure in FIGURES]
    return "\n".join([f"count {GPUS}", *lines]) + "\n"


def thread_seconds(pid):
    """CPU of a process's threads, in nanoseconds' resolution: none of them ends meanwhile."""
    return sum(int((task / "schedstat").read_text().split()[0])
               for task in pathlib.Path(f"/proc/{pid}/task").iterdir()) / 1e9


class Scraper:
    """As Prometheus scrapes: one kept connection, OpenMetrics, gzip."""

    def __init__(self, url):
        host, port = url.removeprefix("http://").removesuffix("/metrics").rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=10)

    def scrape(self, encoding="gzip"):
        begin = time.perf_counter()
        self.connection.request("GET", "/metrics", headers={
            "Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": encoding})
        body = self.connection.getresponse().read()
        return time.perf_counter() - begin, body


def measure(report, args):
    standin = args.build / "standin"
    if not (standin / "libnvidia-ml.so.1").exists():
        say("the stand-in for NVIDIA's library is not built: telemetry is left out")
        return
    with tempfile.TemporaryDirectory(prefix="wyvern-bench-") as folder:
        gpus = pathlib.Path(folder) / "gpus"
        gpus.write_text(script())
        env = {"LD_LIBRARY_PATH": str(standin), "STANDIN_NVML": str(gpus)}
        with service(workers=2, env={**os.environ, **env}) as up:
            pid, = processes.role_pids(up.family)["telemetry"]
            url, = up.metrics_urls()
            scraper = Scraper(url)
            while scraper.scrape("identity")[1].count(b"\nwyvern_gpu_up{") != GPUS:
                time.sleep(0.1)
            say(f"telemetry: {WINDOW_S} s with a scrape each {SCRAPE_EACH_S} s")
            before, begin = thread_seconds(pid), time.monotonic()
            for _ in range(WINDOW_S // SCRAPE_EACH_S):
                scraper.scrape()
                time.sleep(SCRAPE_EACH_S)
            share = 100 * (thread_seconds(pid) - before) / (time.monotonic() - begin)
            times = {how: [1000 * scraper.scrape(how)[0] for _ in range(SCRAPES)]
                     for how in ("gzip", "identity")}
            sizes = {how: len(scraper.scrape(how)[1]) for how in times}
            resident = processes.resident_mib(pid)
    report.add("telemetry worker, 8 GPUs at 1 Hz, a scrape each 5 s", share, "% of a core", 0.5,
               f"all its threads, {WINDOW_S} s; the stand-in library included")
    for how, values in times.items():
        report.add(f"a scrape of 8 GPUs, {how}", statistics.median(values), "ms", 2,
                   f"request to last byte, median of {SCRAPES}, {sizes[how]} bytes",
                   samples=values)
    report.add("resident: telemetry worker with 8 GPUs", resident, "MiB", 24, "RSS")
