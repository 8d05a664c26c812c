"""Processes are killed under load; no client may notice more than a pause.

The fake engine numbers its pieces, so each text is known exactly: TAG.0 TAG.1 …
"""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import Stream, fake_text, kill, many, process_start, wait_for


def worker_pids(service):
    return {w["id"]: w["pid"] for w in service.workers()}


def check_whole(streams, length):
    for i, stream in enumerate(streams):
        stream.join()
        assert stream.error is None, (i, stream.error)
        assert stream.done
        assert stream.text == fake_text(f"s{i}", length), i


def test_a_worker_dies_in_mid_reply(start):
    service = start(workers=2, slots=8, model="fake:tokens=80,delay_ms=20")
    streams = [Stream(service, f"s{i}") for i in range(12)]
    for stream in streams:
        stream.wait_text()
    victim, pid = next(iter(worker_pids(service).items()))
    kill(pid)
    check_whole(streams, 80)
    attempts = {s.details["attempt"] for s in streams}
    assert attempts == {1, 2}, "the dead worker's replies, and only they, had a second attempt"
    wait_for(lambda: len(worker_pids(service)) == 2
             and all(w["state"] == "ready" for w in service.workers()), "the worker's return")
    assert worker_pids(service).get(victim) != pid


def test_workers_die_again_and_again_under_load(start):
    service = start(workers=4, slots=4, nodes=2, model="fake:tokens=60,delay_ms=10")
    with ThreadPoolExecutor(60) as pool:
        replies = [pool.submit(service.post, f"k{i}") for i in range(60)]
        for turn in range(4):
            time.sleep(0.3)  # the moment is arbitrary on purpose
            pids = sorted(worker_pids(service).values())
            if pids:
                kill(pids[turn % len(pids)])
        bodies = [r.result() for r in replies]
    for i, reply in enumerate(bodies):
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == fake_text(f"k{i}", 60)
    ids = [r.json()["wyvern"]["prompt_id"] for r in bodies]
    assert len(set(ids)) == 60


