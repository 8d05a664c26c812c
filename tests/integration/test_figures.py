"""Figures of workers and requests, what Prometheus may scrape, and a request's trace through all
processes."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness import (ROOT, WYVERN, Stream, descendants, fake_text, free_ports, many, openai_client,
                     process_start, run, wait_for)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
WORK = ["busy_seconds_total", "slot_seconds_total", "prefill_seconds_total",
        "decode_seconds_total", "prefix_cache_hit_tokens_total", "prompts_total",
        "prompt_tokens_total", "reply_tokens_total", "failed_total"]


def samples(url):
    """{(name, label values…): value}"""
    text = httpx.get(url, trust_env=False).text
    return {(s.name, *(v for _, v in sorted(s.labels.items()))): s.value
            for family in text_string_to_metric_families(text) for s in family.samples}


def total(found, name):
    """The sum of a worker figure over workers; None while one of them has none."""
    values = [v for key, v in found.items() if key[0] == f"wyvern_worker_{name}"]
    return sum(values) if values else None


def workers_told(found):
    """Of how many workers there are figures."""
    return sum(key[0] == "wyvern_worker_busy_seconds_total" for key in found)


class Metrics:
    """One service's, by name: of the one gateway, or summed over the node's workers."""

    def __init__(self, service):
        self.model = service.status()["model"]
        self.gateway = service.url + "/metrics"
        self.node, = service.metrics_urls()

    def worker(self, name):
        return total(samples(self.node), name)

    def at_gateway(self, name, *labels):
        return samples(self.gateway).get((f"wyvern_{name}", *labels))


@pytest.fixture(scope="module")
def metrics(fake):
    found = Metrics(fake)
    wait_for(lambda: workers_told(samples(found.node)) == 2, "the workers' figures")
    return found


# ---- workers ----

def test_a_workers_time(fake, metrics):
    """Four prompts of half a second each: how long they took is in the figures, in four ways."""
    before = samples(metrics.node)
    begun = time.monotonic()
    assert all(r.status_code == 200 for r in many(fake, ["t tokens=10 delay_ms=50"] * 4))
    wait_for(lambda: metrics.worker("prompts_total") == total(before, "prompts_total") + 4,
             "four prompts")
    wait_for(lambda: metrics.worker("active") == 0, "idle workers")
    after = samples(metrics.node)
    elapsed = time.monotonic() - begun
    grown = {name: total(after, name) - total(before, name) for name in WORK}
    # At least two ran at once, on at most two workers; nothing is counted beyond the elapsed time.
    assert 0.5 <= grown["busy_seconds_total"] <= 2 * elapsed + 0.5
    assert 2.0 <= grown["slot_seconds_total"] <= 4 * elapsed + 0.5
    assert grown["busy_seconds_total"] <= grown["slot_seconds_total"]
    # The fake engine's waits stand for computing: one for the prompt, nine for the rest.
    assert grown["prefill_seconds_total"] == pytest.approx(4 * 0.05)
    assert grown["decode_seconds_total"] == pytest.approx(4 * 9 * 0.05)
    assert grown["reply_tokens_total"] == 40 and grown["failed_total"] == 0
    later = samples(metrics.node)
    for name in WORK:  # idle: nothing grows
        assert total(later, name) == total(after, name), name


def test_while_it_runs(fake, metrics):
    """The cache fills while a reply grows and is empty behind it; no counter goes back."""
    wait_for(lambda: metrics.worker("kv_cache_usage_ratio") == 0, "an empty cache")
    seen, full = [], [0]

    def a_reply_is_seen():
        """One is over soon: not each is looked at in its middle."""
        stream = Stream(fake, "k tokens=60 delay_ms=20")
        while not stream.future.done():
            now = samples(metrics.node)
            if workers_told(now) == 2:
                seen.append([total(now, name) for name in WORK])
                full.append(total(now, "kv_cache_usage_ratio"))
                assert total(now, "waiting") <= total(now, "active") <= 1
        assert stream.join().done
        wait_for(lambda: metrics.worker("active") == 0, "idle workers")
        return len(seen) > 2 and max(full) > 0 and seen[-1][0] > seen[0][0]

    wait_for(a_reply_is_seen, "a reply while it grows", 60)
    for earlier, later in zip(seen, seen[1:], strict=False):
        assert all(a <= b for a, b in zip(earlier, later, strict=True))
    assert max(full) <= (60 + 3) / 4096 / 4
    wait_for(lambda: metrics.worker("kv_cache_usage_ratio") == 0, "an empty cache")


def test_prefix_cache(real):
    """A conversation's beginning is computed once: the second time its tokens are hits."""
    metrics = Metrics(real)
    question = "Tell me about the sea. " * 20
    for _ in range(2):
        reply = real.ask(question, max_tokens=3)
    cached = reply["usage"]["prompt_tokens_details"]["cached_tokens"]
    wait_for(lambda: metrics.worker("prompts_total") == 2, "two prompts")
    assert cached > 50
    assert metrics.worker("prefix_cache_hit_tokens_total") == cached
    prefill, decode = metrics.worker("prefill_seconds_total"), metrics.worker("decode_seconds_total")
    assert prefill > 0 and decode > 0
    # The model's time is a part of that in which a prompt was with it.
    assert prefill + decode <= metrics.worker("busy_seconds_total") + 0.05


