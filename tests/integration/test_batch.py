"""`wyvern batch`: every line answered once, whatever is killed, full, broken or away."""

import contextlib
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import WYVERN, fake_text, run, wait_for
from ptys import Pty


def write_lines(path, lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n"
                            for line in lines))
    return path


def prompts(count, tokens=3, delay_ms=2):
    return [{"prompt": f"p{i} tokens={tokens} delay_ms={delay_ms}"} for i in range(1, count + 1)]


def read_lines(path):
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def accepted(service):
    """Prompts that the service ever took."""
    metrics = service.client.get("/metrics").text
    return int(next(float(line.split()[-1]) for line in metrics.splitlines()
                    if line.startswith("wyvern_prompts_accepted_total")))


def batch(service, *arguments, **kinds):
    return run("batch", "--url", getattr(service, "url", service), *arguments, **kinds)


def start_batch(service, *arguments):
    return subprocess.Popen([WYVERN, "batch", "--url", service.url, *map(str, arguments)],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def held(service):
    """Its workers stand still: what is asked for is on its way, and stays so."""
    pids = [worker["pid"] for worker in service.workers()]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def check_whole(path, count, tokens=3):
    """Each line once, with its own text."""
    lines = read_lines(path)
    assert sorted(line["line"] for line in lines) == list(range(1, count + 1))
    for line in lines:
        assert line["text"] == fake_text(f"p{line['line']}", tokens)
    return lines


# ---- what is asked and answered ----

def test_short_lines(fake, tmp_path):
    path = write_lines(tmp_path / "in", [
        {"prompt": "uno tokens=9", "max_tokens": 2}, "", "   ",
        {"messages": [{"role": "user", "content": "due tokens=2"}], "custom_id": "mine"},
        {"prompt": "tre tokens=9", "stream": True}])
    done = batch(fake, path, "-o", tmp_path / "out", "--ordered", "--max-tokens", "4", check=0)
    assert done.stdout == ""
    first, second, third = read_lines(tmp_path / "out")
    assert (first["line"], first["text"], first["finish_reason"]) == (1, fake_text("uno", 2), "length")
    assert (second["line"], second["custom_id"], second["text"]) == (4, "mine", fake_text("due", 2))
    assert (third["line"], third["text"]) == (5, fake_text("tre", 4))
    assert third["usage"]["completion_tokens"] == 4 and third["response_id"].startswith("chatcmpl-")


def test_lines_of_openai(fake, tmp_path):
    body = {"model": "default", "messages": [{"role": "user", "content": "uno tokens=2"}]}
    path = write_lines(tmp_path / "in", [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "b", "method": "POST", "url": "/v1/completions",
         "body": {"model": "default", "prompt": "due tokens=2"}},
        {"custom_id": "c", "method": "POST", "url": "/v1/embeddings",
         "body": {"model": "default", "input": "tre"}},
        {"custom_id": "d", "method": "POST", "url": "/v1/responses",
         "body": {"model": "default", "input": "quattro tokens=2"}},
        {"custom_id": "e", "method": "POST", "url": "/v1/chat/completions",
         "body": {**body, "temperature": 9}}])
    batch(fake, path, "-o", tmp_path / "out", "--ordered", check=65)
    a, b, c, d, e = read_lines(tmp_path / "out")
    assert [x["custom_id"] for x in (a, b, c, d, e)] == list("abcde")
    for line in (a, b, c, d):
        assert line["response"]["status_code"] == 200 and line["error"] is None
        assert line["response"]["request_id"]
    assert a["response"]["body"]["choices"][0]["message"]["content"] == fake_text("uno", 2)
    assert b["response"]["body"]["choices"][0]["text"] == fake_text("due", 2)
    assert c["response"]["body"]["data"][0]["embedding"]
    assert fake_text("quattro", 2) in json.dumps(d["response"]["body"])
    assert e["response"]["status_code"] == 400 and "temperature" in e["error"]["message"]


