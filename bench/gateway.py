"""What a gateway adds and holds: latency over the engine, completions a second, memory of idle
streams, readers that leave, replies resumed elsewhere.  docs/BENCHMARKS.md defines each.
"""

import contextlib
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import time

import processes
from common import say, service
from harness import MODEL, wait_for

USERS = 16
PIECES, DELAY_MS = 10, 20  # of the replies whose latency is taken
SECONDS, WARM_S = 3, 0.7
STEP_MS = 20               # of the fake model whose readers leave
LONG = 3000                # tokens of the replies that they leave: none ends by itself
SETTLE_S = 6               # until a burst's memory went back: the gateway looks each 4 s
RESUMED, RESUME_FROM = 300, 100
AHEAD_MS = 2               # between the pieces of a reply that is resumed


def percentile(values, share):
    values = sorted(values)
    return values[int(share * (len(values) - 1))]


def run_json(*command):
    out = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def gateway_pid(up):
    pid, = processes.role_pids(up.family)["gateway"]
    return pid


def ask(args, up, content, users, *flags):
    result = run_json(args.build / "bench" / "load_bench", "ask", "-u", users, "-w", WARM_S, "-t",
                      SECONDS, "-p", gateway_pid(up), *flags, up.port, content)
    if result["failed"]:
        raise SystemExit(f"bench: {result['failed']} requests failed")
    return result


# ---- latency ----

def chain_streams(broker):
    """Streams and consumers as the service's own, for messages that nobody else takes."""
    for name, subject in (("PROMPTS", "bprompt.*.*.*"), ("TOKENS", "btok.*.*.*"),
                          ("RESPONSES", "bresponse.*"), ("REPLIES", "breply.*.*")):
        config = broker.api(f"STREAM.INFO.{name}")["config"]
        config.update(name=f"BENCH_{name}", subjects=[subject], max_bytes=64 << 20)
        config.pop("metadata", None)  # what the broker notes itself
        if "republish" in config:
            config["republish"] = {"src": "b" + config["republish"]["src"], "dest": "blive.>"}
        broker.api(f"STREAM.CREATE.BENCH_{name}", config)
    prompts = broker.api("CONSUMER.NAMES.PROMPTS")["consumers"][0]
    for stream, like, name, subject in (("PROMPTS", prompts, "m-main", "bprompt.m.main.*"),
                                        ("RESPONSES", "respond", "respond", "bresponse.*")):
        config = broker.api(f"CONSUMER.INFO.{stream}.{like}")["config"]
        config.update(name=name, durable_name=name, filter_subject=subject)
        config.pop("metadata", None)
        broker.api(f"CONSUMER.DURABLE.CREATE.BENCH_{stream}.{name}",
                   {"stream_name": f"BENCH_{stream}", "config": config})


def message_lengths(up, content):
    """Bytes of prompt, claim, piece, ending of one such reply, as the broker gets them."""
    with up.broker() as broker:
        for subject in ("prompt.>", "tok.>", "response.>"):
            broker.subscribe(subject)
        broker.flush()
        up.ask(content)
        found = {}
        for message in broker.messages(
                lambda got: any(m.subject.startswith("response.") for m in got), 10):
            kind = message.subject.split(".")[0] + message.subject[-2:]
            kind = {"prompt": "prompt", "respon": "ending"}.get(message.subject[:6], kind)
            found.setdefault(kind, len(message.data))
    return [found[kind] for kind in ("prompt", "tok.c", "tok.p", "ending")]


def run_chain(args, up, lengths, users, pieces, delay_ms):
    return run_json(args.build / "bench" / "chain_bench", up.state_dir / "service.ini", users,
                    WARM_S, SECONDS, pieces, delay_ms, *lengths)