def test_restarts_and_redeliveries(start):
    """A worker that dies: its supervisor counts it, the gateway that its prompt went to another."""
    service = start(workers=2, slots=1)
    metrics = Metrics(service)
    wait_for(lambda: metrics.worker("restarts_total") == 0, "the supervisor's figures")
    assert metrics.at_gateway("redeliveries_total") == 0
    client = openai_client(service)
    reply = client.responses.create(model="default", input="r tokens=100000 delay_ms=50",
                                    background=True)
    busy = wait_for(lambda: [w for w in service.workers() if w["active"]], "a busy worker")[0]
    os.kill(busy["pid"], signal.SIGKILL)
    wait_for(lambda: samples(metrics.node).get(("wyvern_worker_restarts_total", busy["id"])) == 1,
             "one restart")
    assert metrics.worker("restarts_total") == 1
    with service.broker() as broker:
        wait_for(lambda: broker.last("TOKENS", f"tok.*.{reply.id[5:]}.c").json()["attempt"] == 2,
                 "the other at work")
    ended = client.responses.cancel(reply.id)
    assert ended.wyvern["attempt"] == 2
    assert ended.output_text == fake_text("r", ended.output_text.count(" "))
    wait_for(lambda: metrics.at_gateway("redeliveries_total") == 1, "one redelivery")
    assert metrics.at_gateway("dead_letters_total") == 0
    # It is back, counting from its own start; the other goes on.
    wait_for(lambda: workers_told(samples(metrics.node)) == 2, "both workers")


def below(service, words):
    """Those of its processes that have this in their command line."""
    found = []
    for pid in descendants(service.process.pid):
        with contextlib.suppress(OSError):
            if words.encode() in open(f"/proc/{pid}/cmdline", "rb").read():
                found.append(pid)
    return found


def test_telemetry_is_started_again(start):
    """What was served before is not told as if it had happened since."""
    service = start(workers=1)
    url, = service.metrics_urls()

    def counted():
        try:
            return samples(url)[("request_latency_seconds_count",)]
        except httpx.TransportError:
            return None  # it is not back yet

    assert all(r.status_code == 200 for r in many(service, ["a tokens=2"] * 5))
    wait_for(lambda: counted() == 5, "five requests")
    worker, = service.workers()
    tick = os.sysconf("SC_CLK_TCK")
    wait_for(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) - process_start(worker["pid"]) / tick > 6,
             "a worker that is older than what starts now")
    pid, = below(service, "telemetry-")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: counted() == 0, "the telemetry worker back")
    wait_for(lambda: ("wyvern_worker_prompts_total", worker["id"]) in samples(url), "the worker heard")
    assert samples(url)[("wyvern_worker_prompts_total", worker["id"])] == 5
    assert counted() == 0
    service.ask("b tokens=2")
    wait_for(lambda: counted() == 1, "the sixth request")


def test_dead_letters(start):
    service = start(workers=3, slots=1)
    metrics = Metrics(service)
    reply = service.post("d tokens=5 crash_at=1")
    assert reply.status_code == 500 and reply.json()["error"]["code"] == "worker_died"
    assert metrics.at_gateway("dead_letters_total") == 1
    assert metrics.at_gateway("redeliveries_total") == 3
    assert metrics.at_gateway("e2e_request_latency_seconds_count", "failed", metrics.model) == 1
    assert metrics.at_gateway("request_decode_time_seconds_count", metrics.model) == 0


