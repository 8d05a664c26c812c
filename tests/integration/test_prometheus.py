"""wyvern up with a real Prometheus: it is started, seen, restarted and stopped with the service, and
every panel of every dashboard has an answer while the service works.  Grafana can't be had here: a
stand-in shows that it would be started with files it can read."""

import configparser
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

import prometheus
import promql
from harness import (
    ROOT, WYVERN, Service, Stream, descendants, fake_text, free_ports, kill, mentioning, wait_for)
from prometheus import DASHBOARDS, DEPLOY, Prometheus

PROGRAM = prometheus.program()
PROMTOOL = prometheus.program("promtool")
needs_prometheus = pytest.mark.skipif(PROGRAM is None, reason="no prometheus: scripts/deps.sh check")

GPUS = """count 2
xid 1 0 63
driver 535.54.03
0 uuid GPU-aaaa
0 name Stand-in
0 util 71 33
0 memory 85899345920 12884901888 73014444032
0 power 251000
0 limit 400000
0 energy 1234567
0 temperature 61
0 clock 1410 1215
0 ecc 3 0
1 uuid GPU-bbbb
1 name Stand-in
1 util 64 30
1 memory 85899345920 12884901888 73014444032
1 power 251000
1 limit 400000
1 energy 2234567
1 temperature 62
1 clock 1410 1215
1 ecc 3 0
"""


def options(**more):
    return {"prometheus": True, "prometheus_port": free_ports(1), "prometheus_program": PROGRAM,
            "scrape_interval": 1, **more}


def prometheus_of(service):
    line = re.search(r"watch +(http://\S+) +\(Prometheus\)", service.log_path.read_text())
    assert line, service.logs()
    return Prometheus(line[1])


def wait_runs(service):
    """Ready, and said so: Prometheus sees the service too."""
    service.wait_ready(60)
    wait_for(lambda: "ready    after" in service.log_path.read_text(), "the word ready", 60)
    return prometheus_of(service)


class Load:
    """Prompts without pause, streamed and whole, until stopped."""

    def __init__(self, service, readers=3):
        self.service, self.over, self.errors, self.done = service, False, [], 0
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(readers)]
        for thread in self.threads:
            thread.start()

    def _run(self, number):
        while not self.over and not self.errors:
            try:
                if number:
                    Stream(self.service, f"Count to {number}", max_tokens=24, seed=number).join()
                else:
                    self.service.ask("Say hello", max_tokens=8)
                self.done += 1
            except Exception as error:  # told by the test, not by a thread's death
                self.errors.append(error)

    def stop(self):
        self.over = True
        for thread in self.threads:
            thread.join()


@pytest.fixture(scope="module")
def working(tmp_path_factory, model):
    """(Prometheus, load): the real model on two nodes with two workers and two GPUs, at work."""
    folder = tmp_path_factory.mktemp("working")
    (folder / "gpus").write_text(GPUS)
    env = {"LD_LIBRARY_PATH": str(ROOT / "build" / "standin"),
           "STANDIN_NVML": str(folder / "gpus")}
    (folder / "jobs").mkdir()
    (folder / "jobs" / "0").write_text("4711\n")
    service = Service(folder, model=model, workers=2, env=env, device="cpu:0,cpu:1", nodes=2,
                      job_mapping=folder / "jobs", **options())
    load = None
    try:
        server = wait_runs(service)
        load = Load(service)
        yield server, load
        load.stop()
        assert not load.errors and load.done > 0, load.errors
        assert service.stop() == 0, service.logs()
    finally:
        if load:
            load.stop()
        service.kill()


RANGES = {"percentunit": (0, 1.1), "percent": (0, 100), "celsius": (1, 120), "watt": (1, 1e5),
          "hertz": (1e6, 1e11), "bytes": (0, 1e15), "mbytes": (0, 1e9), "Bps": (0, 1e12),
          "s": (0, 600), "joule": (0, 1e9), "reqps": (0, 1e4), "short": (0, 1e6)}
PANELS = [pytest.param(path, *panel, id=f"{path.stem}-{panel[0]}")
          for path in DASHBOARDS for panel in promql.panels(path)]


