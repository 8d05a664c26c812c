"""Readers that take their time: nobody is cut because there is much to say, and nobody who takes
nothing costs memory for long.  Wherever a stream comes from, a slow reader gets the bytes that a
fast one gets."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
from prometheus_client.parser import text_string_to_metric_families

from harness import fake_text, keeps_freed_memory, sse_events, wait_for

MIB = 1 << 20
TAG = "t" * 60  # the fake engine's pieces: long, so that there is soon much to send
HEADERS = "Host: x\r\nConnection: close\r\n"


class Raw:
    """A socket with little room on both sides: what it has not read waits at the gateway."""

    def __init__(self, service, method, path, body=None, headers="", gateway=0):
        data = b"" if body is None else json.dumps(body).encode()
        self.socket = socket.socket()
        self.socket.settimeout(60)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        # the kernel's room for a sender follows from the size of its segments
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        self.socket.connect(("127.0.0.1", service.port + gateway))
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\n{HEADERS}{headers}"
                            f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self.data = b""

    def read_until(self, mark):
        while mark not in self.data:
            got = self.socket.recv(256)
            assert got, self.data
            self.data += got
        return self.data

    def body(self, nap=0.0, each=16384):
        """All that comes, without the chunks' sizes."""
        while got := self.socket.recv(each):
            self.data += got
            time.sleep(nap)
        self.socket.close()
        head, _, rest = self.data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        parts, at = [], 0
        while True:
            line = rest.index(b"\r\n", at)
            size = int(rest[at:line], 16)
            parts.append(rest[line + 2:line + 2 + size])
            at = line + 2 + size + 2
            if size == 0:
                break
        assert at == len(rest), "the stream's end is the connection's"
        return b"".join(parts)


def fast(service, response_id, after=-1):
    reply = httpx.get(f"{service.url}/v1/responses/{response_id}", trust_env=False, timeout=120,
                      params={"stream": "true", "starting_after": after})
    assert reply.status_code == 200, reply.text
    return reply.content


def begin(service, tokens, delay_ms):
    """The id of a response that is being made."""
    made = httpx.post(f"{service.url}/v1/responses", trust_env=False, timeout=60, json={
        "model": "default", "input": f"{TAG} tokens={tokens} delay_ms={delay_ms}",
        "background": True})
    assert made.status_code == 200, made.text
    return made.json()["id"]


def ended(service, response_id):
    return httpx.get(f"{service.url}/v1/responses/{response_id}", timeout=60,
                     trust_env=False).json()["status"] == "completed"


@contextlib.contextmanager
def broker_pieces(service, response_id):
    """A function that counts the stored pieces; what came while the broker took its time is
    together in one message."""
    name = f"tok.*.{response_id.removeprefix('resp_')}.p"

    def count():
        last = broker.last("TOKENS", name)
        return 0 if last is None else last.json()["first"] + len(last.json()["pieces"])

    with service.broker() as broker:
        yield count


def events(body):
    return [(name, json.loads(data)) for name, data in sse_events(body.decode().split("\n"))]


def check_whole(body, tokens, first=0):
    """Every event from `first` on, once, in order, and all of the text."""
    got = events(body)
    assert [e["sequence_number"] for _, e in got] == list(range(first, first + len(got)))
    assert got[-1][0] == "response.completed"
    text = "".join(f"{TAG}.{i} " for i in range(tokens))
    assert got[-1][1]["response"]["output"][0]["content"][0]["text"] == text
    said = "".join(e["delta"] for name, e in got if name == "response.output_text.delta")
    assert text.endswith(said) and (first > 0 or said == text)


def completed(service):
    """Replies that ended well, as the gateway counts them."""
    text = httpx.get(f"{service.url}/metrics", timeout=60, trust_env=False).text
    return sum(s.value for family in text_string_to_metric_families(text) for s in family.samples
               if s.name == "wyvern_replies_total" and s.labels["status"] == "completed")