# ---- requests ----

def test_requests(fake, metrics):
    """Each request is in each histogram once, where and with what belongs to it."""
    names = ["time_to_first_token_seconds", "inter_token_latency_seconds",
             "request_queue_time_seconds", "request_prefill_time_seconds",
             "request_decode_time_seconds"]

    def look():
        found = samples(metrics.gateway)
        at = {n: (found[(f"wyvern_{n}_count", metrics.model)],
                  found[(f"wyvern_{n}_sum", metrics.model)]) for n in names}
        for reason in ("stop", "length"):
            at[reason] = (found[("wyvern_e2e_request_latency_seconds_count", reason,
                                 metrics.model)],
                          found[("wyvern_e2e_request_latency_seconds_sum", reason,
                                 metrics.model)])
        return at

    before = look()
    begun = time.monotonic()
    stream = Stream(fake, "s tokens=5 delay_ms=100").join()  # ends by itself
    elapsed = time.monotonic() - begun
    fake.text("w tokens=50 delay_ms=20", max_tokens=3)       # is cut, and not streamed
    after = look()
    count = {n: after[n][0] - before[n][0] for n in after}
    seconds = {n: after[n][1] - before[n][1] for n in after}
    pieces = sum(1 for c in stream.chunks if c["choices"] and c["choices"][0]["delta"].get("content"))
    assert count == {"time_to_first_token_seconds": 1,
                     "inter_token_latency_seconds": pieces - 1, "request_queue_time_seconds": 2,
                     "request_prefill_time_seconds": 2, "request_decode_time_seconds": 2,
                     "stop": 1, "length": 1}
    assert seconds["time_to_first_token_seconds"] >= 0.1
    # Pieces may come together, late, but the last of them not before its time.
    gaps = seconds["inter_token_latency_seconds"]
    assert 0.5 <= seconds["time_to_first_token_seconds"] + gaps <= elapsed + 0.05
    assert (gaps > 0) == (pieces > 1)
    prefill, decode = (seconds[f"request_{n}_time_seconds"] for n in ("prefill", "decode"))
    assert 0.11 <= prefill
    assert 0.55 <= prefill + decode <= seconds["stop"] + seconds["length"]
    assert seconds["stop"] >= 0.5