@needs_prometheus
@pytest.mark.parametrize("path, title, kind, unit, queries", PANELS)
def test_each_panel_has_an_answer(working, path, title, kind, unit, queries):
    server, load = working
    least, most = (0, 2) if title.startswith("Spread") else RANGES[unit]  # of two workers: 2
    if kind == "heatmap":  # the unit is that of its buckets, their values are counts
        least, most = RANGES["short"]
    for expr in map(promql.filled, queries):
        answer = []

        def fits(expr=expr, answer=answer):
            """Every value: a rate over a moment in which somebody stood still may be too large."""
            answer[:] = [v for v in server.query(expr) if not math.isnan(v[1])]
            return load.errors or answer and all(least <= value <= most for _, value in answer)

        try:
            wait_for(fits, f"an answer to {expr}, {least} to {most}", 40, .2)
        except AssertionError as error:
            raise AssertionError(f"{error}; there is {answer}") from None
        assert not load.errors, load.errors
        if kind == "heatmap":
            assert {"+Inf", "0.5"} <= {labels["le"] for labels, _ in answer}


@needs_prometheus
def test_the_original_figure(working):
    """Every worker has a curve of its own, and so has every node and GPU."""
    server, _ = working
    path, = [p for p in DASHBOARDS if p.stem == "load-balance"]
    by_title = {title: queries for title, _, _, queries in promql.panels(path)}
    for title, label in (("Worker utilisation", "worker"), ("Node load", "instance"),
                         ("GPU utilisation", "uuid")):
        expr = promql.filled(by_title[title][0])
        wait_for(lambda expr=expr, label=label: len({x[label] for x, _ in server.query(expr)}) == 2,
                 f"two curves of {title}", 40)


@needs_prometheus
def test_variables_have_values(working):
    server, _ = working
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] != "query":
                continue
            match, label = re.fullmatch(r"label_values\((.*), (\w+)\)",
                                        variable["definition"]).groups()
            wait_for(lambda match=match, label=label: server.get(
                f"label/{label}/values", **{"match[]": promql.filled(match)}), variable["definition"], 40)


@needs_prometheus
def test_rules_work_and_nothing_is_wrong(working):
    server, _ = working

    def evaluated():
        rules = [r for g in server.get("rules")["groups"] for r in g["rules"]]
        return rules if all(r["health"] != "unknown" for r in rules) else None

    rules = wait_for(evaluated, "the rules", 40)
    assert {r["health"] for r in rules} == {"ok"}
    assert {r["name"] for r in rules if r.get("state") == "firing"} <= {"WyvernDiskNearlyFull"}
    for name in (r["name"] for r in rules if r["type"] == "recording"):
        wait_for(lambda name=name: server.query(name), f"a value of {name}", 30)


def named_metrics():
    """(place, metric) of all that dashboards, rules and alerts name."""
    for path in DASHBOARDS:
        for title, _, _, queries in promql.panels(path):
            for expr in queries:
                for name in promql.metric_names(promql.filled(expr)):
                    yield f"{path.name}: {title}", name
    for path in sorted((DEPLOY / "prometheus").glob("*s.yml")):
        for expr in promql.rule_expressions(path.read_text(encoding="utf-8")):
            for name in promql.metric_names(expr):
                yield path.name, name


def exported(fake):
    urls = wait_for(lambda: all(fake.metrics_urls()) and fake.metrics_urls(), "the nodes' addresses")
    texts = [httpx.get(url, trust_env=False, timeout=30).text
             for url in (*urls, fake.url + "/metrics")]
    return set(re.findall(r"^# TYPE (\S+)", "\n".join(texts), re.M))


def test_each_named_metric_is_exported(fake):
    recorded = set(re.findall(r"record: (\S+)", (DEPLOY / "prometheus" / "rules.yml").read_text()))
    families = exported(fake)
    named = list(named_metrics())
    assert len({name for _, name in named}) > 40  # the names are found at all
    missing = [(place, name) for place, name in named if not promql.family(
        name, families | recorded | promql.OWN_TO_PROMETHEUS)]
    assert not missing