def test_a_worker_that_hangs_is_replaced_and_adds_nothing(start):
    """SIGSTOP: to the broker it looks cut off.  Continued, it must not write into a reply that
    another finished."""
    service = start(workers=2, slots=4, model="fake:tokens=150,delay_ms=20")
    streams = [Stream(service, f"s{i}") for i in range(6)]
    for stream in streams:
        stream.wait_text()
    pid = sorted(worker_pids(service).values())[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(1)
        wait_for(lambda: all(s.future.done() for s in streams), "all replies", 60)
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass
    check_whole(streams, 150)


def test_the_broker_dies_under_load(start):
    service = start(workers=2, slots=8, model="fake:tokens=100,delay_ms=20")
    streams = [Stream(service, f"s{i}") for i in range(12)]
    for stream in streams:
        stream.wait_text()
    broker = service.status()["broker"]["pid"]
    kill(broker)
    check_whole(streams, 100)
    now = wait_for(lambda: service.status()["broker"]["pid"], "the broker's return")
    assert now != broker
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
    with ThreadPoolExecutor(21) as pool:
        first = pool.submit(service.post, "first tokens=40 delay_ms=50")
        replies = [pool.submit(service.post, f"q{i}") for i in range(20)]
        # all accepted: answered, waiting or in flight
        wait_for(lambda: accepted(service, [first, *replies]) == 21, "21 accepted prompts")
        assert service.status()["queue"]["waiting"] >= 5
        kill(service.status()["broker"]["pid"])
        bodies = [r.result() for r in replies]
    for i, reply in enumerate(bodies):
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == fake_text(f"q{i}", 20)


def test_the_broker_dies_between_a_prompts_delivery_and_its_claim(start):
    """A stopped worker finds prompts and the connection's end at once: it can't claim them."""
    service = start(workers=1, slots=4, model="fake:tokens=10,delay_ms=5")
    for turn in range(2):
        worker = next(iter(worker_pids(service).values()))
        broker = service.status()["broker"]["pid"]
        os.kill(worker, signal.SIGSTOP)
        with ThreadPoolExecutor(4) as pool:
            replies = [pool.submit(service.post, f"c{turn}{i}", timeout=20) for i in range(4)]
            try:
                # delivered, where the worker had a pull under way
                wait_for(lambda: service.status()["queue"]["in_flight"]
                         or accepted(service, replies) >= 4, "prompts in the queue", 5)
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
    queue = service.status()["queue"]
    return queue["waiting"] + queue["in_flight"] + sum(r.done() for r in replies)


def test_a_response_worker_dies_under_load(start):
    service = start(workers=2, slots=8, model="fake:tokens=20,delay_ms=10")
    with ThreadPoolExecutor(60) as pool:
        replies = [pool.submit(service.post, f"r{i}") for i in range(60)]
        time.sleep(0.2)
        kill(service.status()["response_workers"][0]["pid"])
        bodies = [r.result() for r in replies]
    for i, reply in enumerate(bodies):
        assert reply.status_code == 200, reply.text
        assert reply.json()["choices"][0]["message"]["content"] == fake_text(f"r{i}", 20)
    wait_for(lambda: len(service.status()["response_workers"]) == 2, "its return")


def test_a_gateway_that_is_asked_to_leave_finishes_its_replies(start):
    service = start(workers=1, slots=4, gateways=2, model="fake:tokens=60,delay_ms=20")
    streams = [Stream(service, f"s{i}", gateway=1) for i in range(4)]
    for stream in streams:
        stream.wait_text()
    gateways = service.status()["gateways"]
    pid = next(g["pid"] for g in gateways if g["url"].endswith(f":{service.port + 1}"))
    os.kill(pid, signal.SIGTERM)
    check_whole(streams, 60)


def test_a_gateway_dies_and_its_slots_are_free(start):
    service = start(workers=1, slots=2, gateways=2, model="fake:tokens=100000,delay_ms=20")
    streams = [Stream(service, f"s{i}", gateway=1).wait_text() for i in range(2)]
    pid = next(g["pid"] for g in service.status()["gateways"]
               if g["url"].endswith(f":{service.port + 1}"))
    kill(pid)
    # after its presence has been missing for 5 s its prompts end, and others get their turn
    assert service.text("next tokens=3", timeout=30) == fake_text("next", 3)
    wait_for(lambda: all(s.future.done() for s in streams), "the cut connections")
    wait_for(lambda: len(service.status()["gateways"]) == 2, "its return")


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
    assert service.text("after tokens=3", timeout=30) == fake_text("after", 3)
    wait_for(lambda: len(service.workers()) == 2
             and all(w["state"] == "ready" for w in service.workers()), "both workers", 40)


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
    node = service.status()["nodes"][0]
    own = [w["pid"] for w in node["workers"]]
    kill(node["pid"])
    check_whole(streams, 80)
    wait_for(lambda: all(process_start(p) is None for p in own), "the workers' end", 30)
    wait_for(lambda: len(service.status()["nodes"]) == 2 and len(service.workers()) == 2,
             "the node's return", 30)


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
    again = start(state_dir=service.state_dir, workers=1, slots=1,
                  model="fake:tokens=100000,delay_ms=50")
    wait_for(lambda: again.status()["queue"]["waiting"] == 0
             and again.status()["queue"]["in_flight"] == 0, "an empty queue", 40)
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
        for stream in streams:
            stream.wait_text(40, timeout=60)
        sent = [s.text for s in streams]
        if role == "worker":
            kill(next(w["pid"] for w in service.workers() if w["active"]))
        else:
            kill(service.status()["broker"]["pid"])
        for stream in streams:
            stream.join()
            assert stream.error is None and stream.done, stream.error
        if role == "broker":
            return check_kept(streams, sent)
        records = watcher.messages(lambda got: len(reply_records(got)) >= 3, 10)
    check_kept(streams, sent)
    texts = reply_records(records)
    pieces = piece_texts(records)
    for stream in streams:
        assert texts[stream.prompt_id] == stream.text
        assert pieces[stream.prompt_id] == stream.text
    assert any(s.details["attempt"] == 2 for s in streams)


def check_kept(streams, sent):
    for stream, before in zip(streams, sent):
        assert stream.text.startswith(before)
        assert len(stream.text) > len(before)


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
    with ThreadPoolExecutor(1) as pool:
        replies = pool.submit(many, service, prompts, 20)
        status = service.status()
        kill(status["response_workers"][0]["pid"])
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
    assert service.text("after tokens=3", timeout=30) == fake_text("after", 3)