def test_broken_lines(fake, tmp_path):
    broken = {2: "no JSON", 4: "{}", 5: '{"prompt": 5}', 7: "[1]", 8: '{"prompt": "x", "temperature": 9}',
              9: "\x00\x01", 10: '{"prompt": "' + "x" * 100 + '"', 11: '{"prompt": "\\ud800"}',
              12: "[" * 5000}
    lines = [broken.get(i, {"prompt": f"p{i} tokens=3"}) for i in range(1, 15)]
    path = write_lines(tmp_path / "in", lines)
    done = batch(fake, path, "-o", tmp_path / "out")
    assert done.returncode == 65
    answers = {line["line"]: line for line in read_lines(tmp_path / "out")}
    assert sorted(answers) == list(range(1, 15))
    for number, line in answers.items():
        if number in broken:
            assert line["error"]["message"] and "text" not in line
            assert f"line {number}: {line['error']['message']}"[:60] in done.stderr
        else:
            assert line["text"] == fake_text(f"p{number}", 3)
    assert f"{len(broken)} lines failed" in done.stderr
    again = batch(fake, path, "-o", tmp_path / "out", "--json")  # they are answered, and failed
    assert again.returncode == 65
    assert json.loads(again.stdout)["failed_before"] == len(broken)


def test_ordered(fake, tmp_path):
    """The first line is the slowest; the others wait for it, within bounds."""
    lines = prompts(60)
    lines[0] = {"prompt": "p1 tokens=3 delay_ms=200"}
    path = write_lines(tmp_path / "in", lines)
    batch(fake, path, "-o", tmp_path / "out", "--ordered", "--parallel", "8", check=0)
    assert [line["line"] for line in check_whole(tmp_path / "out", 60)] == list(range(1, 61))
    lines[0] = {"prompt": "p1 tokens=3 delay_ms=2000"}
    path, free = write_lines(tmp_path / "in", lines), tmp_path / "free"
    with start_batch(fake, path, "-o", free, "--parallel", "8") as process:
        wait_for(lambda: free.exists() and free.read_text().count("\n") >= 59, "all others' answers")
        process.kill()
    assert read_lines(free)[0]["line"] != 1


def test_parallel_is_what_the_service_has(fake, tmp_path):
    path = write_lines(tmp_path / "in", prompts(3))
    summary = json.loads(batch(fake, path, "-o", tmp_path / "out", "--json", check=0).stdout)
    assert summary["parallel"] == 8  # 2 workers × 4 slots
    assert summary["answered"] == 3 and summary["complete"] is True and summary["failed"] == 0
    assert summary["completion_tokens"] == 9


def test_pipes(fake, tmp_path):
    stdin = "".join(json.dumps(line) + "\n" for line in prompts(5))
    done = batch(fake, "-", "--ordered", stdin=stdin, check=0)
    assert [json.loads(line)["line"] for line in done.stdout.splitlines()] == [1, 2, 3, 4, 5]
    assert "\x1b" not in done.stdout + done.stderr
    batch(fake, "-", "-o", tmp_path / "out", stdin=stdin[:stdin.index("\n") + 1], check=0)
    batch(fake, "-", "-o", tmp_path / "out", stdin=stdin, check=0)
    check_whole(tmp_path / "out", 5)


def test_a_pipe_that_closes(fake, tmp_path):
    path = write_lines(tmp_path / "in", prompts(200, 20, 5))
    with start_batch(fake, path) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert "wyvern: can't" not in process.stderr.read()