def test_each_exported_family_is_described(fake):
    described = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "METRICS.md").read_text(), re.M))
    assert described == exported(fake)


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool: scripts/deps.sh check")
def test_alerts_as_promtool_sees_them():
    folder = ROOT / "tests" / "data" / "prometheus"
    for command in (["check", "config", DEPLOY / "prometheus" / "prometheus.yml"],
                    ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([PROMTOOL, *command], cwd=folder, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    alerts = re.findall(r"alert: (\w+)", (DEPLOY / "prometheus" / "alerts.yml").read_text())
    tested = re.findall(r"alertname: (\w+)", (folder / "alerts_test.yml").read_text())
    assert set(alerts) == set(tested)


def test_what_is_not_there_is_said_before_anything_starts(tmp_path):
    """A copy of the program, beside which nothing lies."""
    program = shutil.copy(WYVERN, tmp_path / "wyvern")
    env = {"PATH": "/nowhere", "WYVERN_NATS_SERVER": shutil.which("nats-server") or str(
        ROOT / ".deps" / "nats" / "bin" / "nats-server")}
    for options, sentence in (
            (["--prometheus"], "no prometheus was found: run scripts/deps.sh prometheus"),
            (["--prometheus", "--prometheus-program", "/nowhere/it"], "names /nowhere/it"),
            (["--grafana", "--prometheus-program", "/bin/true", "--grafana-program", "/nowhere/it"],
             "--grafana-program names /nowhere/it")):
        done = subprocess.run([program, "up", "--model", "fake:tokens=2", "--state-dir",
                               tmp_path / "s", "--port", "0", "--metrics-port", "0", *options],
                              env={**os.environ, **env}, capture_output=True, text=True, timeout=60,
                              check=False)
        assert done.returncode == 66, done.stderr
        assert sentence in done.stderr
        assert not (tmp_path / "s" / "logs").exists()


def test_deps_says_when_it_can_not_be_had(tmp_path):
    """A copy of the script on a machine without apt, and with promtool alone."""
    for folder in ("scripts", "bin"):
        (tmp_path / folder).mkdir()
    script = shutil.copy(ROOT / "scripts" / "deps.sh", tmp_path / "scripts")
    for tool in ("bash", "dirname", "rm", "mktemp"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    (tmp_path / "bin" / "promtool").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "promtool").chmod(0o755)
    done = subprocess.run([shutil.which("bash"), script, "prometheus"], capture_output=True, text=True,
                          env={"PATH": str(tmp_path / "bin")}, check=False)
    assert done.returncode == 69, done.stderr
    assert "install them in your system's way" in done.stderr
    assert "--prometheus-program" in done.stderr


def test_a_program_that_does_not_start_ends_the_start(start, tmp_path):
    program = tmp_path / "prometheus"
    program.write_text("#!/bin/sh\necho no >&2\nexit 3\n")
    program.chmod(0o755)
    service = start(wait=False, **options(prometheus_program=program))
    assert service.process.wait(60) == 3
    assert "prometheus ended 3 times while starting" in service.log_path.read_text()
    service.check_nothing_left()


@needs_prometheus
def test_ready_is_said_when_it_sees_nodes_at_any_port(start):
    server = wait_runs(start(nodes=2, metrics_port=0, workers=2, **options()))
    assert {x["node"]: v for x, v in server.query('up{job="wyvern-nodes"}')} == {
        "node1": 1, "node2": 1}


def test_what_was_accepted_before_the_start_is_over_is_answered(start, tmp_path):
    """The gateway says that it is ready while Prometheus is waited for; then comes the SIGTERM."""
    program = tmp_path / "prometheus"
    program.write_text("#!/bin/sh\nexec sleep 100\n")
    program.chmod(0o755)
    service = start(workers=1, slots=1, **options(prometheus_program=program))
    worker, = service.workers()
    os.kill(worker["pid"], signal.SIGSTOP)  # neither is answered before the SIGTERM
    streams = [Stream(service, f"s{i} tokens=50 delay_ms=20") for i in range(2)]

    def queued():
        queue = service.status()["queue"]
        return queue["in_flight"] + queue["waiting"] == 2

    try:
        wait_for(queued, "both prompts in the queue")
        assert "ready" not in service.log_path.read_text()
        service.term()
    finally:
        os.kill(worker["pid"], signal.SIGCONT)
    assert service.process.wait(60) == 0, service.logs()
    service.check_nothing_left()
    for i, stream in enumerate(streams):
        stream.join()
        assert stream.error is None and stream.text == fake_text(f"s{i}", 50), stream.error


def test_a_busy_port_is_said(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        service = start(wait=False, **options(prometheus_port=taken.getsockname()[1],
                                              prometheus_program="/bin/true"))
        assert service.process.wait(60) == 69
        assert "--prometheus-port" in service.log_path.read_text()


GRAFANA = """#!%s
import configparser, http.server, json, sys
ini = configparser.ConfigParser(interpolation=None)
path, = [a.partition("=")[2] for a in sys.argv if a.startswith("--config=")]
assert ini.read(path) and "--homepath" in sys.argv

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()
        self.wfile.write(b"{}")

address = (ini["server"]["http_addr"], int(ini["server"]["http_port"]))
http.server.HTTPServer(address, Handler).serve_forever()
""" % sys.executable



@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """(service, Prometheus, port of Grafana): two nodes with the fake engine, open to more."""
    folder = tmp_path_factory.mktemp("watched")
    program = folder / "grafana-server"
    program.write_text(GRAFANA)
    program.chmod(0o755)
    port = free_ports(1)
    more = options(grafana=True, grafana_port=port, grafana_program=program)
    del more["prometheus"]  # comes with Grafana
    service = Service(folder, nodes=2, listen="127.0.0.1", **more)
    try:
        yield service, wait_runs(service), port
        assert service.stop() == 0, service.logs()
    finally:
        service.kill()


@needs_prometheus
def test_it_sees_every_target_before_the_service_is_called_ready(watched):
    service, server, _ = watched
    text = service.log_path.read_text()
    assert text.index("(Prometheus)") < text.index("ready    after")
    assert "does not see" not in text
    wanted = {("wyvern-nodes", f"127.0.0.1:{service.metrics_port}"): "up",
              ("wyvern-nodes", f"127.0.0.1:{service.metrics_port + 1}"): "up",
              ("wyvern-gateway", f"127.0.0.1:{service.port}"): "up"}
    assert set(server.targets()) == set(wanted)
    # One that stood still for a second was not up just then.
    wait_for(lambda: server.targets() == wanted, "all of them up")
    for target in server.get("targets", state="active")["activeTargets"]:
        assert "role" not in target["labels"]


@needs_prometheus
def test_grafana_is_started_with_files_it_can_read(watched):
    service, server, port = watched
    assert httpx.get(f"http://127.0.0.1:{port}/api/health", trust_env=False,
                     timeout=30).status_code == 200
    assert f"http://127.0.0.1:{port}   (Grafana)" in service.log_path.read_text()

    folder = service.state_dir / "grafana"
    ini = configparser.ConfigParser(interpolation=None)
    ini.read(folder / "grafana.ini")
    assert ini["server"]["http_addr"] == "127.0.0.1"
    assert len(ini["security"]["admin_password"]) == 32
    assert (folder / "grafana.ini").stat().st_mode & 0o777 == 0o600
    assert ini["paths"]["provisioning"] == str(folder / "provisioning")
    assert os.path.exists(ini["dashboards"]["default_home_dashboard_path"])
    source = (folder / "provisioning" / "datasources" / "wyvern.yml").read_text()
    assert f"url: '{server.url}'" in source and "timeInterval: 1s" in source
    # the same, but for address and interval, as the file for those who start Grafana by hand
    keys = re.findall(r"^ *-? *(\w+):", source, re.M)
    shipped = DEPLOY / "grafana" / "provisioning" / "datasources" / "wyvern.yml"
    assert keys == re.findall(r"^ *-? *(\w+):", shipped.read_text(), re.M)
    provider = (folder / "provisioning" / "dashboards" / "wyvern.yml").read_text()
    assert f"path: '{DEPLOY}/grafana/dashboards'" in provider


@needs_prometheus
def test_it_is_started_again_and_keeps_what_it_has(watched):
    service, server, _ = watched
    before = wait_for(lambda: server.oldest("wyvern_workers_ready"), "a first value")
    pid, = set(mentioning("--storage.tsdb.path")) & set(descendants(service.process.pid))
    kill(pid)

    def back():
        try:
            return server.oldest("wyvern_workers_ready")
        except (httpx.TransportError, ValueError):
            return None  # it is not there yet, or says in plain text that it starts

    assert wait_for(back, "Prometheus back", 60) == before
    assert service.ask("still here")["choices"]


@needs_prometheus
def test_a_node_that_joins_later_is_scraped(watched, tmp_path):
    service, server, _ = watched
    port = free_ports(1)
    with open(tmp_path / "node.log", "wb") as log:
        node = subprocess.Popen(
            [service.command[0], "node", "--join", service.state_dir / "join.ini", "--node", "late",
             "--workers", "1", "--model", "fake:tokens=20,delay_ms=5", "--metrics-port", str(port),
             "--address", "127.0.0.1", "--state-dir", tmp_path / "late"], stdout=log, stderr=log)
    try:
        wait_for(lambda: server.targets().get(("wyvern-nodes", f"127.0.0.1:{port}")) == "up",
                 "the target", 60, .1)
        wait_for(lambda: server.query('up{node="late"}'), "its first sample")
    finally:
        node.send_signal(signal.SIGTERM)
        assert node.wait(60) == 0
