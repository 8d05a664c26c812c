"""Replies that survive, as a person meets them: gateways, workers and the broker are killed under
detached replies, and who comes back gets every event once; what is not detached ends with its
reader or its gateway; an Idempotency-Key never makes two generations.

The fake engine numbers its pieces (TAG.0 TAG.1 …): a gap, a repeat or a mix-up shows.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import struct
import time
from datetime import datetime

import httpx
import pytest

from harness import House, fake_text, kill, process_start, run, sse_events, wait_for

AGAIN = (httpx.TransportError, ConnectionError)


@pytest.fixture(scope="module")
def whole_house(tmp_path_factory):
    """Everything that a test kills comes back, so one service does for all of them."""
    house = House(tmp_path_factory.mktemp("survival"), gateways=2, workers=2, slots=4,
                  model="fake:tokens=20,delay_ms=10")
    with house.service:
        yield house


def is_whole(house):
    with contextlib.suppress(*AGAIN):
        if not all(house.service.ready(house.service.gateway_url(i)) for i in range(2)):
            return False
        status = house.status()
        workers = [w for node in status["nodes"] for w in node["workers"]]
        # One that was killed is still told of until its successor is heard, or for 5 s.
        return (len(status["gateways"]) == 2 and len(workers) == 2
                and all(p["pid"] and process_start(p["pid"])
                        for p in [status["broker"], *status["gateways"], *workers])
                and all(w["state"] == "ready" and w["active"] == 0 for w in workers)
                and status["queue"]["waiting"] == status["queue"]["in_flight"] == 0)
    return False


@pytest.fixture
def house(whole_house):
    """Whole before the test, and whole again after it: no slot may stay taken."""
    wait_for(lambda: is_whole(whole_house), "a service at rest", 30)
    yield whole_house
    wait_for(lambda: is_whole(whole_house), "a service at rest again", 30)


def status_at(house, index):
    """What one gateway says, as soon as it answers."""
    def one():
        with contextlib.suppress(*AGAIN), house.http(index) as http:
            return http.get("/wyvern/status").json()

    return wait_for(one, f"gateway {index}", 30)


def gateway_pid(house, index):
    """By what it says of itself: others may not have heard of it yet."""
    port = house.service.port + index
    return wait_for(lambda: next((g["pid"] for g in status_at(house, index)["gateways"]
                                  if g["url"].endswith(f":{port}")), None), "its presence")


def kill_gateway(house, index):
    """Another comes after it, on the same port; who asks there waits for it."""
    kill(gateway_pid(house, index))


def records(house, prompt_id):
    """The record of a prompt, None while there is none."""
    with house.service.broker() as broker:
        for name in broker.subjects("REPLIES", f"reply.*.{prompt_id}"):
            return broker.request(f"$JS.API.DIRECT.GET.REPLIES.{name}").json()
    return None


def claims(house, prompt_id):
    """(when it was stored, claim) of all that were made for a prompt; the latest alone is kept."""
    with house.service.broker() as broker:
        found = []
        for name in broker.subjects("TOKENS", f"tok.*.{prompt_id}.c"):
            got = broker.request(f"$JS.API.DIRECT.GET.TOKENS.{name}")
            stamp = got.headers["Nats-Time-Stamp"]
            when = datetime.fromisoformat(stamp[:26].rstrip("Z") + "+00:00").timestamp()
            found.append((when, got.json()))
        return found


def holder(house, prompt_id):
    """The pid of the worker that has a reply in hand."""
    (_, claim), = claims(house, prompt_id)
    return next(w["pid"] for node in house.status()["nodes"] for w in node["workers"]
                if w["id"] == claim["worker"])


def stored_pieces(house, prompt_id):
    with house.service.broker() as broker:
        return sum(len(message.json()["pieces"])
                   for message in broker.stored("TOKENS", f"tok.*.{prompt_id}.p"))


class Reader:
    """A raw socket that reads a stream of events and can drop the connection at any byte."""

    def __init__(self, house, gateway, method, path, body=None, who="ann", window=None):
        data = b"" if body is None else json.dumps(body).encode()
        self.socket = socket.socket()
        self.socket.settimeout(60)
        if window is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self.socket.connect(("127.0.0.1", house.service.port + gateway))
        self.socket.sendall(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: Bearer {house.keys[who]}\r\nContent-Length: {len(data)}\r\n\r\n"
            .encode() + data)
        self.file = self.socket.makefile("r", encoding="utf-8", newline="\n")
        if not (first := self.file.readline()):
            raise ConnectionError("cut before its answer")
        self.status = int(first.split(" ")[1])
        chunked = False
        while (line := self.file.readline().strip()):
            chunked |= line.lower() == "transfer-encoding: chunked"
        assert chunked or self.status != 200
        self.events = sse_events(self._lines())

    def _lines(self):
        rest = ""
        while (size := int(self.file.readline().strip() or "0", 16)) > 0:
            data = b""
            text = ""
            while len(data) < size:  # the fake engine's texts are ASCII
                text += self.file.read(size - len(data))
                if len(text) == len(data):
                    raise ConnectionError("cut in mid-chunk")
                data = text.encode()
            self.file.readline()
            rest += text
            *lines, rest = rest.split("\n")
            yield from lines

    def take(self, count):
        return [next(self.events) for _ in range(count)]

    def drop(self):
        """With a reset, as a process that dies does it."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.file.close()
        self.socket.close()