def measure_latency(report, args):
    content = f"u% tokens={PIECES} delay_ms={DELAY_MS}"
    ours, chain = [], []
    with service(model="fake:tokens=1,delay_ms=1", workers=1, slots=USERS) as up:
        with up.broker() as broker:
            chain_streams(broker)
        lengths = message_lengths(up, content)
        for number in range(args.runs):
            say(f"latency, run {number + 1} of {args.runs}")
            chain.append(run_chain(args, up, lengths, USERS, PIECES, DELAY_MS))
            ours.append(ask(args, up, content, USERS, "-s", "-e", PIECES * DELAY_MS, "-f",
                            DELAY_MS))

    def median(rows, key):
        return statistics.median(row[key] for row in rows)

    for key, name in (("whole", "whole reply"), ("first", "first chunk")):
        added = [a[f"{key}_p50_ms"] - b[f"{key}_p50_ms"] for a, b in zip(ours, chain)]
        report.add(f"added over engine and broker's hops, {name}, p50", statistics.median(added),
                   "ms", 1, f"{USERS} users, {median(ours, f'{key}_p50_ms'):.2f} over the engine, "
                   f"{median(chain, f'{key}_p50_ms'):.2f} of them the broker's hops alone; "
                   f"median of {args.runs} runs in turns", samples=added)
        late = [a[f"{key}_p99_ms"] for a in ours]
        report.add(f"added over the engine, broker's hops included, {name}, p99",
                   statistics.median(late), "ms", 5,
                   f"the hops alone {median(chain, f'{key}_p99_ms'):.2f}; median of {args.runs} "
                   f"runs of {ours[0]['samples']} replies", samples=late)


# ---- completions a second ----

def measure_completions(report, args):
    with service(model="fake:tokens=1,delay_ms=0", workers=1, slots=32) as up:
        runs = [ask(args, up, "u%", 32) for _ in range(args.runs)]
    each = [run["replies"] / run["cpu_s"] for run in runs]
    rate = statistics.median(run["per_second"] for run in runs)
    report.add("small completions a second and core of gateway", statistics.median(each), "/s",
               2000, "replies ÷ the gateway's CPU, 32 users, fake model without delay; median of "
               f"{args.runs} runs", least=True, samples=each)
    report.add("… of the whole service", rate, "/s", None,
               f"on {len(os.sched_getaffinity(0))} CPUs with the client, the broker and its synced "
               "writes", samples=[run["per_second"] for run in runs])
    runs = [run_json(args.build / "bench" / "http_bench", 16, SECONDS)
            for _ in range(args.runs)]
    each = [run["posts_per_cpu_second"] for run in runs]
    rate = statistics.median(run["posts_per_second"] for run in runs)
    report.add("HTTP layer alone: small POSTs a second and core", statistics.median(each), "/s",
               40000, f"16 kept connections; {rate:.0f} a second, "
               f"p99 {statistics.median(run['p99_us'] for run in runs):.0f} µs; median of "
               f"{args.runs}", least=True, samples=each)


# ---- idle streams ----

def memory_kib(pid):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: int(re.search(rf"^{name}:\s+(\d+) kB", text, re.M)[1])
            for name in ("Rss", "Private_Dirty")}


@contextlib.contextmanager
def open_streams(args, up, count, content):
    """So many streams with the head of their reply, and nothing more to come soon."""
    readers = subprocess.Popen([args.build / "bench" / "load_bench", "idle", "-u", str(count),
                                str(up.port), content], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True)
    try:
        if readers.stdout.readline() != "open\n":
            raise SystemExit("bench: the streams did not open")
        time.sleep(SETTLE_S)
        yield
    finally:
        readers.stdin.close()
        readers.wait(60)


