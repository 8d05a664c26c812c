"""`wyvern top` as a person and as a script see it: through a pseudo-terminal, a pipe and JSON; and
the utilisation that `wyvern load` draws."""

import contextlib
import fcntl
import http.server
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time

import pytest

from harness import ROOT, WYVERN, free_ports, run, run_json, wait_for

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LEFT = "\x1b[?7h\x1b[?25h\x1b[?1049l"
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f\x80-\x9f\u202e]")


class Terminal:
    """wyvern top, or another verb, in a terminal of its own, and what is on its screen."""

    def __init__(self, url, columns=80, lines=24, verb=("top",), **env):
        self.master, slave = pty.openpty()
        self.slave = slave  # held open: the last to close it would end the terminal
        self.size(columns, lines)
        self.before = termios.tcgetattr(slave)
        self.raw = b""
        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **env}
        if "NO_COLOR" not in env:
            environment.pop("NO_COLOR", None)

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen([WYVERN, *verb, "--url", url], stdin=slave, stdout=slave,
                                        stderr=slave, env=environment, preexec_fn=own_terminal)

    def size(self, columns, lines):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def keys(self, text):
        os.write(self.master, text.encode())

    def read(self):
        while select.select([self.master], [], [], 0)[0]:
            self.raw += os.read(self.master, 65536)
        return self.raw.decode("utf-8", "replace")

    def frame(self):
        """The lines of the last whole frame, without escapes."""
        frames = self.read().split("\x1b[H\x1b[J")
        last = frames[-1] if len(frames) == 1 or "q leaves" in frames[-1] else frames[-2]
        return [line.rstrip() for line in ESCAPE.sub("", last).replace("\r", "").split("\n")]

    def wait(self, condition, what, timeout=30):
        def holds():
            assert self.process.poll() is None, f"top ended: {self.read()[-2000:]}"
            lines = self.frame()
            return lines if condition("\n".join(lines)) else None

        try:
            return wait_for(holds, what, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n" + "\n".join(self.frame())) from None

    def ended(self, timeout=30):
        """Its status; the terminal must be as it was."""
        wait_for(lambda: self.read() and self.process.poll() is not None, "its end", timeout)
        status = self.process.returncode
        assert termios.tcgetattr(self.slave) == self.before
        output = self.read()
        assert output.count("\x1b[?1049h") == output.count("\x1b[?1049l")
        assert LEFT in output
        return status

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal():
    opened = []

    def launch(*arguments, **options):
        opened.append(Terminal(*arguments, **options))
        return opened[-1]

    yield launch
    for each in opened:
        each.close()


@contextlib.contextmanager
def work(service, count):
    """So many replies that are being made as long as it lasts."""
    ids = [service.client.post("/v1/responses", json={
        "model": "default", "input": f"n{i} tokens=90000 delay_ms=20", "background": True}).json()["id"]
        for i in range(count)]
    try:
        yield
    finally:
        for each in ids:
            service.client.delete(f"/v1/responses/{each}")
        wait_for(lambda: not any(worker["active"] for worker in service.workers()), "free slots")


# ---- the screen ----

def test_screen_shows_the_service(fake, terminal):
    seen = terminal(fake.url, columns=100)
    with work(fake, 4):
        seen.wait(lambda t: "1 node" in t and "4 of 8 slots busy" in t, "busy slots")
        text = "\n".join(seen.wait(lambda t: re.search(r"tokens/s +[1-9]", t)
                                   and re.search(r"load [0-9.]+", t), "tokens to flow"))
    for worker in fake.workers():
        assert worker["id"] in text
    assert "up" in text and "ready" in text and fake.url in text and "2 workers  2 ready" in text
    assert re.search(r"cpu ([0-9]+%|–)", text)  # of the node's metrics
    assert COLOUR.search(seen.read())
    assert not termios.tcgetattr(seen.slave)[3] & (termios.ECHO | termios.ICANON)
    fake.ask("whole")
    seen.wait(lambda t: re.search(r"whole reply +p50 [0-9]", t), "the replies' latency")
    seen.keys("q")
    assert seen.ended() == 0


def test_resizing(fake, terminal):
    seen = terminal(fake.url)
    seen.wait(lambda t: "infer-" in t, "a worker")
    for columns, lines in [(40, 24), (200, 50), (40, 8), (80, 24)]:
        seen.size(columns, lines)
        frame = seen.wait(lambda t: len(t.split("\n")) <= lines and "q leaves" in t
                          and max(map(len, t.split("\n"))) <= columns
                          and ("device" in t) == (columns == 200), f"{columns} × {lines}")
        assert frame[0].startswith("wyvern top  up")
    seen.keys("Q")
    assert seen.ended() == 0


@pytest.mark.parametrize("how", ["ctrl-c", signal.SIGTERM, signal.SIGHUP, signal.SIGSEGV])
def test_leaving_gives_the_terminal_back(fake, terminal, how):
    seen = terminal(fake.url)
    seen.wait(lambda t: "infer-" in t, "a worker")
    if how == "ctrl-c":
        seen.keys("\x03")
    else:
        seen.process.send_signal(how)
    assert seen.ended() == (-how if how == signal.SIGSEGV else 0)


def test_suspending(fake, terminal):
    seen = terminal(fake.url)
    seen.wait(lambda t: "infer-" in t, "a worker")
    seen.process.send_signal(signal.SIGTSTP)
    wait_for(lambda: LEFT in seen.read(), "the other screen to be left")
    wait_for(lambda: termios.tcgetattr(seen.slave) == seen.before, "the terminal as it was")
    stat = f"/proc/{seen.process.pid}/stat"
    wait_for(lambda: open(stat).read().rpartition(")")[2].split()[0] == "T", "top to stop")
    seen.raw = b""
    seen.process.send_signal(signal.SIGCONT)
    seen.wait(lambda t: "infer-" in t, "a worker again")
    seen.keys("q")
    assert seen.ended() == 0


def test_no_colour(fake, terminal):
    seen = terminal(fake.url, NO_COLOR="1")
    seen.wait(lambda t: "infer-" in t, "a worker")
    seen.keys("q")
    assert seen.ended() == 0
    assert set(COLOUR.findall(seen.read())) <= {"\x1b[0m"}  # that of leaving


def test_service_goes_and_comes_back(start, terminal):
    first = start(workers=1)
    seen = terminal(first.url, columns=100)
    seen.wait(lambda t: "infer-" in t and "up" in t.split("\n")[0], "the service")
    assert first.stop() == 0
    seen.wait(lambda t: "No answer for" in t and "can't connect" in t, "it to say so")
    text = "\n".join(seen.wait(lambda t: "no answer" in t.split("\n")[0], "old figures to go"))
    assert re.search(r"– of 4 slots busy", text) and re.search(r"queue +– waiting", text)
    start(workers=1, port=first.port)
    seen.wait(lambda t: "up" in t.split("\n")[0] and "No answer" not in t, "it to be back")
    seen.keys("q")
    assert seen.ended() == 0


def test_nobody_there_at_first(terminal):
    seen = terminal(f"http://127.0.0.1:{free_ports(1)}")
    seen.wait(lambda t: "can't connect" in t and "no answer" in t, "it to say so")
    seen.keys("q")
    assert seen.ended() == 0


# ---- another service than a healthy one ----

HOSTILE = "\x1b]0;owned\x07\r\n\u202e\x9b31mname"


def status_of(nodes, metrics_url, prefix=""):
    workers = [[{"id": f"{prefix}w{n}-{i}", "pid": 1, "state": "ready", "device": HOSTILE,
                 "model": HOSTILE, "slots": 4, "active": 2, "prompts": 1, "tokens": 5,
                 "failed": 0} for i in range(3 if n < 20 else 2)] for n in range(nodes)]
    return {"nodes": [{"name": f"{prefix}n{n}", "address": HOSTILE, "pid": 1, "workers": workers[n],
                       "metrics_url": metrics_url(n)} for n in range(nodes)],
            "response_workers": [], "gateways": [], "model": HOSTILE,
            "broker": {"url": HOSTILE, "connected": True},
            "queue": {"waiting": None, "in_flight": None, "limit": None}}


@contextlib.contextmanager
def standin(status, metrics=""):
    """A gateway that says what we like; its url."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = json.dumps(status()) if self.path == "/wyvern/status" else metrics
            self.send_response(200)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_many_workers_mute_nodes_and_hostile_names(terminal):
    """100 workers on 40 nodes; every second node takes connections and never answers."""
    mute = socket.create_server(("127.0.0.1", 0), backlog=512)
    urls = {}
    metrics = 'system_load_average 3.5\ngpu_utilization{gpu_index="0",uuid="\x1b[31mU"} 50\n'
    with mute, standin(lambda: status_of(40, urls.get, HOSTILE), metrics) as url:
        silent = f"http://127.0.0.1:{mute.getsockname()[1]}/metrics"
        urls.update({n: silent if n % 2 else url + "/metrics" for n in range(40)})
        seen = terminal(url)
        # 40 nodes, 100 workers, and the GPUs of those that answer
        text = "\n".join(seen.wait(lambda t: re.search(r"lines 1 to \d+ of 160", t),
                                   "who answers to be shown"))
        assert "load 3.5" in text and "40 nodes  100 workers" in text and "– waiting" in text
        begun = time.monotonic()
        seen.wait(lambda t: "no answer" in t, "who does not to be said")
        seen.keys("\x1b[6~")
        seen.wait(lambda t: "lines 1 to" not in t, "the next page")
        seen.keys("\x1b[F")
        seen.wait(lambda t: "to 160 of 160" in t, "the end")
        seen.keys("\x1b[H\x1b[B")
        seen.wait(lambda t: "lines 2 to" in t, "the second line")
        assert time.monotonic() - begun < 30
        seen.keys("q")
        assert seen.ended() == 0
        output = seen.read()
    plain = ESCAPE.sub("", output)
    assert "\x1b" not in plain and not CONTROL.search(plain)
    assert set(ESCAPE.findall(output)) >= {"\x1b[H", "\x1b[J"}
    assert "\x1b[31mU" not in output and "owned" in output


def test_other_answers():
    with standin(lambda: {"hello": "there"}) as url:
        done = run("top", "--once", "--url", url)
        assert done.returncode == 65 and "is this a wyvern gateway?" in done.stderr
        assert run("top", "--once", "--url", url + "/nothing").returncode == 65
    with standin(lambda: status_of(1, lambda n: "ftp://127.0.0.1/\x1b[31m")) as url:
        done = run("top", "--once", "--json", "--url", url, check=0)
        node, = json.loads(done.stdout)["nodes"]
        assert node["metrics_answer"] is False and node["metrics_error"] and node["load1"] is None
    done = run("top", "--once", "--url", f"http://127.0.0.1:{free_ports(1)}")
    assert done.returncode == 69 and "can't connect" in done.stderr and done.stdout == ""
    assert run("top", "--url", "ftp://nowhere").returncode == 64
    with standin(lambda: status_of(1, lambda n: "")) as url:
        for options in (["--once"], ["--once", "--json"], ["--json"]):
            with open("/dev/full", "w", encoding="utf-8") as full:
                done = subprocess.run([WYVERN, "top", "--url", url, *options], stdout=full, timeout=60,
                                      stderr=subprocess.PIPE, text=True, check=False)
            assert done.returncode == 74 and "can't write the output" in done.stderr, options


# ---- for scripts ----

def test_once_json(fake):
    fake.ask("first tokens=5")


    def told():
        """All of it, once each process has told its part: that takes a second, or more."""
        seen = run_json("top", "--once", "--json", "--url", fake.url)
        whole = seen["latency_since_start"]["whole_reply"]
        answers = [each["metrics_answer"] for each in seen["gateways"] + seen["nodes"]]
        return all(answers) and seen["slots_active"] == 2 and seen["tokens_per_second"] and whole["count"] and seen

    with work(fake, 2):
        wait_for(lambda: sum(worker["active"] for worker in fake.workers()) == 2, "both to be made")
        seen = wait_for(told, "figures of all", 60)
    assert seen["error"] is None and seen["broker_connected"] is True
    assert seen["queue"] == {"waiting": 0, "in_flight": 2, "limit": 1024}
    assert seen["tokens_per_second"] > 0 and seen["slots"] == 8 and seen["slots_active"] == 2
    assert seen["workers_ready"] == 2 and [g["metrics_answer"] for g in seen["gateways"]] == [True]
    whole = seen["latency_since_start"]["whole_reply"]
    assert whole["count"] >= 1 and 0 < whole["p50_ms"] <= whole["p99_ms"]
    node, = seen["nodes"]
    assert node["metrics_answer"] is True and node["load1"] >= 0 and node["gpus"] == []
    told = {worker["id"]: worker for worker in fake.workers()}
    for worker in node["workers"]:
        assert worker["state"] == "ready" and worker["slots"] == 4
        assert worker["utilization_ratio"] == worker["active"] / 4
        assert worker["pid"] == told[worker["id"]]["pid"]
    assert sum(worker["active"] for worker in node["workers"]) == 2


def test_a_pipe(fake):
    done = run("top", "--url", fake.url, check=0)  # no terminal: as with --once
    assert "\x1b" not in done.stdout and done.stdout.startswith("wyvern top  up")
    for worker in fake.workers():
        assert worker["id"] in done.stdout


def test_json_stream(fake):
    with subprocess.Popen([WYVERN, "top", "--json", "--url", fake.url],
                          stdout=subprocess.PIPE) as process:
        seen = []
        while len(seen) < 30 and not (len(seen) >= 3 and seen[-1]["tokens_per_second"] == 0 and seen[-1]["nodes"]):
            seen.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    times = [each["time"] for each in seen]
    assert times == sorted(set(times))
    assert seen[-1]["tokens_per_second"] == 0 and len(seen[-1]["nodes"]) == 1, seen[-1]


# ---- GPUs, and what load makes of them ----

GPUS = """count 2
0 uuid GPU-aaaa
0 util 71 33
0 memory 85899345920 12884901888 73014444032
1 uuid GPU-bbbb
1 util 5 0
1 memory 85899345920 1048576 85898297344
"""


def test_gpus(start, tmp_path):
    library = ROOT / "build" / "standin"
    if not (library / "libnvidia-ml.so.1").exists():
        pytest.skip("no stand-in library: build the unit tests")
    script = tmp_path / "gpus"
    script.write_text(GPUS)
    service = start(device="gpu:GPU-aaaa,cpu:0", model="fake:tokens=200,delay_ms=3",
                    env={"LD_LIBRARY_PATH": str(library), "STANDIN_NVML": str(script)})

    def told():
        node, = run_json("top", "--once", "--json", "--url", service.url)["nodes"]
        return node["gpus"] and node

    node = wait_for(told, "the GPUs")
    assert [gpu["uuid"] for gpu in node["gpus"]] == ["GPU-aaaa", "GPU-bbbb"]
    assert node["gpus"][0]["utilization_ratio"] == pytest.approx(0.71)
    assert node["gpus"][0]["memory_used_bytes"] == 12884901888

    load = ["load", "--url", service.url, "--repeat", "2"]
    report = run_json(*load, "--json")
    by_device = {worker["device"]: worker for worker in report["workers"]}
    assert by_device["gpu:GPU-aaaa"]["gpu_utilization_ratio"] == pytest.approx(0.71)
    assert by_device["cpu:0"]["gpu_utilization_ratio"] is None
    for worker in report["workers"]:
        assert worker["slots"] == 4 and worker["utilization_ratio"] == pytest.approx(
            worker["slot_seconds"] / (4 * max(each["last_end"] for each in report["workers"])))
        assert 0 < worker["utilization_ratio"] <= 1.01
    text = run(*load, "--quiet", check=0).stdout
    drawn = text.partition("Utilisation over time")[2]
    assert len(re.findall(r"^infer-\S+ +│.*│ +\d+%$", drawn, re.M)) == 2
    assert len(re.findall(r"^ +its GPU +│.*│ +71%$", drawn, re.M)) == 1


# ---- wyvern load ----

@pytest.mark.parametrize("columns", [40, 60, 80])
def test_load_draws_over_its_own_lines(fake, terminal, columns):
    """No line is so long that the terminal wraps it: it could not be drawn over."""
    seen = terminal(fake.url, columns=columns, verb=("load", "--repeat", "2", "--max-tokens", "5"))

    def ended():
        seen.read()  # so that it does not wait for us
        return seen.process.poll() is not None

    wait_for(ended, "the load's end", 60)
    assert seen.process.returncode == 0
    live = ESCAPE.sub("\n", seen.read().split("prompts sent")[0]).replace("\r", "\n")
    lines = [line for line in live.split("\n") if "done" in line]
    assert len(lines) >= 4
    for line in lines:
        assert len(line) < columns, line
        assert re.search(r"\d+ done +\d+ running( +\d+ tokens)?$", line), line
    report = ESCAPE.sub("", "prompts sent" + seen.read().rpartition("prompts sent")[2]).replace("\r", "")
    assert "Spread: busy time within" in report and "full height:" in report
    for line in report.split("\n"):
        assert len(line) <= columns, line