def numbers(events):
    return [json.loads(data)["sequence_number"] for _, data in events]


def text_of(events):
    return "".join(json.loads(data)["delta"] for name, data in events
                   if name == "response.output_text.delta")


def resume(house, response_id, after, gateway):
    """A reader from `after` on, as soon as that gateway and the broker answer again."""
    def one():
        with contextlib.suppress(*AGAIN):
            reader = Reader(house, gateway, "GET",
                            f"/v1/responses/{response_id}?stream=true&starting_after={after}")
            if reader.status == 200:
                return reader
            assert reader.status == 503, reader.status
        return None

    return wait_for(one, f"gateway {gateway}", 30)


def answer_of(house, response_id, gateway):
    """The response once it has ended, asked for at a gateway that may be away for a while."""
    def one():
        with contextlib.suppress(*AGAIN):
            with house.http(gateway) as http:
                got = http.get(f"/v1/responses/{response_id}")
            assert got.status_code in (200, 503), got.text
            if got.status_code == 200 and got.json()["status"] not in ("queued", "in_progress"):
                return got.json()
        return None

    return wait_for(one, f"the end of {response_id}", 60)


def cancel(house, response_id, gateway=0):
    """The response that was cancelled just now, in its middle."""
    def one():
        with contextlib.suppress(*AGAIN), house.http(gateway) as http:
            got = http.post(f"/v1/responses/{response_id}/cancel")
            assert got.status_code in (200, 503), got.text
            return got.json() if got.status_code == 200 else None

    response = wait_for(one, "its cancelling", 30)
    assert response["status"] == "cancelled"
    return response


def said(response):
    return response["output"][0]["content"][0]["text"]


# ---- detached ----

def test_its_gateway_is_killed_and_a_background_reply_is_whole(house):
    reply = house.ann[1].responses.create(model="default", background=True,
                                          input="bg tokens=120 delay_ms=20")
    wait_for(lambda: house.ann[0].responses.retrieve(reply.id).status != "queued", "its turn")
    watcher = resume(house, reply.id, -1, 0)
    seen = watcher.take(10)
    kill_gateway(house, 1)
    seen += watcher.events
    assert numbers(seen) == list(range(5 + 120 + 4))
    assert text_of(seen) == fake_text("bg", 120)
    for gateway in range(2):
        whole = answer_of(house, reply.id, gateway)
        assert (whole["status"], said(whole)) == ("completed", fake_text("bg", 120))
        assert whole["wyvern"]["attempt"] == 1, "the worker was not disturbed"


def test_its_gateway_is_killed_and_a_waiting_background_reply_gets_its_turn(house):
    fillers = [house.ann[0].responses.create(model="default", background=True,
                                             input=f"f{i} tokens=100000 delay_ms=50")
               for i in range(8)]
    try:
        wait_for(lambda: house.active() == 8, "busy slots")
        reply = house.ann[1].responses.create(model="default", background=True,
                                              input="late tokens=7")
        kill_gateway(house, 1)
        assert house.ann[0].responses.retrieve(reply.id).status == "queued"
    finally:
        for filler in fillers:
            house.ann[0].responses.delete(filler.id)
    assert said(answer_of(house, reply.id, 0)) == fake_text("late", 7)