def idle_streams(args, counts, content, model, workers, slots):
    """For each of the counts, KiB that each of so many open streams adds to the gateway."""
    with service(model=model, workers=workers, slots=slots, max_queue=counts[-1] + 100,
                 max_connections=counts[-1] + 100) as up:
        up.ask("once tokens=1 delay_ms=1")  # what the first reply ever allocates
        pid, before, found = gateway_pid(up), memory_kib(gateway_pid(up)), []
        with contextlib.ExitStack() as stack:
            for more, count in zip([counts[0], *(b - a for a, b in zip(counts, counts[1:]))],
                                   counts):
                stack.enter_context(open_streams(args, up, more, content))
                after = memory_kib(pid)
                found.append({name: (after[name] - before[name]) / count for name in before})
            up.process.kill()  # not what is measured: thousands of cancellations
    return found


def measure_idle(report, args):
    waiting = ("fake:tokens=3,delay_ms=3600000", 1, 4)
    running = ("fake:tokens=3,delay_ms=9000", 4, 250)
    for counts, what, content, setup in (
            ((1000, 5000), "waiting", "u%", waiting),
            ((1000,), "waiting, of 8 KiB prompts", "long " * 1638, waiting),
            ((1000,), "after a first piece", "u%", running)):
        say(f"idle streams, {what}")
        for count, each in zip(counts, idle_streams(args, counts, content, *setup)):
            report.add(f"resident memory per idle stream, {count:,}, {what}", each["Rss"], "KiB",
                       16, f"RSS of the gateway before and with them; of its own dirty pages "
                       f"{each['Private_Dirty']:.1f}")


# ---- raw readers ----

class Reader:
    """A streamed reply on a plain socket: events one by one, and gone when told so."""

    def __init__(self, port, method, path, body=None):
        data = json.dumps(body).encode() if body is not None else b""
        self.begin = time.perf_counter()
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: "
                          f"application/json\r\nContent-Length: {len(data)}\r\n\r\n"
                          .encode() + data)
        self.rest = b""
        self.headed = False

    def line(self):
        while b"\n" not in self.rest:
            data = self.sock.recv(1 << 16)
            if not data:
                raise SystemExit("bench: a stream ended early")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return line

    def event(self):
        """The next event's data; chunk sizes and names are stepped over."""
        while True:
            line = self.line()
            if not self.headed and line.startswith(b"HTTP/1.1 "):
                self.headed = True
                if b" 200 " not in line:
                    raise SystemExit(f"bench: {line.decode()} {self.rest.decode()}")
            if line.startswith(b"data: "):
                return line[6:]

    def close(self):
        self.sock.close()


# ---- readers that leave ----

def leave_rounds(up, rounds, content):
    """Seconds from each reader's leaving until the broker has its tombstone, and until the worker's
    one slot has claimed the prompt that waited behind."""
    def begin():
        return Reader(up.port, "POST", "/v1/chat/completions", {
            "model": "default", "stream": True, "min_tokens": LONG, "max_tokens": LONG,
            "messages": [{"role": "user", "content": content}]})

    seen, free = [], []
    with up.broker() as broker:
        broker.subscribe("live.*.*.c")
        broker.flush()
        reader = begin()
        for _ in range(rounds):
            prompt_id = json.loads(reader.event())["id"].removeprefix("chatcmpl-")
            behind = begin()
            wait_for(lambda: broker.count("PROMPTS") == 2, "the prompt behind", step=0.005)
            broker.flush()
            broker.inbox.clear()
            left = time.perf_counter()
            reader.close()
            at = {}
            while len(at) < 2:
                message, = broker.messages(lambda got: bool(got))[:1]
                ours = message.subject.split(".")[2] == prompt_id
                claim = message.json()
                if ours and claim["kind"] == "tombstone":
                    at.setdefault("seen", time.perf_counter() - left)
                elif not ours and claim["kind"] == "held":
                    at.setdefault("free", time.perf_counter() - left)
            seen.append(at["seen"])
            free.append(at["free"])
            reader = behind
            wait_for(lambda: broker.count("PROMPTS") == 1, "the cancelled prompt to go",
                     step=0.005)
        reader.close()
    return seen, free


