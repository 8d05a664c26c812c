"""Processes are killed under load; no client may notice more than a pause.

The fake engine numbers its pieces, so each text is known exactly: TAG.0 TAG.1 …
"""

import contextlib
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import Stream, fake_text, kill, many, process_start, wait_for


def worker_pids(service):
    return {w["id"]: w["pid"] for w in service.workers()}


def broker_pid(service, old=0):
    """Of the broker that is there, and that the gateway has found; another than the old one."""
    def found():
        pid = service.status()["broker"]["pid"]
        return pid if pid != old and process_start(pid) else None

    pid = wait_for(found, "a broker")
    wait_for(service.ready, "its being found")
    return pid


def gateway_pid(service, index):
    return wait_for(lambda: next((g["pid"] for g in service.status()["gateways"]
                                  if g["url"].endswith(f":{service.port + index}")), None),
                    f"the presence of gateway {index}")


def responder_pids(service):
    def both():
        pids = [r["pid"] for r in service.status()["response_workers"]]
        return pids if len(pids) == 2 else None

    return wait_for(both, "both response workers")


class Endless:
    """A detached reply: whoever kills the worker that has it kills in mid-reply, however long this
    test or that worker was kept from running."""

    def __init__(self, service, tag="long", **fields):
        self.service, self.tag = service, tag
        body = {"model": "default", "background": True,
                "input": f"{tag} tokens=100000 delay_ms=20", **fields}
        made = service.client.post("/v1/responses", json=body)
        assert made.status_code == 200, made.text
        self.prompt_id = made.json()["id"].removeprefix("resp_")
        wait_for(self.pieces, "its first words", 60)

    def pieces(self):
        with self.service.broker() as broker:
            return broker.subjects("TOKENS", f"tok.*.{self.prompt_id}.p")

    def claim(self):
        with self.service.broker() as broker:
            return broker.last("TOKENS", f"tok.*.{self.prompt_id}.c").json()

    def holder(self):
        """(id, pid) of the worker that has it."""
        name = self.claim()["worker"]
        return name, worker_pids(self.service)[name]

    def wait_taken_over(self):
        """Until another worker goes on with it."""
        wait_for(lambda: self.claim()["attempt"] > 1, "its successor", 60)
        before = sum(self.pieces().values())
        wait_for(lambda: sum(self.pieces().values()) > before, "the successor's words", 60)

    def end(self):
        """It is cancelled; what was said until then."""
        ended = self.service.client.post(f"/v1/responses/resp_{self.prompt_id}/cancel").json()
        assert ended["status"] == "cancelled", ended
        return ended["output"][0]["content"][0]["text"]

    def check_end(self):
        text = self.end()
        assert text and text == fake_text(self.tag, text.count(" ")), "a gap or a repeat"


def check_whole(streams, length):
    for i, stream in enumerate(streams):
        stream.join()
        assert stream.error is None, (i, stream.error)
        assert stream.done
        assert stream.text == fake_text(f"s{i}", length), i


def test_a_worker_dies_in_mid_reply(start):
    service = start(workers=2, slots=8, model="fake:tokens=80,delay_ms=20")
    others = [Endless(service, f"o{i}") for i in range(2)]
    streams = [Stream(service, f"s{i}") for i in range(12)]
    for stream in streams:
        stream.wait_text()
    victim, pid = others[0].holder()
    held = [other.claim()["worker"] == victim for other in others]
    kill(pid)
    check_whole(streams, 80)
    assert {s.details["attempt"] for s in streams} <= {1, 2}
    for other, was_held in zip(others, held):
        if was_held:
            other.wait_taken_over()
    attempts = [other.claim()["attempt"] for other in others]
    assert attempts == [1 + was_held for was_held in held], \
        "the dead worker's replies, and only they, had a second attempt"
    for other in others:
        other.check_end()
    wait_for(lambda: [w["state"] for w in service.workers() if w["pid"] != pid] == ["ready"] * 2,
             "the worker's return")


def test_workers_die_again_and_again_under_load(start):
    service = start(workers=4, slots=4, nodes=2, model="fake:tokens=60,delay_ms=10")
    with ThreadPoolExecutor(60) as pool, service.broker() as broker:
        replies = [pool.submit(service.post, f"k{i}") for i in range(60)]
        for turn in range(4):
            time.sleep(0.3)  # the moment is arbitrary on purpose
            found = sorted((pid, name) for name, pid in worker_pids(service).items()
                           if process_start(pid))
            if found:
                kill_unless_fatal(broker, *found[turn % len(found)])
        bodies = [r.result() for r in replies]
    for i, reply in enumerate(bodies):
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == fake_text(f"k{i}", 60)
    ids = [r.json()["wyvern"]["prompt_id"] for r in bodies]
    assert len(set(ids)) == 60