@pytest.mark.parametrize("background", [False, True])
def test_a_reader_comes_back_after_everything_died(house, background):
    """Its socket dropped, the worker killed, its gateway killed, the broker killed, one after
    another in mid-reply, each time resumed by number at the other gateway: every event once, in
    order, the same as from the record.  (It is cancelled when all of them have died, so that it is
    in its middle each time.)"""
    body = {"model": "default", "stream": True, "background": background,
            "input": "saga tokens=100000 delay_ms=20"}
    reader = Reader(house, 0, "POST", "/v1/responses", body)
    seen = reader.take(20)
    response_id = json.loads(seen[0][1])["response"]["id"]
    reader.drop()

    reader = resume(house, response_id, numbers(seen)[-1], 1)
    seen += reader.take(20)
    kill(holder(house, response_id[5:]))
    seen += reader.take(20)  # another worker goes on; this reader notices a pause
    reader.drop()

    kill_gateway(house, 0)  # the one that owns it
    reader = resume(house, response_id, numbers(seen)[-1], 1)
    seen += reader.take(20)
    kill(status_at(house, 1)["broker"]["pid"])
    seen += reader.take(60)
    kill_gateway(house, 1)
    with pytest.raises((StopIteration, *AGAIN)):
        while True:
            seen += reader.take(1)

    reader = resume(house, response_id, numbers(seen)[-1], 0)
    seen += reader.take(20)
    cancel(house, response_id)
    seen += reader.events
    pieces = sum(name == "response.output_text.delta" for name, _ in seen)
    assert numbers(seen) == list(range((5 if background else 4) + pieces + 4))
    assert text_of(seen) == fake_text("saga", pieces)
    assert json.loads(seen[-1][1])["response"]["wyvern"]["attempt"] >= 2
    assert list(resume(house, response_id, -1, 1).events) == seen


def test_a_stored_chat_goes_on_without_its_reader(house):
    reader = Reader(house, 1, "POST", "/v1/chat/completions", {
        "model": "default", "store": True, "stream": True,
        "messages": [{"role": "user", "content": "kept tokens=100 delay_ms=15"}]})
    chat_id = json.loads(reader.take(3)[0][1])["id"]
    reader.drop()
    kill_gateway(house, 1)

    def there():
        with house.http(0) as http:
            got = http.get(f"/v1/chat/completions/{chat_id}")
        return got.json() if got.status_code == 200 else None

    got = wait_for(there, "the whole reply", 30)
    assert got["choices"][0]["message"]["content"] == fake_text("kept", 100)


def test_one_of_several_readers_leaves(house):
    reply = house.ann[0].responses.create(model="default", background=True,
                                          input="many tokens=80 delay_ms=20")
    readers = [resume(house, reply.id, -1, i % 2) for i in range(6)]
    seen = [reader.take(8) for reader in readers]
    readers[0].drop()
    readers[3].drop()
    for i in (1, 2, 4, 5):
        seen[i] += readers[i].events
        assert numbers(seen[i]) == list(range(5 + 80 + 4))
        assert seen[i] == seen[1]


def test_a_reader_comes_while_it_waits(house):
    fillers = [house.ann[0].responses.create(model="default", background=True,
                                             input=f"f{i} tokens=100000 delay_ms=50")
               for i in range(8)]
    try:
        wait_for(lambda: house.active() == 8, "busy slots")
        reply = house.ann[0].responses.create(model="default", background=True,
                                              input="early tokens=30 delay_ms=10")
        readers = [resume(house, reply.id, -1, i) for i in range(2)]
        seen = [reader.take(5) for reader in readers]  # what is known before its turn
        assert house.ann[1].responses.retrieve(reply.id).status == "queued"
    finally:
        for filler in fillers:
            house.ann[0].responses.delete(filler.id)
    for events, reader in zip(seen, readers):
        events += reader.events
        assert numbers(events) == list(range(5 + 30 + 4))
        assert text_of(events) == fake_text("early", 30)


def test_a_gateway_is_asked_to_leave(house):
    """It does not wait for replies that go on without it: this one would never let it go."""
    reply = house.ann[1].responses.create(model="default", background=True,
                                          input="stays tokens=100000 delay_ms=20")
    wait_for(lambda: house.ann[0].responses.retrieve(reply.id).status == "in_progress", "its turn")
    pid = gateway_pid(house, 1)
    begun = process_start(pid)
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: process_start(pid) != begun, "its leaving")
    assert house.ann[0].responses.retrieve(reply.id).status == "in_progress"
    before = stored_pieces(house, reply.id[5:])
    wait_for(lambda: stored_pieces(house, reply.id[5:]) > before + 10, "its going on")
    text = said(cancel(house, reply.id))
    assert text == fake_text("stays", text.count(" "))