def report_leave(report, what, step_ms, seen, free):
    for name, values, aim in (("seen", seen, 5), ("slot free", free, step_ms + 100)):
        milliseconds = [1000 * v for v in values]
        report.add(f"reader leaves → {name}, {what}", percentile(milliseconds, 0.99), "ms", aim,
                   f"p99 of {len(values)}; p50 {statistics.median(milliseconds):.2f}" +
                   ("" if name == "seen" else f"; a step is {step_ms:.3g}"),
                   samples=milliseconds)


def real_step_ms(up):
    """Between two pieces of one reply."""
    reader = Reader(up.port, "POST", "/v1/chat/completions", {
        "model": "default", "stream": True, "max_tokens": 60, "min_tokens": 60,
        "messages": [{"role": "user", "content": "Count as far as you can."}]})
    times = []
    while b'"finish_reason":"' not in reader.event():
        times.append(time.perf_counter())
    reader.close()
    return 1000 * statistics.median(b - a for a, b in zip(times, times[1:]))


def measure_leave(report, args):
    with service(model=f"fake:tokens={LONG},delay_ms={STEP_MS}", workers=1, slots=1) as up:
        report_leave(report, "fake model", STEP_MS, *leave_rounds(up, args.rounds, "gone"))
    if not MODEL.exists():
        say(f"no {MODEL.name}: readers that leave the real model are left out")
        return
    with service(model=MODEL, workers=1, slots=1) as up:
        step_ms = real_step_ms(up)
        report_leave(report, "the real model", step_ms,
                     *leave_rounds(up, min(args.rounds, 100), "Tell a very long story."))


# ---- resuming elsewhere ----

def sequence(event):
    return json.loads(event)["sequence_number"]


def read_to_end(reader, after):
    """Every event once and in order, to the reply's end."""
    event = reader.event()
    while True:
        if sequence(event) != after + 1:
            raise SystemExit(f"bench: event {sequence(event)} after {after}")
        after += 1
        kind = json.loads(event)["type"]
        if kind in ("response.completed", "response.failed", "response.incomplete"):
            break
        event = reader.event()
    if kind != "response.completed":
        raise SystemExit(f"bench: it ended with {kind}")


def resume(port, response_id, after):
    """Seconds from connecting to another gateway until the first missing event is there."""
    reader = Reader(port, "GET",
                    f"/v1/responses/{response_id}?stream=true&starting_after={after}")
    first = reader.event()
    took = time.perf_counter() - reader.begin
    if sequence(first) != after + 1:
        raise SystemExit(f"bench: resumed after {after} with {sequence(first)}")
    if json.loads(first)["type"] != "response.completed":
        read_to_end(reader, after + 1)
    reader.close()
    return took


def measure_resume(report, args):
    rounds = max(20, args.rounds // 4)
    content = f"r tokens={RESUMED} delay_ms={AHEAD_MS}"
    running, ended = [], []
    with service(model="fake:tokens=1,delay_ms=1", workers=1, slots=4, gateways=2) as up:
        for _ in range(rounds):
            reader = Reader(up.port, "POST", "/v1/responses", {
                "model": "default", "input": content, "stream": True, "background": True,
                "max_output_tokens": RESUMED})
            response_id = json.loads(reader.event())["response"]["id"]
            after = 0
            while after < RESUME_FROM:
                after = sequence(reader.event())
            reader.close()
            running.append(1000 * resume(up.port + 1, response_id, after))
            ended.append(1000 * resume(up.port + 1, response_id, after))
    for name, values in (("while it runs", running), ("when it has ended", ended)):
        report.add(f"resume at another gateway → first missing event, {name}",
                   percentile(values, 0.99), "ms", 50,
                   f"{RESUMED} pieces, {AHEAD_MS} ms apart, resumed after event {RESUME_FROM}; "
                   f"p99 of {len(values)}, p50 {statistics.median(values):.2f}", samples=values)