def test_a_slow_producer(fake):
    """What is there is asked at once, not only when the input ends."""
    with subprocess.Popen([WYVERN, "batch", "--url", fake.url, "-"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for line in prompts(3):
            process.stdin.write(json.dumps(line) + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"]
        process.stdin.close()
        assert process.wait(60) == 0


def test_usage(fake, tmp_path):
    path = write_lines(tmp_path / "in", prompts(1))
    assert batch(fake).returncode == 64
    assert batch(fake, path, "--json").returncode == 64
    assert batch(fake, path, "-o", path).returncode in (64, 65)
    assert path.read_text() == json.dumps(prompts(1)[0]) + "\n"
    assert batch(fake, tmp_path / "none", "-o", tmp_path / "out").returncode == 66
    assert batch(fake, tmp_path, "-o", tmp_path / "out").returncode == 65
    assert batch(fake, path, "-o", tmp_path / "no" / "out").returncode == 74
    assert not (tmp_path / "out").exists()
    with socket.socket() as bound:  # nobody listens, and nobody else can
        bound.bind(("127.0.0.1", 0))
        nobody = batch(f"http://127.0.0.1:{bound.getsockname()[1]}", path, "-o", tmp_path / "out")
    assert nobody.returncode == 69 and "wyvern up" in nobody.stderr
    other = write_lines(tmp_path / "other", ["not ours"])
    done = batch(fake, path, "-o", other)
    assert done.returncode == 65 and "is no answer" in done.stderr
    assert other.read_text() == "not ours\n"


def test_another_batch_is_not_mixed_in(fake, tmp_path):
    path = write_lines(tmp_path / "in", prompts(4))
    batch(fake, path, "-o", tmp_path / "out", check=0)
    before = (tmp_path / "out").read_text()
    changed = write_lines(tmp_path / "changed", prompts(3) + [{"prompt": "other"}])
    done = batch(fake, changed, "-o", tmp_path / "out")
    assert done.returncode == 65 and "another batch" in done.stderr
    assert (tmp_path / "out").read_text() == before
    longer = write_lines(tmp_path / "longer", prompts(6))  # lines behind them are fine
    batch(fake, longer, "-o", tmp_path / "out", check=0)
    check_whole(tmp_path / "out", 6)


# ---- what is killed ----

def test_killed_at_random_moments(fake, tmp_path):
    """kill -9, twenty times: in the end each line is there once, and none was made twice."""
    count, kills = 200, 0
    path = write_lines(tmp_path / "in", prompts(count, 5, 20))
    out = tmp_path / "out"
    before = accepted(fake)
    rng = random.Random(8)
    while kills < 20:
        with start_batch(fake, path, "-o", out, "--parallel", "4", *["--ordered"] * (kills % 2)) as run_:
            if kills == 0:
                wait_for(lambda: out.exists() and out.stat().st_size, "an answer")
            try:
                assert run_.wait(rng.uniform(0.02, 0.25)) == 0, run_.stderr.read()
                break  # we stood still until it had them all
            except subprocess.TimeoutExpired:
                run_.kill()
        kills += 1
        if kills % 4 == 0 and out.exists():  # and a line that a full disk might have torn
            with open(out, "ab") as file:
                file.write(b'{"line": 7, "che')
    before_last = len(out.read_text().splitlines())
    assert before_last > 0
    batch(fake, path, "-o", out, check=0)
    check_whole(out, count, 5)
    assert accepted(fake) - before == count


def test_two_at_once_are_refused(fake, tmp_path):
    path = write_lines(tmp_path / "in", prompts(40, 20))
    before = accepted(fake)
    with start_batch(fake, path, "-o", tmp_path / "out") as first:
        with held(fake):
            wait_for(lambda: accepted(fake) > before, "the first one's lines")
            second = batch(fake, path, "-o", tmp_path / "out")
        assert second.returncode == 73 and "another wyvern batch" in second.stderr
        assert first.wait(60) == 0
    check_whole(tmp_path / "out", 40, 20)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped(fake, tmp_path, how):
    """What runs is waited for, and the way on is said."""
    path = write_lines(tmp_path / "in", prompts(8, 10))
    out = tmp_path / "out"
    batch(fake, path, "-o", out, check=0)
    write_lines(path, prompts(200, 10))
    before = accepted(fake)
    with start_batch(fake, path, "-o", out, "--parallel", "8") as process:
        with held(fake):
            wait_for(lambda: accepted(fake) == before + 8, "eight lines on their way")
            process.send_signal(how)
            said = process.stderr.readline()
        assert process.wait(60) == 75
        errors = process.stderr.read()
    assert "waiting for 8 running" in said and "same command again" in errors
    assert len(read_lines(out)) == 16
    before = accepted(fake)
    stopped_with = len(read_lines(out))
    batch(fake, path, "-o", out, check=0)
    check_whole(out, 200, 10)
    assert accepted(fake) - before == 200 - stopped_with


def test_stopped_from_its_first_moment(fake, tmp_path):
    """Ctrl-C at any moment, also before anything was read: it ends, and the same command goes on."""
    path = write_lines(tmp_path / "in", prompts(60, 5, 10))
    out = tmp_path / "out"
    before = accepted(fake)
    for i in range(16):
        with start_batch(fake, path, "-o", out, "--parallel", "2") as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(i * 0.004)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) in (0, 75, -signal.SIGINT), process.stderr.read()
    batch(fake, path, "-o", out, check=0)
    check_whole(out, 60, 5)
    assert accepted(fake) - before == 60


def test_stopped_twice(fake, tmp_path):
    path = write_lines(tmp_path / "in", prompts(8))
    before = accepted(fake)
    with start_batch(fake, path, "-o", tmp_path / "out", "--parallel", "8") as process:
        with held(fake):
            wait_for(lambda: accepted(fake) == before + 8, "eight lines on their way")
            process.send_signal(signal.SIGINT)
            assert "waiting for" in process.stderr.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 75


# ---- a service that is away, or full; a disk that is full ----

def test_a_full_disk(fake, tmp_path):
    path = write_lines(tmp_path / "in", prompts(5))
    done = batch(fake, path, "-o", "/dev/full")
    assert done.returncode == 74 and "Make room" in done.stderr


def test_service_restarted_under_a_batch(start, tmp_path):
    slow, quick = "fake:tokens=10,delay_ms=60", "fake:tokens=10,delay_ms=5"
    service = start(model=slow)  # much is left to do whenever it dies
    path = write_lines(tmp_path / "in", [{"prompt": f"p{i}"} for i in range(1, 151)])
    out = tmp_path / "out"
    with start_batch(service, path, "-o", out) as process:
        for model in (slow, quick):
            answers = len(out.read_text().splitlines()) if out.exists() else 0
            wait_for(lambda: out.exists() and len(out.read_text().splitlines()) > answers + 8,
                     "more answers", 40)
            service.die()
            assert process.poll() is None
            service = start(port=service.port, model=model)
        assert process.wait(60) == 0
        assert "the service is away" in process.stderr.read()
    check_whole(out, 150, 10)


class Refusing(http.server.ThreadingHTTPServer):
    """Refuses each line some times before it answers; counts tries and keys of each."""
    daemon_threads = True

    def __init__(self, refusals, status=503, headers=()):
        server = self
        self.tries, self.lock = {}, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                self.reply(404, {"error": {"message": "no"}})

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                with server.lock:
                    tries = server.tries.setdefault(body, [])
                    tries.append((time.monotonic(), self.headers["idempotency-key"]))
                    count = len(tries)
                if count <= refusals:
                    self.reply(status, {"error": {"code": "queue_full", "message": "full"}}, headers)
                else:
                    self.reply(200, {"id": "x", "choices": [{"message": {"content": "yes"},
                                                             "finish_reason": "stop"}]})

            def reply(self, status, value, headers=()):
                body = json.dumps(value).encode()
                with contextlib.suppress(OSError):
                    self.send(status, body, headers)

            def send(self, status, body, headers):
                self.send_response(status)
                for name, text in headers:
                    self.send_header(name, text)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture
def refusing():
    servers = []

    def launch(*arguments, **kinds):
        servers.append(Refusing(*arguments, **kinds))
        return servers[-1]

    yield launch
    for server in servers:
        server.shutdown()
        server.server_close()


def test_refusals_are_waited_out(refusing, tmp_path):
    server = refusing(2, 429, [("retry-after", "1")])
    path = write_lines(tmp_path / "in", prompts(6))
    summary = json.loads(batch(server, path, "-o", tmp_path / "out", "--json", check=0).stdout)
    assert summary["answered"] == 6 and summary["retries"] == 12
    assert len(server.tries) == 6
    for tries in server.tries.values():
        assert len({key for _, key in tries}) == 1  # the same reply is asked for
        assert all(later - sooner >= 0.99 for (sooner, _), (later, _) in zip(tries, tries[1:]))
    assert len({tries[0][1] for tries in server.tries.values()}) == 6


@pytest.mark.parametrize("status, wanted", [(401, 77), (405, 65)])
def test_what_no_line_can_mend_ends_it(refusing, tmp_path, status, wanted):
    server = refusing(1000, status)
    path = write_lines(tmp_path / "in", prompts(50))
    done = batch(server, path, "-o", tmp_path / "out")
    assert done.returncode == wanted
    assert read_lines(tmp_path / "out") == [] and len(server.tries) <= 4
    assert ("--key-file" if status == 401 else "--url") in done.stderr


def test_keys(tmp_path, start):
    from harness import new_key
    key = new_key(tmp_path / "keys", "ann")
    service = start(keys=tmp_path / "keys")
    path = write_lines(tmp_path / "in", prompts(3))
    assert batch(service, path, "-o", tmp_path / "out").returncode == 77
    batch(service, path, "-o", tmp_path / "out", check=0, env={"WYVERN_KEY": key})
    check_whole(tmp_path / "out", 3)


# ---- what a person sees ----

@pytest.mark.parametrize("columns", [40, 80])
def test_progress(fake, tmp_path, columns):
    path = write_lines(tmp_path / "in", [*prompts(60, 10, 10), "broken"])
    seen = Pty(WYVERN, "batch", "--url", fake.url, path, "-o", tmp_path / "out", columns=columns)
    try:
        assert seen.ended(60) == 65
        text = seen.text()
        assert " of 61" in text and "/s" in text and " left" in text
        assert "line 61: no JSON" in text and "60 lines answered, 1 failed" in " ".join(text.split())
        for line in text.split("\n"):
            assert len(line) <= columns, line
    finally:
        seen.close()