def kill_unless_fatal(broker, pid, name):
    """Kills a worker that has no reply in hand which has cost two already: a third is its end."""
    os.kill(pid, signal.SIGSTOP)  # it claims nothing more
    found = [broker.last("TOKENS", subject) for subject in broker.subjects("TOKENS", "tok.*.*.c")]
    claims = [message.json() for message in found if message is not None]
    if any(claim["worker"] == name and claim["deaths"] >= 2 for claim in claims):
        os.kill(pid, signal.SIGCONT)
    else:
        kill(pid)


def test_a_worker_that_hangs_is_replaced_and_adds_nothing(start):
    """SIGSTOP: to the broker it looks cut off.  Continued, it must not write into a reply that
    another finished, or goes on with."""
    service = start(workers=2, slots=4, model="fake:tokens=150,delay_ms=20")
    long = Endless(service)
    streams = [Stream(service, f"s{i}") for i in range(6)]
    for stream in streams:
        stream.wait_text()
    _, pid = long.holder()
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: all(s.future.done() for s in streams), "all replies", 60)
        long.wait_taken_over()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    check_whole(streams, 150)
    long.check_end()


def test_the_broker_dies_under_load(start):
    service = start(workers=2, slots=8, model="fake:tokens=100,delay_ms=20")
    streams = [Stream(service, f"s{i}") for i in range(12)]
    for stream in streams:
        stream.wait_text()
    broker = broker_pid(service)
    kill(broker)
    check_whole(streams, 100)
    broker_pid(service, broker)
    assert service.text("after tokens=3") == fake_text("after", 3)


def test_the_broker_stands_still_and_nobody_is_called_dead(start):
    """Heartbeats do not come through, so prompts change hands; but no worker died of them."""
    service = start(workers=3, slots=3, model="fake:tokens=500,delay_ms=20")
    streams = [Stream(service, f"s{i}") for i in range(6)]
    for stream in streams:
        stream.wait_text()
    broker = service.status()["broker"]["pid"]
    os.kill(broker, signal.SIGSTOP)
    time.sleep(8)  # longer than the ack wait, and than a silence that means gone
    os.kill(broker, signal.SIGCONT)
    check_whole(streams, 500)
    logs = service.logs()
    assert "deaths=" not in logs.replace("deaths=0", ""), logs
    assert "owner_gone" not in logs


def test_the_broker_dies_with_prompts_waiting(start):
    service = start(workers=1, slots=2, model="fake:tokens=20,delay_ms=20")
    first = [Endless(service, f"first{i}") for i in range(2)]
    broker = broker_pid(service)
    with ThreadPoolExecutor(20) as pool:
        replies = [pool.submit(service.post, f"q{i}", timeout=120) for i in range(20)]
        wait_for(lambda: service.status()["queue"]["waiting"] == 20, "20 prompts that wait")
        kill(broker)
        broker_pid(service, broker)
        for one in first:
            one.check_end()
        bodies = [r.result() for r in replies]
    for i, reply in enumerate(bodies):
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == fake_text(f"q{i}", 20)


def test_the_broker_dies_between_a_prompts_delivery_and_its_claim(start):
    """A stopped worker finds prompts and the connection's end at once: it can't claim them."""
    service = start(workers=1, slots=4, model="fake:tokens=10,delay_ms=5")
    worker, broker = next(iter(worker_pids(service).values())), 0
    for turn in range(2):
        broker = broker_pid(service, broker)
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(4) as pool:
            replies = [pool.submit(service.post, f"c{turn}{i}") for i in range(4)]
            try:
                # delivered, where the worker had a pull under way
                wait_for(lambda: service.status()["queue"]["in_flight"]
                         or accepted(service, replies) >= 4, "prompts in the queue")
            finally:
                kill(broker)
                os.kill(worker, signal.SIGCONT)
            bodies = [r.result() for r in replies]
        for i, reply in enumerate(bodies):
            assert reply.status_code in (200, 503), reply.text
            if reply.status_code == 200:
                assert reply.json()["choices"][0]["message"]["content"] == \
                    fake_text(f"c{turn}{i}", 10)