def resident(pid):
    with open(f"/proc/{pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def pid_of(service):
    return service.status()["gateways"][0]["pid"]


def test_a_reply_asked_for_again(start):
    """By Idempotency-Key: 9 MiB of events, of which the last four have the text of 1.3 MiB."""
    service = start(workers=1, slots=2)
    tokens = 20000
    body = {"model": "default", "input": f"{TAG} tokens={tokens} delay_ms=0", "stream": True}
    key = "Idempotency-Key: again\r\n"
    wanted = httpx.post(f"{service.url}/v1/responses", content=json.dumps(body), timeout=120,
                        headers={"idempotency-key": "again"}, trust_env=False).content
    check_whole(wanted, tokens)
    assert len(wanted) > 8 * MIB
    slow = Raw(service, "POST", "/v1/responses", body, key)
    assert slow.body(nap=0.0005) == wanted
    late = Raw(service, "POST", "/v1/responses", body, key)
    late.data = late.socket.recv(1)  # it has begun; the rest waits a good while
    time.sleep(2)
    assert late.body() == wanted
    response_id = events(wanted)[0][1]["response"]["id"]
    stored = Raw(service, "GET", f"/v1/responses/{response_id}?stream=true&starting_after=99")
    assert stored.body(nap=0.0005) == fast(service, response_id, 99)
    check_whole(fast(service, response_id, 99), tokens, first=100)


def test_a_running_reply_resumed(start):
    """Some 3 MiB of events lie in the broker's stream when the readers come, as much is still to
    be made.  One reads slowly, one reads nothing until it is over (its rest comes from the record),
    one comes from the middle."""
    service = start(workers=1, slots=2, gateways=2)
    tokens, middle = 16000, 3000
    response_id = begin(service, tokens, 1)
    path = f"/v1/responses/{response_id}?stream=true"
    with broker_pieces(service, response_id) as pieces:
        wait_for(lambda: pieces() >= tokens // 2, "half of it", 60, 0.2)
        slow = Raw(service, "GET", path)
        late = Raw(service, "GET", path, gateway=1)
        part = Raw(service, "GET", f"{path}&starting_after={middle}", gateway=1)
        late.data = late.socket.recv(1)
        with ThreadPoolExecutor(3) as pool:
            bodies = [pool.submit(slow.body, 0.001, 8192), pool.submit(part.body, 0.001, 8192)]
            wanted = fast(service, response_id)
            bodies.append(pool.submit(late.body))
            slow, part, late = [b.result(120) for b in bodies]
    assert ended(service, response_id)
    check_whole(wanted, tokens)
    assert slow == wanted
    assert late == wanted
    assert part == fast(service, response_id, middle)
    check_whole(part, tokens, first=middle + 1)


def test_its_worker_dies_meanwhile(start):
    """Two readers by one Idempotency-Key have much unread when the worker is killed; another goes on.
    One of the two reads from then on, the other when it is over."""
    service = start(workers=2, slots=2)
    tokens = 12000
    body = {"model": "default", "input": f"{TAG} tokens={tokens} delay_ms=1", "stream": True}
    first, second = (Raw(service, "POST", "/v1/responses", body, "Idempotency-Key: d\r\n")
                     for _ in range(2))
    response_id = re.search(b'"id":"(resp_[0-9a-f]+)"', first.read_until(b"in_progress"))[1].decode()
    worker = wait_for(lambda: [w["pid"] for w in service.workers() if w["active"]], "its worker")[0]
    with broker_pieces(service, response_id) as pieces:
        wait_for(lambda: pieces() >= tokens // 2, "half of it", 60, 0.2)
    os.kill(worker, signal.SIGKILL)
    one = first.body(nap=0.001)
    wait_for(lambda: ended(service, response_id), "its end", 60)
    check_whole(one, tokens)
    assert events(one)[-1][1]["response"]["wyvern"]["attempt"] == 2
    assert second.body() == one == fast(service, response_id)


def test_texts_of_a_chat(start):
    """Their reader takes nothing until both are made, then all; the same for who asks again, whose
    text comes in one event."""
    service = start(workers=1, slots=2)
    tokens = 20000
    body = {"model": "default", "n": 2, "stream": True,
            "messages": [{"role": "user", "content": f"{TAG} tokens={tokens} delay_ms=0"}]}
    late = Raw(service, "POST", "/v1/chat/completions", body)
    again = Raw(service, "POST", "/v1/chat/completions", {**body, "n": 1}, "Idempotency-Key: c\r\n")
    wait_for(lambda: completed(service) == 3, "all three texts", 60)
    again_later = Raw(service, "POST", "/v1/chat/completions", {**body, "n": 1},
                      "Idempotency-Key: c\r\n")
    for reader, n in (late, 2), (again, 1), (again_later, 1):
        got = [data for _, data in sse_events(reader.body().decode().split("\n"))]
        assert got[-1] == "[DONE]"
        for index in range(n):
            choices = [c for data in got[:-1] for c in json.loads(data)["choices"]
                       if c["index"] == index]
            assert "".join(c["delta"].get("content") or "" for c in choices) == "".join(
                f"{TAG}.{i} " for i in range(tokens))
            assert choices[-1]["finish_reason"] == "stop"


def test_who_never_reads(start):
    """They are cut when they have taken nothing for 30 s, and cost little until then; the reply
    goes on, and who reads hears of it."""
    service = start(workers=1, slots=2)
    made, running = begin(service, 20000, 0), begin(service, 40000, 1)
    wait_for(lambda: ended(service, made), "the end of one", 60)
    with broker_pieces(service, running) as pieces:
        wait_for(lambda: pieces() >= 5000, "a good part of the other", 60)
    pid = pid_of(service)
    before = resident(pid)
    since = time.monotonic()
    raws = [Raw(service, "GET", f"/v1/responses/{running}?stream=true") for _ in range(24)]
    raws[:4] = [Raw(service, "GET", f"/v1/responses/{made}?stream=true") for _ in range(4)]
    poller = select.poll()
    for raw in raws:
        raw.data = raw.socket.recv(1)
        poller.register(raw.socket, 0)  # errors and hang-ups alone
    most, cut = 0, []
    while len(cut) < len(raws) and time.monotonic() < since + 60:
        cut = poller.poll(0)
        most = max(most, resident(pid) - before)
        if time.monotonic() < since + 25:
            assert not cut
        time.sleep(0.2)
    assert len(cut) == len(raws)
    # The records of four, and of the others what was written: not the events of all, 100 MiB.
    assert most < 60 * MIB or keeps_freed_memory()
    for raw in raws:
        raw.socket.close()
    check_whole(fast(service, running), 40000)


def test_many_of_a_large_reply(start):
    """Together they are held to a bound: the next is refused, while prompts go on being answered."""
    service = start(workers=1, slots=2)
    tokens = 50000
    body = {"model": "default", "input": f"{TAG} tokens={tokens} delay_ms=0"}
    key = {"idempotency-key": "large"}
    made = httpx.post(f"{service.url}/v1/responses", json=body, headers=key, timeout=120,
                      trust_env=False)
    assert made.status_code == 200, made.text
    size = len(made.content)
    path = f"/v1/responses/{made.json()['id']}"
    file = httpx.post(f"{service.url}/v1/files", data={"purpose": "batch"},
                      files={"file": ("f.jsonl", b"x")}, trust_env=False).json()["id"]
    before = resident(pid_of(service))
    raws = []
    while True:
        raws.append(Raw(service, "GET", f"{path}?stream=true" if len(raws) % 2 else path))
        if b" 503 " in raws[-1].read_until(b"\r\n"):
            break
        raws[-1].read_until(b"\r\n\r\n")
        assert len(raws) * size < 800 * MIB, "no end of it"
    assert len(raws) > 10
    assert resident(pid_of(service)) - before < 700 * MIB or keeps_freed_memory()
    for refused in (httpx.get(service.url + path, trust_env=False),
                    httpx.post(f"{service.url}/v1/responses", json=body, headers=key, trust_env=False),
                    httpx.get(f"{service.url}{path}/input_items", trust_env=False),
                    httpx.get(f"{service.url}/v1/files/{file}/content", trust_env=False)):
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "busy"
        assert int(refused.headers["retry-after"]) > 0
    assert service.text("x tokens=3") == fake_text("x", 3)
    for raw in raws:
        raw.socket.close()
    wait_for(lambda: httpx.get(service.url + path, trust_env=False).content == made.content,
             "what the others held")
    assert httpx.get(f"{service.url}/v1/files/{file}/content", trust_env=False).content == b"x"
