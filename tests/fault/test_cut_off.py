"""A gateway whose way to the broker is bad: what it had begun is ended well, and its clients are
answered, whatever moment it happens in (tests/relay.py)."""

import collections
import contextlib
import os
import random
import re
import secrets
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from batches import answers, begin, client, end, line
from harness import Service, Stream, fake_text, kill, wait_for
from relay import FarGateway, about


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """The service; its own gateway's way is good."""
    with Service(tmp_path_factory.mktemp("near"), workers=2, slots=4, max_queue=40,
                 model="fake:tokens=20,delay_ms=5") as service:
        yield service


@pytest.fixture
def far(near, tmp_path):
    """A gateway behind a relay; it must end well when it is asked to."""
    gateway = FarGateway(near, tmp_path / "far")
    try:
        yield gateway.wait_ready()
        assert gateway.stop() == 0, gateway.log()
    finally:
        gateway.kill()


def chat(content, **fields):
    return {"model": "default", "messages": [{"role": "user", "content": content}], **fields}


def post(gateway, path, body, timeout=60, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.post(gateway.gateway_url(0) + path, json=body, headers=headers, timeout=timeout,
                      trust_env=False)


def later(fn, *args, **kwargs):
    """A call in a thread of its own."""
    return ThreadPoolExecutor(1).submit(fn, *args, **kwargs)


@contextlib.contextmanager
def full_queue(service):
    """Two prompts that do not end: of max_queue=2 all there is."""
    one = client(service)
    fillers = [one.responses.create(model="default", background=True,
                                    input="f tokens=100000 delay_ms=20") for _ in range(2)]
    try:
        yield
    finally:
        for filler in fillers:
            one.responses.cancel(filler.id)


# ---- prompts ----

def test_a_pause_does_not_end_a_keys_prompt(near, far):
    """The queue has the prompt, but nobody heard so; who asked is told 503, and who asks again with
    the key gets that very reply, whole: it was not cancelled meanwhile."""
    body = chat("paused tokens=500 delay_ms=20")
    lost = far.relay.hold_answers(about(r"prompt\..*"), times=99)
    first = later(post, far, "/v1/chat/completions", body, idempotency_key="pause")
    lost.wait()
    far.relay.cut()
    refused = first.result()
    assert refused.status_code == 503, refused.text
    far.relay.heal()
    wait_for(far.ready, "its return")
    again = post(near, "/v1/chat/completions", body, idempotency_key="pause")
    assert again.status_code == 200, again.text
    assert again.json()["choices"][0]["message"]["content"] == fake_text("paused", 500)


def test_what_others_forgot_is_answered(near, far):
    """Cut off for so long that workers ended its prompts and response workers took their texts
    away: who still waits, for a whole reply or a stream, is told that it is gone."""
    with near.broker() as broker:
        known = set(broker.subjects("PROMPTS", "prompt.>"))
        whole = later(post, far, "/v1/chat/completions", chat("whole tokens=100000 delay_ms=20"),
                      timeout=150)
        stream = Stream(far, "stream tokens=100000 delay_ms=20").wait_text()
        wait_for(lambda: len(set(broker.subjects("PROMPTS", "prompt.>")) - known) == 2, "both")
        wait_for(lambda: far.log().count("prompt.accepted") == 2, "its hearing of it")
        ids = [s.rpartition(".")[2] for s in set(broker.subjects("PROMPTS", "prompt.>")) - known]
        far.relay.cut()
        for prompt_id in ids:
            wait_for(lambda i=prompt_id: forgotten(broker, i), "its end, and no text of it", 60)
    assert not whole.done() and not stream.future.done()
    far.relay.heal()
    answer = whole.result(60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    stream.join(60)
    assert stream.error["code"] == "unavailable" and stream.text


def forgotten(broker, prompt_id):
    record = broker.last("REPLIES", f"reply.*.{prompt_id}")
    return record is not None and record.json()["text"] is None


def text_of(broker, prompt_id):
    record = broker.last("REPLIES", f"reply.*.{prompt_id}")
    return record and record.json()["text"]


def unheard(far, broker, tag):
    """A prompt of `far` that the queue took, and that ended, without far's hearing any of it; and
    what cuts its way then."""
    known = set(broker.subjects("REPLIES", "reply.>"))
    lost = far.relay.hold_answers(about(r"prompt\..*"), times=99)
    asked = later(post, far, "/v1/chat/completions", chat(f"{tag} tokens=3"))
    lost.wait()
    new = wait_for(lambda: set(broker.subjects("REPLIES", "reply.>")) - known, "its record")
    prompt_id = new.pop().rpartition(".")[2]
    assert text_of(broker, prompt_id) == fake_text(tag, 3)
    wait_for(lambda: not broker.subjects("PROMPTS", f"prompt.*.*.{prompt_id}"), "its leaving")

    def cut():
        far.relay.cut()
        lost.release()  # to nobody: what is asked for from now on is answered

    return asked, prompt_id, cut


def test_what_was_said_to_nobody_is_not_kept(near, far):
    """The queue took a prompt, and it was answered; its gateway heard neither, and told its client
    503.  When the gateway is back it takes the text away."""
    with near.broker() as broker:
        asked, prompt_id, cut = unheard(far, broker, "unheard")
        cut()
        assert asked.result().status_code == 503
        far.relay.heal()
        wait_for(lambda: text_of(broker, prompt_id) is None, "its text to be gone")


def test_what_was_said_goes_though_the_way_was_bad(near, far):
    """The reply was delivered, but that its text is to go never reached the broker."""
    with near.broker() as broker:
        lost = far.relay.hold_up(about(r"reply\..*"), times=99)
        reply = post(far, "/v1/chat/completions", chat("lost tokens=3")).json()
        assert reply["choices"][0]["message"]["content"] == fake_text("lost", 3)
        lost.wait()
        prompt_id = reply["id"].removeprefix("chatcmpl-")
        assert text_of(broker, prompt_id) == fake_text("lost", 3)
        far.relay.cut()
        wait_for(lambda: "broker.away" in far.log(), "its noticing")
        lost.release()  # to nobody
        far.relay.heal()
        wait_for(lambda: text_of(broker, prompt_id) is None, "its text to be gone")


def test_what_was_refused_at_last_is_not_kept(start, tmp_path):
    """The same, but the queue is full when the prompt is put again."""
    service = start(workers=1, slots=2, max_queue=2)
    far = FarGateway(service, tmp_path / "far").wait_ready()
    try:
        with service.broker() as broker:
            asked, prompt_id, cut = unheard(far, broker, "refused")
            with full_queue(service):
                cut()
                far.relay.heal()
                assert asked.result().status_code == 429
                wait_for(lambda: text_of(broker, prompt_id) is None, "its text to be gone")
        assert far.stop() == 0, far.log()
    finally:
        far.kill()


def test_a_stream_shows_signs_of_life_without_the_broker(near, far):
    """Its headers, when they are late."""
    with ThreadPoolExecutor(1) as pool, httpx.Client(trust_env=False, timeout=60) as http:
        def read():
            with http.stream("POST", far.gateway_url() + "/v1/chat/completions",
                             json=chat("late delay_ms=600000", stream=True)) as reply:
                begun.set()
                return reply.status_code, reply.read().decode()

        begun = threading.Event()
        reading = pool.submit(read)
        accepted = wait_for(lambda: re.search(r"prompt\.accepted prompt=(\w+)", far.log()),
                            "its acceptance")
        far.relay.cut()
        assert begun.wait(30), "no headers"
        with near.broker() as broker:
            broker.record(accepted[1])  # ended, as nobody was there to read it
        far.relay.heal()
        status, text = reading.result()
        assert status == 200 and '"error"' in text


def test_who_comes_when_the_broker_goes_is_heard(far):
    """A connection that is accepted just when the broker's ends often gets its descriptor's number;
    it must be listened to all the same."""
    over = threading.Event()

    def come():
        count = 0
        while not over.is_set():
            httpx.get(far.gateway_url() + "/health", timeout=30, trust_env=False)
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        people = [pool.submit(come) for _ in range(8)]
        try:
            for turn in range(1, 61):
                far.relay.cut()
                wait_for(lambda t=turn: far.log().count("broker.away") >= t, "its noticing")
                far.relay.heal()
                wait_for(lambda t=turn: far.log().count("broker.connected") >= t, "its return")
        finally:
            over.set()
        assert all(one.result() for one in people)


# ---- batches ----

LONG = "x" * 200_000


def test_a_batch_fails_while_lines_of_it_wait(start, tmp_path):
    """The queue is full, so two lines wait to be asked for again; then the input file's second
    chunk is not there any more."""
    service = start(workers=1, slots=2, max_queue=2)
    far = FarGateway(service, tmp_path / "far").wait_ready()
    try:
        full = far.relay.hold_answers(about(r"prompt\..*"), times=2)
        # once it is read to be checked, and then to be asked for
        chunk = far.relay.hold_up(about(r"\$JS\.API\.DIRECT\.GET\.OBJECTS", b".1\""), skip=1,
                                   times=99)
        with full_queue(service):
            batch = begin(client(far), [line(i, messages=[{"role": "user", "content": LONG}])
                                        for i in range(4)])
            full.wait(2)
            chunk.wait()
            client(service).files.delete(batch.input_file_id)
            full.release()
            chunk.release()
            done = end(client(service), batch)
        assert far.lives(), f"it died\n{far.log()}"
        assert done.status == "failed" and done.failed_at
        assert [fault.code for fault in done.errors.data] == ["input_file_gone"]
        assert far.stop() == 0, far.log()
    finally:
        far.kill()


def test_a_batch_is_cancelled_when_it_has_just_failed(near, far):
    """Its gateway found a wrong line; before it could say so the batch was cancelled elsewhere."""
    failed = far.relay.hold_up(about(r"obj\.batch\..*", b'"status":"failed"'), times=99)
    batch = begin(client(far), [line(0), "no line"])
    failed.wait()
    assert client(near).batches.cancel(batch.id).status == "cancelling"
    failed.release()
    done = end(client(near), batch)
    assert done.status == "cancelled" and done.cancelled_at >= done.cancelling_at
    assert wait_for(lambda: not marks(near, batch), "the mark's going") is True


def marks(service, batch):
    with service.broker() as broker:
        name = f"obj.batchrun.{batch.id.removeprefix('batch_')}"
        return broker.subjects("OBJECTS", name)


def test_an_orphan_behind_old_marks_is_found(near, tmp_path):
    """Marks of batches whose states are gone stand for days; behind fifty of them is a batch whose
    gateway died."""
    with near.broker() as broker:
        for _ in range(50):
            assert broker.request(f"obj.batchrun.{secrets.token_hex(16)}", b"").json()["seq"]
        far = FarGateway(near, tmp_path / "far").wait_ready()
        try:
            batch = begin(client(far), [line(i) for i in range(3)] +
                          [line(3, messages=[{"role": "user", "content": "t3 delay_ms=500"}])])
            wait_for(lambda: client(near).batches.retrieve(batch.id).status == "in_progress",
                     "its beginning")
        finally:
            far.kill()
        done = end(client(near), batch, 60)
        assert done.status == "completed" and done.request_counts.completed == 4
        assert len(answers(client(near), done.output_file_id)) == 4
        broker.api("STREAM.PURGE.OBJECTS", {"filter": "obj.batchrun.*"})


def wait_for_turn(service):
    """Until a worker has a line of a batch."""
    with service.broker() as broker:
        asked = wait_for(lambda: broker.subjects("PROMPTS", "prompt.*.batch.*"), "a line")
        prompt_id = next(iter(asked)).rpartition(".")[2]
        wait_for(lambda: broker.last("TOKENS", f"tok.*.{prompt_id}.c"), "its turn")


def test_a_batch_is_cancelled_while_nobody_moves_it(near, tmp_path):
    """Its gateway died; who takes it over ends the prompts that the other had asked for."""
    far = FarGateway(near, tmp_path / "far").wait_ready()
    try:
        batch = begin(client(far), [line(i, messages=[
            {"role": "user", "content": f"t{i} tokens=100000 delay_ms=20"}]) for i in range(3)])
        wait_for_turn(near)
    finally:
        far.kill()
    assert client(near).batches.cancel(batch.id).status == "cancelling"
    assert end(client(near), batch).status == "cancelled"
    with near.broker() as broker:
        wait_for(lambda: broker.count("PROMPTS") == 0, "an empty queue", 20)


# ---- its own end ----

def tag(service):
    """Of the service's own gateway: its prompts carry it."""
    with service.broker() as broker:
        broker.subscribe("state.gateway.*.gateway-0")
        heard = broker.messages(lambda got: any(m.subject.startswith("state.") for m in got))
        return heard[0].json()["boot"].encode()


def test_it_leaves_while_it_follows_anothers_reply(near, far):
    """It took a batch over whose line is being made: it hears of that prompt by subscriptions of
    its own, which end before what they belong to when it leaves without a broker."""
    batch = begin(client(near), [line(0, messages=[
        {"role": "user", "content": "t0 tokens=100000 delay_ms=20"}])])
    wait_for_turn(near)
    followed = far.relay.watch(about(r"\$JS\.API\.DIRECT\.GET\.REPLIES", b'"reply.%s.' % tag(near)))
    other = next(g["pid"] for g in near.status()["gateways"] if g["id"] == "gateway-0")
    os.kill(other, signal.SIGSTOP)  # no death: who is started in its place might be first to claim
    try:
        wait_for(lambda: f"batch.claimed id={batch.id.removeprefix('batch_')}" in far.log(),
                 "its claim", 40)
        wait_for(lambda: followed.seen, "its looking at the other's reply")
    finally:
        kill(other)
    far.relay.cut()
    wait_for(lambda: "broker.away" in far.log(), "its noticing")
    assert far.stop() == 0, far.log()
    wait_for(near.ready, "the service's own gateway")
    client(near).batches.cancel(batch.id)
    assert end(client(near), batch).status == "cancelled"
    with near.broker() as broker:  # cancelled while nobody moved it: its prompt may go on
        for subject in broker.subjects("PROMPTS", "prompt.*.batch.*"):
            stop(broker, subject.rpartition(".")[2])


def stop(broker, prompt_id):
    """What any gateway does that cancels a prompt."""
    claim = broker.last("TOKENS", f"tok.*.{prompt_id}.c")
    if claim is not None:  # else it is over
        broker.put(claim.stored_subject, {
            "v": 1, "kind": "tombstone", "nonce": secrets.token_hex(8), "previous": "",
            "worker": "", "node": "", "device": "", "boot": "", "deaths": 0, "attempt": 0,
            "started_at": time.time(), "reason": "cancelled"})
    broker.record(prompt_id)


# ---- all at once ----

class Crowd:
    """People who ask one gateway for all that it can do, and some of whom leave."""

    def __init__(self, near, far, seconds):
        self.near, self.far = near, far
        self.until = time.monotonic() + seconds
        self.statuses = collections.Counter()

    def one(self, seed):
        draw = random.Random(seed)
        acts = [self.whole, self.streamed, self.leaving, self.keyed, self.background, self.batch]
        turn = 0
        with httpx.Client(base_url=self.far.gateway_url(), timeout=60, trust_env=False) as http:
            while time.monotonic() < self.until:
                turn += 1
                act = draw.choice(acts)
                self.statuses[act.__name__, act(http, draw, f"c{seed}x{turn}")] += 1

    @staticmethod
    def whole(http, draw, tag):
        return http.post("/v1/chat/completions",
                         json=chat(f"{tag} tokens=20 delay_ms={draw.randrange(20)}")).status_code

    @staticmethod
    def streamed(http, draw, tag):
        with http.stream("POST", "/v1/chat/completions", json=chat(
                f"{tag} tokens=40 delay_ms={draw.randrange(20)}", stream=True)) as reply:
            text = reply.read().decode()
        assert reply.status_code != 200 or "[DONE]" in text
        return reply.status_code

    @staticmethod
    def leaving(http, draw, tag):
        with contextlib.suppress(httpx.TimeoutException):
            http.post("/v1/completions", timeout=draw.random(), json={
                "model": "default", "prompt": f"{tag} tokens=1000 delay_ms=10",
                "stream": draw.random() < 0.5})
        return 0

    def keyed(self, http, draw, tag):
        body = {"model": "default", "input": f"{tag} tokens=20 delay_ms=10"}
        first = http.post("/v1/responses", json=body, headers={"idempotency-key": tag})

        def come_again():
            again = post(self.near, "/v1/responses", body, idempotency_key=tag)
            return None if again.status_code == 429 else again  # full, of all these people's

        again = wait_for(come_again, "room for it", 60, 0.2)
        assert again.status_code == 200, again.text
        assert fake_text(tag, 20) in again.text
        return first.status_code

    def background(self, http, draw, tag):
        begun = http.post("/v1/responses", json={
            "model": "default", "background": True, "input": f"{tag} tokens=40 delay_ms=10"})
        if begun.status_code != 200:
            return begun.status_code
        name = f"/v1/responses/{begun.json()['id']}"
        fate = draw.choice(["follow", "cancel", "delete"])
        if fate == "cancel":
            return http.post(name + "/cancel").status_code
        if fate == "delete":
            return http.delete(name).status_code
        return http.get(name, params={"stream": "true"}).status_code

    def batch(self, http, draw, tag):
        try:
            batch = begin(client(self.far), [line(i) for i in range(5)])
            if draw.random() < 0.5:
                client(self.far).batches.cancel(batch.id)
        except openai.APIStatusError as error:
            return error.status_code
        done = end(client(self.near, retries=3), batch, 90)
        assert done.status in ("completed", "cancelled"), done
        return 200


def test_a_way_that_breaks_again_and_again(near, far):
    """Everybody is answered, the gateway stays, and nothing is left of what is not kept."""
    draw = random.Random(7)
    crowd = Crowd(near, far, 15)
    with near.broker() as broker, ThreadPoolExecutor(16) as pool:
        known = set(broker.subjects("REPLIES", "reply.>"))
        people = [pool.submit(crowd.one, seed) for seed in range(16)]
        while time.monotonic() < crowd.until:
            wait_for(far.ready, "its way")
            time.sleep(draw.random())  # the moment is arbitrary on purpose
            far.relay.cut()
            time.sleep(draw.random() * draw.choice([0.2, 1, 3]))
            far.relay.heal()
        for one in people:
            one.result(120)
        assert far.lives(), far.log()
        assert crowd.statuses.keys() & {("whole", 200), ("streamed", 200)}, crowd.statuses
        wait_for(lambda: broker.count("PROMPTS") == 0, "an empty queue", 60)
        wait_for(lambda: not any(w["active"] for w in near.workers()), "free slots")
        records = [broker.request(f"$JS.API.DIRECT.GET.REPLIES.{name}").json()
                   for name in set(broker.subjects("REPLIES", "reply.>")) - known]
        wait_for(lambda: not [r["id"] for r in records
                              if not r["detached"] and text_of(broker, r["id"]) is not None],
                 "their texts to be gone", 60)