def accepted(service, replies):
    queue = service.status()["queue"]  # null where the broker could not be asked
    return (queue["waiting"] or 0) + (queue["in_flight"] or 0) + sum(r.done() for r in replies)


def test_a_response_worker_dies_under_load(start):
    service = start(workers=2, slots=8, model="fake:tokens=20,delay_ms=10")
    victim = responder_pids(service)[0]
    with ThreadPoolExecutor(60) as pool:
        replies = [pool.submit(service.post, f"r{i}") for i in range(60)]
        wait_for(lambda: any(r.done() for r in replies), "the first reply")
        kill(victim)
        bodies = [r.result() for r in replies]
    for i, reply in enumerate(bodies):
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == fake_text(f"r{i}", 20)
    wait_for(lambda: victim not in responder_pids(service), "its return")


def test_a_gateway_that_is_asked_to_leave_finishes_its_replies(start):
    service = start(workers=1, slots=4, gateways=2, model="fake:tokens=60,delay_ms=20")
    streams = [Stream(service, f"s{i}", gateway=1) for i in range(4)]
    for stream in streams:
        stream.wait_text()
    os.kill(gateway_pid(service, 1), signal.SIGTERM)
    check_whole(streams, 60)


def test_a_gateway_dies_and_its_slots_are_free(start):
    service = start(workers=1, slots=2, gateways=2, model="fake:tokens=100000,delay_ms=20")
    streams = [Stream(service, f"s{i}", gateway=1).wait_text() for i in range(2)]
    pid = gateway_pid(service, 1)
    kill(pid)
    # after its presence has been missing for 5 s its prompts end, and others get their turn
    assert service.text("next tokens=3") == fake_text("next", 3)
    wait_for(lambda: all(s.future.done() for s in streams), "the cut connections")
    wait_for(lambda: gateway_pid(service, 1) != pid, "its return")


def test_a_poisonous_prompt_ends_after_three_deaths(start):
    service = start(workers=2, slots=4, model="fake:tokens=60,delay_ms=20")
    mates = [Stream(service, f"s{i}") for i in range(6)]
    for mate in mates:
        mate.wait_text()
    poison = service.post("poison tokens=60 crash_at=3", timeout=90)
    assert poison.status_code >= 500, poison.text
    error = poison.json()["error"]
    assert error["message"] and error["code"]
    check_whole(mates, 60)
    assert service.text("after tokens=3") == fake_text("after", 3)
    wait_for(lambda: [w["state"] for w in service.workers()] == ["ready"] * 2, "both workers", 40)


def test_a_poisonous_prompt_streamed_gets_an_error_event(start):
    service = start(workers=2, slots=2, model="fake:tokens=10,delay_ms=5")
    stream = Stream(service, "poison tokens=60 crash_at=3").join()
    assert stream.error and stream.error["message"]
    assert stream.text == fake_text("poison", 60)[:len(stream.text)]


def test_a_nodes_supervisor_dies(start):
    """Its workers go with it; `up` starts it again; replies go on elsewhere."""
    service = start(nodes=2, workers=2, slots=8, model="fake:tokens=80,delay_ms=20")
    streams = [Stream(service, f"s{i}") for i in range(8)]
    for stream in streams:
        stream.wait_text()
    node = wait_for(lambda: len(nodes := service.status()["nodes"]) == 2 and nodes, "two nodes")[0]
    own = [w["pid"] for w in node["workers"]]
    kill(node["pid"])
    check_whole(streams, 80)
    wait_for(lambda: all(process_start(p) is None for p in own), "the workers' end", 30)
    def back():
        nodes = service.status()["nodes"]
        workers = [w["pid"] for n in nodes for w in n["workers"]]
        return (len(nodes) == 2 and node["pid"] not in [n["pid"] for n in nodes]
                and len(workers) == 2 and not set(own) & set(workers))

    wait_for(back, "the node's return", 30)


def test_up_itself_dies_and_nothing_stays(start):
    service = start(nodes=1, workers=2, model="fake:tokens=20,delay_ms=5")
    assert service.text("one tokens=2") == fake_text("one", 2)
    kill_now = service.process
    kill_now.kill()
    kill_now.wait()
    service.check_nothing_left()