def test_a_poisonous_background_reply_fails_in_order(house):
    """Three workers die of it: its readers hear what was said, then response.failed."""
    # slow: what a worker has said is stored before it dies, if not by the first then by the next
    reply = house.ann[1].responses.create(model="default", background=True,
                                          input="poison tokens=60 crash_at=3 delay_ms=100")
    reader = resume(house, reply.id, -1, 0)
    events = list(reader.events)
    assert numbers(events) == list(range(5 + 3 + 1))
    assert text_of(events) == fake_text("poison", 3)
    ended = json.loads(events[-1][1])
    assert (ended["type"], ended["response"]["status"]) == ("response.failed", "failed")
    assert house.events(reply.id, gateway=1) == events
    assert house.ann[1].responses.retrieve(reply.id).status == "failed"


def memory(pid):
    """Resident KiB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))


def test_a_long_reply_is_resumed_at_its_readers_pace(house):
    """What is stored waits for a reader with a narrow window; all of it comes, once."""
    reply = house.ann[0].responses.create(model="default", background=True,
                                          input="epic tokens=30000 delay_ms=0")
    answer_of(house, reply.id, 0)
    reader = Reader(house, 1, "GET", f"/v1/responses/{reply.id}?stream=true&starting_after=9",
                    window=4096)
    events = reader.take(100)
    pid = gateway_pid(house, 1)
    assert memory(pid) < 128 * 1024
    events += reader.events
    assert numbers(events) == list(range(10, 5 + 30000 + 4))
    assert text_of(events) == fake_text("epic", 30000, 5)
    # others that leave in the middle of it
    for _ in range(3):
        reader = Reader(house, 1, "GET", f"/v1/responses/{reply.id}?stream=true", window=4096)
        reader.take(50)
        reader.drop()
    assert house.ann[1].responses.retrieve(reply.id).status == "completed"
    assert gateway_pid(house, 1) == pid


def test_a_reader_that_does_not_read(house):
    """It costs its gateway a bounded memory, and its reply nothing."""
    pid = gateway_pid(house, 0)
    before = memory(pid)
    tag = "x" * 60
    reader = Reader(house, 0, "POST", "/v1/responses", {
        "model": "default", "stream": True, "input": f"{tag} tokens=20000 delay_ms=0"})
    response_id = json.loads(reader.take(1)[0][1])["response"]["id"]
    whole = answer_of(house, response_id, 1)
    assert said(whole) == fake_text(tag, 20000)
    assert memory(pid) - before < 64 * 1024
    assert gateway_pid(house, 0) == pid
    reader.drop()


# ---- not detached ----

def chat(text, **fields):
    return {"model": "default", "messages": [{"role": "user", "content": text}], **fields}


OWNED = [("/v1/chat/completions", lambda t: chat(t, stream=True)),
         ("/v1/completions", lambda t: {"model": "default", "prompt": t, "stream": True,
                                        "max_tokens": 100000}),
         ("/v1/responses", lambda t: {"model": "default", "input": t, "stream": True,
                                      "store": False})]
OWNED_IDS = ["chat", "completions", "responses"]


def public_id(event):
    body = json.loads(event[1])
    return (body.get("response") or body)["id"]


def prompt_of(event):
    return public_id(event).rpartition("_")[2].rpartition("-")[2]


@pytest.mark.parametrize("path,body", OWNED, ids=OWNED_IDS)
def test_its_reader_leaves_and_the_slot_is_free(house, path, body):
    """The slot is free for the next at the next decode step, and not when some clock strikes.  What
    else runs on this machine may delay rounds, so the best of some counts, and most must be far
    from the 5 s after which silence ends a reply."""
    step = 0.05
    slow = f"tokens=100000 delay_ms={int(step * 1000)}"
    fillers = [house.ann[0].responses.create(model="default", background=True,
                                             input=f"f{i} {slow}") for i in range(7)]
    took = []
    try:
        wait_for(lambda: house.active() == 7, "busy slots")
        reader = Reader(house, 0, "POST", path, body(f"r {slow}"))
        reader.take(3)
        for turn in range(6):
            waiting = house.ann[1].responses.create(model="default", background=True,
                                                    input=f"next{turn} {slow}")
            wait_for(lambda: house.status()["queue"]["waiting"] == 1, "a prompt that waits")
            left = time.time()
            reader.drop()
            (claimed, claim), = wait_for(lambda: claims(house, waiting.id[5:]), "its claim")
            assert claim["kind"] == "held"
            took.append(claimed - left)
            house.ann[1].responses.cancel(waiting.id)
            reader = Reader(house, turn % 2, "POST", path, body(f"r{turn} {slow}"))
            reader.take(3)
        reader.drop()
    finally:
        for filler in fillers:
            house.ann[0].responses.delete(filler.id)
    assert min(took) <= step + 0.3, took
    assert sorted(took)[3] <= 3, took


@pytest.mark.parametrize("path,body", OWNED, ids=OWNED_IDS)
@pytest.mark.parametrize("stream", [True, False])
def test_its_reader_leaves_while_it_waits(house, path, body, stream):
    """The prompt is gone from the queue; one that is detached stays there."""
    fillers = [house.ann[0].responses.create(model="default", background=True,
                                             input=f"f{i} tokens=100000 delay_ms=50")
               for i in range(8)]
    try:
        wait_for(lambda: house.active() == 8, "busy slots")
        kept = house.ann[1].responses.create(model="default", background=True,
                                             input="kept tokens=3")
        request = {**body("gone tokens=3"), "stream": stream}
        data = json.dumps(request).encode()
        with house.service.broker() as broker:
            sock = socket.create_connection(("127.0.0.1", house.service.port), 30)
            sock.sendall(
                f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {house.keys['ann']}\r\n"
                f"Content-Length: {len(data)}\r\n\r\n".encode() + data)

            def waiting():
                held = {f.id[5:] for f in fillers}
                names = {n.rpartition(".")[2]
                         for n in broker.subjects("PROMPTS", "prompt.>")}
                return names - held - {kept.id[5:]}

            gone, = wait_for(waiting, "the prompt in the queue")
            sock.close()
            wait_for(lambda: not waiting(), "the prompt to be gone")
            assert broker.subjects("PROMPTS", f"prompt.*.*.{kept.id[5:]}")
        assert all(claim["kind"] == "tombstone" for _, claim in claims(house, gone))
    finally:
        for filler in fillers:
            house.ann[0].responses.delete(filler.id)
    assert said(answer_of(house, kept.id, 0)) == fake_text("kept", 3)


def test_a_gateway_dies_and_what_is_not_detached_with_it(house):
    """Workers drop it about 5 s later and nobody keeps its text; what is detached goes on."""
    slow = "tokens=100000 delay_ms=20"
    owned = [Reader(house, 1, "POST", path, body(f"own{i} {slow}"))
             for i, (path, body) in enumerate(OWNED)]
    ids = [prompt_of(reader.take(4)[0]) for reader in owned]
    detached = house.ann[1].responses.create(model="default", background=True,
                                             input="goes tokens=100000 delay_ms=20")
    kill_gateway(house, 1)
    died = time.time()
    for prompt_id in ids:
        record = wait_for(lambda i=prompt_id: records(house, i), "the workers' dropping it", 30)
        assert record["status"] == "cancelled"
        took = record["finished_at"] - died
        assert took < 12, took  # 5 s and what a busy machine adds
    assert house.ann[0].responses.retrieve(detached.id).status == "in_progress"
    text = said(cancel(house, detached.id))
    assert text == fake_text("goes", text.count(" ")) != ""
    for prompt_id in ids:
        assert "own" not in (records(house, prompt_id)["text"] or ""), "its text is kept"


def test_what_ended_after_its_gateway_died_is_forgotten(house):
    """Its worker was done before it noticed; a response worker takes the text away."""
    readers = [Reader(house, 1, "POST", path, body(f"late{i} tokens=60 delay_ms=20"))
               for i, (path, body) in enumerate(OWNED)]
    ids = [prompt_of(reader.take(4)[0]) for reader in readers]
    kept = house.ann[1].responses.create(model="default", background=True,
                                         input="kept tokens=60 delay_ms=20")
    kill_gateway(house, 1)
    for prompt_id in ids:
        record = wait_for(lambda i=prompt_id: records(house, i), "its end", 30)
        assert record["status"] == "completed" and record["reply_tokens"] == 60
    for prompt_id in ids:
        wait_for(lambda i=prompt_id: records(house, i)["text"] is None, "its text to be gone", 40)
    assert said(answer_of(house, kept.id, 0)) == fake_text("kept", 60)


@pytest.mark.parametrize("wait_ms", [0, 2, 10])
def test_readers_that_leave_at_once(house, wait_ms):
    """Before the prompt is acknowledged, or just after: nothing stays, in the queue or in a slot
    (the fixture looks)."""
    known = set()
    with house.service.broker() as broker:
        known = set(broker.subjects("REPLIES", "reply.>"))
    for i in range(60):
        path, body = OWNED[i % 3]
        data = json.dumps(body(f"hasty{i} tokens=100000 delay_ms=20")).encode()
        with socket.create_connection(("127.0.0.1", house.service.port + i % 2), 30) as sock:
            sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n"
                         f"Authorization: Bearer {house.keys['ann']}\r\n\r\n".encode() + data)
            select.select([sock], [], [], wait_ms / 1000)  # the moment is arbitrary on purpose
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: is_whole(house), "free slots and an empty queue", 30)
    with house.service.broker() as broker:
        new = set(broker.subjects("REPLIES", "reply.>")) - known
        assert new or wait_ms < 10, "none came as far as the queue"
        for name in new:
            wait_for(lambda n=name: b"hasty" not in broker.request(
                f"$JS.API.DIRECT.GET.REPLIES.{n}").data, "its text to be gone")


def test_what_nobody_stored_is_nowhere(house):
    """After its delivery, and after its reader left in mid-reply."""
    with house.http() as http:
        for path, body in OWNED:
            whole = http.post(path, json={**body("veil tokens=4"), "stream": False})
            assert "veil.3" in whole.text
            prompt_id = whole.json()["id"].rpartition("_")[2].rpartition("-")[2]
            wait_for(lambda i=prompt_id: (records(house, i) or {"text": 1})["text"] is None,
                     "its text to be gone")
            reader = Reader(house, 0, "POST", path, body("veil tokens=100000"))
            prompt_id = prompt_of(reader.take(5)[0])
            reader.drop()
            wait_for(lambda i=prompt_id: "veil" not in json.dumps(
                records(house, i) or {"text": "veil"}), "its text to be gone")


# ---- Idempotency-Key ----

async def post_many(house, count, key, path, body, who="ann"):
    headers = {"authorization": f"Bearer {house.keys[who]}", "idempotency-key": key}
    async with httpx.AsyncClient(trust_env=False, timeout=60, headers=headers,
                                 limits=httpx.Limits(max_connections=None)) as http:
        return await asyncio.gather(*(
            http.post(house.service.gateway_url(i % 2) + path, json=body) for i in range(count)))


def post_key(house, key, path, body, gateway=0, who="ann"):
    with house.http(gateway, who) as http:
        return http.post(path, json=body, headers={"idempotency-key": key})


def generations(house, tag, known={}):
    """Prompts whose kept reply begins with a tag.  (Kept ones do not change: each is read once.)"""
    with house.service.broker() as broker:
        for name in broker.subjects("REPLIES", "reply.>"):
            if name not in known:
                record = broker.request(f"$JS.API.DIRECT.GET.REPLIES.{name}").json()
                known[name] = (record["id"], (record.get("text") or "")[:80])
    return [prompt for prompt, text in known.values() if text.startswith(f"{tag}.")]


KEYED = [("/v1/chat/completions", lambda t: chat(t)),
         ("/v1/completions", lambda t: {"model": "default", "prompt": t, "max_tokens": 30}),
         ("/v1/responses", lambda t: {"model": "default", "input": t})]


@pytest.mark.parametrize("path,body", KEYED, ids=OWNED_IDS)
@pytest.mark.parametrize("turn", range(3))
def test_twenty_at_once_with_one_key(house, path, body, turn):
    """Over two gateways: one generation, one id, one text; and the same from then on."""
    tag = f"idem{[p for p, _ in KEYED].index(path)}x{turn}"
    request = body(f"{tag} tokens=30 delay_ms=10")
    with house.service.broker() as broker:
        broker.subscribe("live.*.*.c")
        broker.flush()
        replies = asyncio.run(post_many(house, 20, tag, path, request))
        claimed = {m.subject.split(".")[2] for m in broker.messages(lambda _: True, 0)}
        broker.flush()
        claimed |= {m.subject.split(".")[2] for m in broker.messages(lambda _: True, 0)}
    assert {r.status_code for r in replies} == {200}, [r.text for r in replies]
    assert len({r.json()["id"] for r in replies}) == 1
    bodies = {r.text for r in replies}
    assert len(bodies) == 1
    assert fake_text(tag, 30) in bodies.pop()
    assert len(claimed) == 1, "several were generated"
    later = post_key(house, tag, path, request, turn % 2)
    assert later.text == replies[0].text
    assert len(generations(house, tag)) == 1


def test_one_key_streamed(house):
    """Who comes later to a stream gets all of it, too."""
    body = {"model": "default", "stream": True, "input": "flow tokens=60 delay_ms=20"}
    replies = asyncio.run(post_many(house, 10, "flow", "/v1/responses", body))
    later = post_key(house, "flow", "/v1/responses", body)
    events = [list(sse_events(r.text.split("\n"))) for r in [*replies, later]]
    assert numbers(events[0]) == list(range(4 + 60 + 4))
    assert all(e == events[0] for e in events)
    assert len(generations(house, "flow")) == 1


def test_several_texts_with_one_key(house):
    body = {"model": "default", "prompt": ["pa tokens=5", "pb tokens=6"], "n": 2,
            "max_tokens": 30}
    replies = asyncio.run(post_many(house, 10, "texts", "/v1/completions", body))
    assert {r.status_code for r in replies} == {200}, [r.text for r in replies]
    assert len({r.text for r in replies}) == 1
    assert [c["text"] for c in replies[0].json()["choices"]] == \
        [fake_text("pa", 5)] * 2 + [fake_text("pb", 6)] * 2
    assert len(generations(house, "pa")) == len(generations(house, "pb")) == 2


def test_a_key_for_something_else(house):
    path = "/v1/chat/completions"
    first = post_key(house, "once", path, chat("once tokens=3"))
    for gateway in range(2):
        for other in (chat("once tokens=4"), chat("once tokens=3", stream=True),
                      chat("once tokens=3", user="ann")):
            got = post_key(house, "once", path, other, gateway)
            assert got.status_code == 409, got.text
            assert got.json()["error"]["code"] == "idempotency_key_reused"
            assert first.json()["id"] not in got.text
        got = post_key(house, "once", "/v1/completions", chat("once tokens=3"), gateway)
        assert got.status_code == 400, "what is wrong is refused before its key counts"
    assert post_key(house, "once", path, chat("once tokens=3"), 1).text == first.text


def test_another_persons_key_is_another_thing(house):
    path = "/v1/chat/completions"
    hers = post_key(house, "same", path, chat("hers tokens=3"), 0, "ann")
    his = post_key(house, "same", path, chat("his tokens=3"), 1, "bob")
    assert his.json()["choices"][0]["message"]["content"] == fake_text("his", 3)
    same = post_key(house, "same", path, chat("hers tokens=3"), 0, "bob")
    assert same.status_code == 409
    assert post_key(house, "same", path, chat("hers tokens=3"), 1, "ann").text == hers.text


@pytest.mark.parametrize("key", ["", "x" * 256, "x" * 5000])
def test_a_key_that_is_none(house, key):
    got = post_key(house, key, "/v1/chat/completions", chat("x tokens=1"))
    assert got.status_code == 400, got.text
    assert got.json()["error"]["param"] == "Idempotency-Key"


@pytest.mark.parametrize("key", ["*", ">", "a.b.c", "x" * 255, "grüße".encode(), "../../etc"])
def test_an_odd_key_is_a_key(house, key):
    path, body = "/v1/chat/completions", chat("odd tokens=2")
    first = post_key(house, key, path, body)
    assert first.status_code == 200, first.text
    assert post_key(house, key, path, body, 1).text == first.text


def test_two_keys_are_none(house):
    with house.http() as http:
        got = http.post("/v1/chat/completions", json=chat("x tokens=1"), headers=[
            ("idempotency-key", "a"), ("idempotency-key", "b")])
    assert got.status_code == 400
    assert got.json()["error"]["param"] == "Idempotency-Key"


def test_the_first_with_a_key_leaves(house):
    """Whoever comes after it with the same key gets the reply that was begun."""
    body = {"model": "default", "stream": True, "input": "left tokens=60 delay_ms=20"}
    data = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", house.service.port), 30)
    sock.sendall(f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nIdempotency-Key: left\r\n"
                 f"Authorization: Bearer {house.keys['ann']}\r\n"
                 f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    heard = b""
    while b"left.3" not in heard:
        got = sock.recv(65536)
        assert got
        heard += got
    sock.close()
    with house.http(1) as http:
        again = http.post("/v1/responses", content=data, headers={"idempotency-key": "left"})
    events = list(sse_events(again.text.split("\n")))
    assert numbers(events) == list(range(4 + 60 + 4))
    assert text_of(events) == fake_text("left", 60)
    assert len(generations(house, "left")) == 1


def test_the_gateway_is_killed_and_the_key_comes_again(house):
    body = {"model": "default", "input": "twice tokens=100 delay_ms=20"}
    data = json.dumps(body).encode()
    sock = socket.create_connection(("127.0.0.1", house.service.port + 1), 30)
    sock.sendall(f"POST /v1/responses HTTP/1.1\r\nHost: x\r\nIdempotency-Key: twice\r\n"
                 f"Authorization: Bearer {house.keys['ann']}\r\n"
                 f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
    wait_for(lambda: house.active() == 1 or generations(house, "twice"), "its turn")
    kill_gateway(house, 1)
    with house.http(0) as http:
        again = http.post("/v1/responses", content=data, headers={"idempotency-key": "twice"})
    assert again.status_code == 200, again.text
    assert said(again.json()) == fake_text("twice", 100)
    assert generations(house, "twice") == [again.json()["id"][5:]]
    sock.close()


def digest(*parts):
    """As src/config/digest.h has it."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(struct.pack("<Q", len(part)) + part)
    return sha.hexdigest()