def test_buckets_are_those_of_vllm(metrics):
    """Dashboards and comparisons know these bounds."""
    first = [.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
             160, 640, 2560]
    gap = [.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
    whole = [.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680]
    text = httpx.get(metrics.gateway, trust_env=False).text
    for name, bounds in (("time_to_first_token", first), ("inter_token_latency", gap),
                         ("e2e_request_latency", whole), ("request_queue_time", whole),
                         ("request_prefill_time", whole), ("request_decode_time", whole)):
        found = re.findall(rf'^wyvern_{name}_seconds_bucket{{model="[^"]*"(?:,finish_reason="stop")?,'
                           r'le="([^"]+)"', text, re.M)
        assert [float(le) for le in found] == [*bounds, float("inf")], name


def test_broker_is_away(start):
    """What the gateway knows from the broker alone is not shown on as if it were still so."""
    heard = {"wyvern_workers_ready", "wyvern_slots_ready", "wyvern_storage_used_ratio",
             "wyvern_queue_waiting", "wyvern_queue_in_flight", "wyvern_queue_limit"}

    def shown():
        found = samples(service.url + "/metrics")
        return found[("wyvern_broker_reachable",)], heard & {key[0] for key in found}

    service = start()
    wait_for(lambda: shown() == (1, heard), "all that is heard from the broker")
    os.kill(service.process.pid, signal.SIGSTOP)  # so that nobody starts the broker again
    try:
        os.kill(service.status()["broker"]["pid"], signal.SIGKILL)
        wait_for(lambda: shown()[0] == 0, "a gateway without a broker")
        assert shown() == (0, set())
        said = run("status", "--url", service.url, check=0).stdout
        assert "is away" in said and "queue: not known" in said
    finally:
        os.kill(service.process.pid, signal.SIGCONT)
    wait_for(lambda: shown() == (1, heard), "the broker back")

    def told():
        said = run("status", "--url", service.url, check=0).stdout
        return "is away" not in said and "queue: 0 waiting" in said

    wait_for(told, "a status with a queue")
    wait_for(service.ready, "workers")
    assert service.ask("hello")["choices"]


def test_labels_are_not_the_users(fake, metrics):
    """Nothing that a client writes becomes a label."""
    mark = "zzyzx"
    fake.post(mark, user=mark, temperature=0)
    httpx.post(fake.url + "/v1/chat/completions", trust_env=False,
               headers={"traceparent": mark, "tracestate": f"{mark}=1"},
               json={"model": mark, "messages": [{"role": mark, "content": mark}]})
    httpx.get(f"{fake.url}/{mark}?{mark}", trust_env=False)
    for url in (metrics.gateway, metrics.node):
        text = httpx.get(url, trust_env=False).text
        assert mark not in text
        models = set(re.findall(r'model="([^"]*)"', text))
        assert models == {metrics.model}


# ---- discovery ----

def discovered(service):
    """All that is named; nothing while the gateway has not heard everybody yet."""
    reply = httpx.get(service.url + "/sd", trust_env=False)
    assert reply.headers["content-type"] == "application/json"
    if reply.status_code == 503:
        return []
    assert reply.status_code == 200
    return reply.json()


def targets(service, count):
    """The list, when it has as many."""
    def complete():
        found = discovered(service)
        return found if len(found) == count else None

    return wait_for(complete, f"{count} targets")


def test_discovery_never_forgets_for_a_moment(start):
    """A gateway that was started again names all or says that it doesn't know yet: of a part of the
    list Prometheus would take that the others are gone."""
    service = start(nodes=2, workers=2)
    everybody = targets(service, 3)
    pid, = below(service, "\0gateway\0")
    os.kill(pid, signal.SIGKILL)
    lists, deadline = [], time.monotonic() + 30
    while not lists and time.monotonic() < deadline:
        try:
            reply = httpx.get(service.url + "/sd", trust_env=False)
        except httpx.TransportError:
            continue  # it is not back yet
        if reply.status_code == 200:
            lists.append(reply.json())
    assert lists == [everybody]


def test_discovery_without_a_broker(tmp_path):
    port, gone = free_ports(1), free_ports(1)
    (tmp_path / "join.ini").write_text(
        f"[broker]\nurl = nats://127.0.0.1:{gone}\n"
        "[model]\nname = m\nfile = fake:tokens=1\nsha256 =\n"
        "[gateway]\nuser = gateway\npassword = none\n")
    process = subprocess.Popen(
        [str(WYVERN), "gateway", "--join", str(tmp_path / "join.ini"), "--port", str(port)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        def answers():
            try:
                return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False)
            except httpx.TransportError:
                return None
        wait_for(answers, "the gateway")
        assert httpx.get(f"http://127.0.0.1:{port}/sd", trust_env=False).status_code == 503
    finally:
        process.terminate()
        process.wait(60)


def test_discovery(start):
    service = start(nodes=2, workers=2, gateways=2)
    wanted = [({"node": n["name"], "role": "telemetry"},
               n["metrics_url"].removeprefix("http://").removesuffix("/metrics"))
              for n in service.known_nodes()]
    hub = socket.gethostname()
    wanted += [({"node": hub, "role": "gateway"}, f"127.0.0.1:{service.port + i}")
               for i in range(2)]
    found = targets(service, 4)
    for group in found:
        assert set(group) == {"targets", "labels"} and len(group["targets"]) == 1
    key = json.dumps
    assert (sorted((key(g["labels"]), *g["targets"]) for g in found) ==
            sorted((key(labels), target) for labels, target in wanted))
    for group in found:
        assert httpx.get(f"http://{group['targets'][0]}/metrics",
                         trust_env=False).status_code == 200
    # One that leaves is not scraped any more.
    gone = found[-1]["labels"]["node"]
    pid = next(n["pid"] for n in service.status()["nodes"] if n["name"] == gone)
    os.kill(pid, signal.SIGSTOP)
    try:
        for child in below(service, f"telemetry-{gone}"):
            os.kill(child, signal.SIGTERM)
        targets(service, 3)
    finally:
        os.kill(pid, signal.SIGCONT)
    targets(service, 4)


def test_ten_thousand_nodes(start):
    """So many that say they are there: all are listed, and the service serves on."""
    service = start(workers=1)
    count = 10000

    def tell():
        # A liar: what is no address is nobody's target.
        broker.publish("state.telemetry.x.liar", json.dumps({
            "v": 1, "role": "telemetry", "node": "x", "name": "liar", "url": "nonsense"}).encode())
        for i in range(count):
            name = f"far{i}"
            for role, own, url in (("telemetry", f"telemetry-{name}",
                                    f"http://{name}:8000/metrics"), ("node", name, "")):
                broker.publish(f"state.{role}.{name}.{own}", json.dumps({
                    "v": 1, "role": role, "node": name, "name": own, "boot": "0" * 16,
                    "url": url}).encode())
        broker.flush()

    def all_listed():
        """Who says nothing for 5 s is gone: they say it again."""
        tell()
        for _ in range(20):
            found = discovered(service)
            if len(found) >= count:
                return found
        return None

    with service.broker() as broker:
        found = wait_for(all_listed, "10,000 targets", 60)
        targets = {t for group in found for t in group["targets"]}
        assert {f"far{i}:8000" for i in range(count)} < targets
        assert len(found) == len(targets) and "nonsense" not in targets
        assert service.text("on tokens=2") == "on.0 on.1 "
        assert httpx.get(service.url + "/metrics", trust_env=False).status_code == 200


def test_a_real_prometheus_finds_them(fake, tmp_path):
    binary = shutil.which("prometheus") or shutil.which("prometheus", path=ROOT / ".deps" / "bin")
    if binary is None:
        pytest.skip("no prometheus")
    port = free_ports(1)
    (tmp_path / "prometheus.yml").write_text(f"""
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: wyvern
    http_sd_configs: [{{url: "{fake.url}/sd", refresh_interval: 1s}}]
""")
    process = subprocess.Popen(
        [binary, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
         f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    try:
        def up():
            try:
                reply = httpx.get(f"http://127.0.0.1:{port}/api/v1/targets", trust_env=False)
            except httpx.TransportError:
                return None
            targets = reply.json()["data"]["activeTargets"] if reply.status_code == 200 else []
            roles = {t["labels"].get("role") for t in targets if t["health"] == "up"}
            return roles == {"telemetry", "gateway"} and targets
        targets = wait_for(up, "both targets up", 60)
        assert {t["scrapeUrl"] for t in targets} == {fake.url + "/metrics", *fake.metrics_urls()}
    finally:
        process.terminate()
        process.wait(60)


# ---- traces ----

def log_lines(service, trace):
    """{process: its lines that name a trace}"""
    found = {}
    for path in service.state_dir.glob("logs/*.log"):
        lines = [line for line in path.read_text(errors="replace").splitlines()
                 if f"trace_id={trace}" in line]
        if lines:
            found[path.stem] = lines
    return found


def logged(lines):
    """What was logged in them."""
    return {re.search(r"(\w+\.\w+) prompt=", line).group(1) for own in lines.values() for line in own}


def ask(service, headers, stream=False, content="t tokens=2", **fields):
    return httpx.post(service.url + "/v1/chat/completions", headers=headers, trust_env=False,
                      json={"model": "default", "stream": stream,
                            "messages": [{"role": "user", "content": content}], **fields})


def test_a_trace_goes_through_all_processes(fake):
    for stream, trace in ((False, "a" * 32), (True, "b" * 32)):
        reply = ask(fake, {"traceparent": f"00-{trace}-{SPAN}-01", "tracestate": "vendor=x,b=2"},
                    stream)
        assert reply.status_code == 200
        version, its, span, flags = reply.headers["traceparent"].split("-")
        assert (version, its, flags) == ("00", trace, "01") and span != SPAN
        assert reply.headers["tracestate"] == "vendor=x,b=2"
        if stream:
            chunks = [json.loads(line[6:]) for line in reply.text.splitlines()
                      if line.startswith("data: {")]
            body, = [c for c in chunks if "wyvern" in c]
        else:
            body = reply.json()
        assert body["wyvern"]["trace_id"] == trace
        worker, responder = body["wyvern"]["inference_worker"], body["wyvern"]["response_worker"]
        steps = {"prompt.accepted", "job.done", "reply.recorded", "reply.delivered"}
        lines = wait_for(lambda t=trace, s=steps: (
            found if s <= logged(found := log_lines(fake, t)) else None), "the trace in the logs")
        assert {"gateway-0", worker, responder} <= set(lines)
        prompt = body["wyvern"]["prompt_id"]
        assert all(prompt in line for own in lines.values() for line in own)
        assert logged(lines) == steps


def test_a_trace_is_made_where_there_is_none(fake):
    seen = set()
    for _ in range(2):
        reply = ask(fake, {"tracestate": "a=1"})  # worth nothing without its traceparent
        made = reply.headers["traceparent"].split("-")[1]
        assert re.fullmatch("[0-9a-f]{32}", made) and "tracestate" not in reply.headers
        assert reply.json()["wyvern"]["trace_id"] == made
        seen.add(made)
    assert len(seen) == 2


@pytest.mark.parametrize("headers", [
    [("traceparent", PARENT.upper())],
    [("traceparent", PARENT.replace("00-", "ff-", 1))],
    [("traceparent", PARENT + "-more")],
    [("traceparent", PARENT[:-1])],
    [("traceparent", f"00-{'0' * 32}-{SPAN}-01")],
    [("traceparent", f"00-{TRACE}-{'0' * 16}-01")],
    [("traceparent", "")],
    [("traceparent", "x" * 8000)],
    [("traceparent", PARENT), ("traceparent", PARENT)],
], ids=range(9))
def test_a_malformed_traceparent_is_ignored(fake, headers):
    reply = ask(fake, [*headers, ("tracestate", "a=1")])
    assert reply.status_code == 200
    assert TRACE not in reply.headers["traceparent"] and "tracestate" not in reply.headers
    assert reply.json()["wyvern"]["trace_id"] == reply.headers["traceparent"].split("-")[1]


@pytest.mark.parametrize("states,kept", [
    (["a=1", "b=2"], "a=1,b=2"),
    (["a=1,c"], None),
    (["A=1"], None),
    ([",".join(f"k{i}={'v' * 40}" for i in range(20))], None),
    ([], None),
], ids=range(5))
def test_tracestate(fake, states, kept):
    reply = ask(fake, [("traceparent", PARENT), *(("tracestate", s) for s in states)])
    assert reply.headers["traceparent"].split("-")[1] == TRACE
    assert reply.headers.get("tracestate") == kept


def test_a_later_version_is_read(fake):
    reply = ask(fake, {"traceparent": f"cc-{TRACE}-{SPAN}-01-what-comes"})
    assert reply.headers["traceparent"].split("-")[:2] == ["00", TRACE]


def test_errors_have_it_too(fake):
    for fields in ({"temperature": 9}, {"content": "e error_at=0"}):
        reply = ask(fake, {"traceparent": PARENT}, **fields)
        assert reply.status_code >= 400
        assert reply.headers["traceparent"].split("-")[1] == TRACE


def test_a_reader_that_leaves(fake):
    trace = "c" * 32
    with httpx.stream("POST", fake.url + "/v1/chat/completions", trust_env=False,
                      headers={"traceparent": f"00-{trace}-{SPAN}-00"},
                      json={"model": "default", "stream": True, "messages": [
                          {"role": "user", "content": "l tokens=1000 delay_ms=50"}]}) as reply:
        next(reply.iter_lines())
    wait_for(lambda: logged(log_lines(fake, trace)) >=
             {"reader.left", "job.cancelled", "reply.recorded"}, "the leaving in the logs")


def test_a_prompt_of_an_older_gateway(fake):
    """Without a trace, and with a broken one, a prompt is served all the same."""
    with fake.broker() as broker:
        model = fake.status()["model"]
        token = "".join(c if c.isalnum() or c in "-_" else f"={ord(c):02X}" for c in model)
        for i, extra in enumerate(({}, {"traceparent": "nonsense"})):
            prompt = f"{i + 1:032x}"
            gateway = "f" * 16
            sub = broker.subscribe(f"live.{gateway}.>")
            broker.publish(f"prompt.{token}.main.{prompt}", json.dumps({
                "v": 1, "id": prompt, "gateway": gateway, "prompter": "old", "model": model,
                "detached": True, "params": {}, "messages": [{"role": "user", "content": "o tokens=2"}],
                **extra}).encode())
            broker.flush()
            heard = broker.messages(lambda found: any(
                m.subject == f"live.{gateway}.{prompt}" for m in found), 30)
            record = next(m for m in heard if m.subject == f"live.{gateway}.{prompt}").json()
            assert record["status"] == "completed" and record["text"] == "o.0 o.1 "
            assert record["trace_id"] == ""
            broker.unsubscribe(sub)