def test_accepted_prompts_survive_the_whole_services_death(start):
    """Waiting prompts are on disk: after a kill of everything a new service in the same directory
    has none of them stuck; they end (their gateway is gone), and the queue is empty."""
    service = start(workers=1, slots=1, model="fake:tokens=100000,delay_ms=50")
    streams = [Stream(service, f"s{i}") for i in range(4)]
    wait_for(lambda: any(s.text for s in streams), "the first words")
    wait_for(lambda: service.status()["queue"]["waiting"] == 3, "three waiting")
    for pid in [service.process.pid, *service.family]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    service.process.wait()
    service.check_nothing_left()  # as long as they are dying they hold what another needs
    again = start(state_dir=service.state_dir, workers=1, slots=1,
                  model="fake:tokens=100000,delay_ms=50")
    with service.broker() as broker:  # the new one: what it is called stands in the same directory
        wait_for(lambda: broker.count("PROMPTS") == 0, "an empty queue", 60)
    assert again.text("after tokens=3") == fake_text("after", 3)


@pytest.mark.parametrize("role", ["worker", "broker"])
def test_the_real_model_goes_on_where_it_was(start, model, role):
    """The text delivered is the durable record's, contiguous, and keeps what had been sent."""
    service = start(model=model, workers=2, slots=2)
    with service.broker() as watcher:
        watcher.subscribe("live.>")
        watcher.flush()
        streams = [Stream(service, f"Tell me a long story about the number {i}.",
                          min_tokens=60, max_tokens=90) for i in range(3)]
        long = Endless(service, input="Tell me a long story.", min_tokens=1500,
                       max_output_tokens=1500)
        for stream in streams:
            stream.wait_text(40, timeout=60)
        sent = [s.text for s in streams]
        broker = broker_pid(service)
        kill(long.holder()[1] if role == "worker" else broker)
        for stream in streams:
            stream.join()
            assert stream.error is None and stream.done, stream.error
        assert all(s.text.startswith(before) for s, before in zip(streams, sent))
        if role == "broker":
            broker_pid(service, broker)
            assert long.end()
            return
        long.wait_taken_over()
        told = long.end()
        wanted = {long.prompt_id, *(s.prompt_id for s in streams)}
        records = watcher.messages(lambda got: wanted <= reply_records(got).keys(), 30)
    texts = reply_records(records)
    pieces = piece_texts(records)
    for prompt_id, text in [(long.prompt_id, told), *((s.prompt_id, s.text) for s in streams)]:
        assert texts[prompt_id] == text
        assert pieces[prompt_id] == text


def reply_records(messages):
    """Prompt id → text of the first record that was stored for it."""
    texts = {}
    for message in messages:
        if message.stored_subject.startswith("reply."):
            record = message.json()
            if record.get("text") is not None:
                texts.setdefault(message.stored_subject.rpartition(".")[2], record["text"])
    return texts


def piece_texts(messages):
    """Prompt id → its stored pieces joined; asserts that their numbers are contiguous."""
    texts, following = {}, {}
    for message in messages:
        parts = message.stored_subject.split(".")
        if parts[0] == "tok" and parts[-1] == "p":
            body = message.json()
            prompt = parts[2]
            assert body["first"] == following.get(prompt, 0), "a gap or a repeat in the store"
            following[prompt] = body["first"] + len(body["pieces"])
            for piece in body["pieces"]:
                texts[prompt] = texts.get(prompt, "") + piece[0]
    return texts


def test_many_short_replies_through_all_of_it(start):
    """A long row of small prompts while each kind of process dies once."""
    service = start(workers=2, slots=4, model="fake:tokens=5,delay_ms=5")
    prompts = [f"m{i}" for i in range(200)]
    responder = responder_pids(service)[0]
    with ThreadPoolExecutor(1) as pool:
        replies = pool.submit(many, service, prompts, 20)
        status = service.status()
        kill(responder)
        kill(status["nodes"][0]["workers"][0]["pid"])
        kill(status["broker"]["pid"])
        bodies = replies.result()
    answered = [r for r in bodies if r.status_code == 200]
    # while the broker is away new prompts are refused, plainly; what was accepted is answered
    assert {r.status_code for r in bodies} <= {200, 503}
    assert all(r.headers.get("retry-after") for r in bodies if r.status_code == 503)
    for reply in answered:
        tag = prompts[bodies.index(reply)]
        assert reply.json()["choices"][0]["message"]["content"] == fake_text(tag, 5)
    broker_pid(service, status["broker"]["pid"])
    assert service.text("after tokens=3") == fake_text("after", 3)