def test_the_gateway_was_killed_between_key_and_prompt(house):
    """The key's object stands and names an id, but its prompt never came as far as the queue: who
    comes with the key puts it, once, whoever else comes at the same time."""
    listed = json.loads(run("key", "list", "--json", "--keys", house.key_file, check=0).stdout)
    owner = next(k["id"] for k in (listed["keys"] if "keys" in listed else listed)
                 if k["name"] == "ann").encode()
    body = {"model": "default", "input": "between tokens=20"}
    # as httpx writes it
    data = httpx.Request("POST", "http://x", json=body).read()
    prompt_id = os.urandom(16).hex()
    value = {"id": prompt_id, "body": digest(b"/v1/responses", data), "created": time.time()}
    with house.service.broker() as broker:
        put = broker.request(f"obj.idem.{digest(owner, b'between')}", value).json()
        assert put.get("stream") == "OBJECTS", put
    replies = asyncio.run(post_many(house, 20, "between", "/v1/responses", body))
    assert {r.status_code for r in replies} == {200}, [r.text for r in replies]
    assert {r.json()["id"] for r in replies} == {f"resp_{prompt_id}"}
    assert len({r.text for r in replies}) == 1
    assert said(replies[0].json()) == fake_text("between", 20)
    assert generations(house, "between") == [prompt_id]


def test_a_key_after_the_queue_was_full(start):
    service = start(workers=1, slots=1, max_queue=2)
    body = chat("kept tokens=4")
    slow = {"model": "default", "background": True, "input": "f tokens=100000 delay_ms=20"}
    with httpx.Client(base_url=service.url, trust_env=False, timeout=30) as http:
        fillers = [http.post("/v1/responses", json=slow).json()["id"] for _ in range(2)]
        for _ in range(2):
            full = http.post("/v1/chat/completions", json=body, headers={"idempotency-key": "k"})
            assert full.status_code == 429, full.text
            assert full.headers["retry-after"]
        for filler in fillers:
            assert http.post(f"/v1/responses/{filler}/cancel").status_code == 200
        with service.broker() as broker:
            wait_for(lambda: broker.count("PROMPTS") == 0, "room in the queue")
        replies = [http.post("/v1/chat/completions", json=body, headers={"idempotency-key": "k"})
                   for _ in range(2)]
    assert replies[0].status_code == 200, replies[0].text
    assert replies[0].json()["choices"][0]["message"]["content"] == fake_text("kept", 4)
    assert replies[1].text == replies[0].text
