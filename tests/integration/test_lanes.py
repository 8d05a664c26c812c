"""The two lanes of the prompt queue: batches fill idle slots, people go first."""

import secrets
import time

import pytest

from harness import fake_text, many, wait_for


def model_of(service):
    return service.service_ini()["model"]["name"]


def active(service):
    return sum(w["active"] for w in service.workers())


def queued(service):
    queue = service.status()["queue"]
    return queue["waiting"] + queue["in_flight"]


def cancel(broker, prompt):
    """As any gateway begins it; the worker does the rest."""
    broker.put(f"tok.{'0' * 16}.{prompt}.c",
               {"v": 1, "kind": "tombstone", "nonce": secrets.token_hex(8),
                "started_at": time.time(), "reason": "cancelled"})


def slots_of_batches(service, broker, prompts):
    """How many of these prompts have a claim and no record yet."""
    claims = broker.subjects("TOKENS", "tok.*.*.c")
    records = broker.subjects("REPLIES", "reply.*.*")
    claimed = {s.split(".")[2] for s in claims}
    ended = {s.split(".")[2] for s in records}
    return len([p for p in prompts if p in claimed and p not in ended])


@pytest.mark.parametrize("slots", [1, 4])
def test_a_batch_starts_at_once_on_an_idle_worker(start, slots):
    service = start(workers=1, slots=slots, model="fake:tokens=3,delay_ms=0")
    with service.broker() as broker:
        waits = []
        # Most of five; of more where the machine stood still meanwhile.
        while len(waits) < 5 or sorted(waits)[len(waits) // 2] >= 0.1:
            assert len(waits) < 25, waits
            i = len(waits)
            time.sleep(0.3 * (i % 5) / 5)  # wherever the worker's own clock stands
            prompt = broker.put_prompt(model_of(service), f"b{i}", lane="batch", detached=True)
            record = broker.record(prompt)
            assert record["status"] == "completed"
            assert record["text"] == fake_text(f"b{i}", 3)
            waits.append(record["started_at"] - record["accepted_at"])


def test_batches_leave_a_slot_to_people(start):
    service = start(workers=1, slots=4, model="fake:tokens=20,delay_ms=30")
    with service.broker() as broker:
        long = [broker.put_prompt(model_of(service), f"l{i} tokens=100000", lane="batch",
                                  detached=True) for i in range(3)]
        short = [broker.put_prompt(model_of(service), f"b{i}", lane="batch", detached=True)
                 for i in range(6)]
        wait_for(lambda: slots_of_batches(service, broker, long) == 3, "three slots in use")
        for _ in range(10):
            assert slots_of_batches(service, broker, [*long, *short]) == 3
            # Behind a batch it would wait for ever.
            assert service.text("now tokens=1 delay_ms=0") == fake_text("now", 1)
        wait_for(lambda: queued(service) == 9, "all nine in the queue")
        for prompt in long:
            cancel(broker, prompt)
        for i, prompt in enumerate(short):
            assert broker.record(prompt)["text"] == fake_text(f"b{i}", 20)
    wait_for(lambda: service.status()["queue"] == {"waiting": 0, "in_flight": 0, "limit": 1024},
             "an empty queue")


def test_people_go_before_waiting_batches(start):
    """Twenty of each wait for one slot, the batches for longer: people are served first.  A batch may
    slip in where the broker stands still for longer than the 10 ms after which the worker asks for
    batches too."""
    service = start(workers=1, slots=1, model="fake:tokens=4,delay_ms=10")
    with service.broker() as broker:
        model = model_of(service)
        first = broker.put_prompt(model, "first tokens=100000", detached=True)
        wait_for(lambda: active(service) == 1, "the first at work")
        batches = [broker.put_prompt(model, f"b{i}", lane="batch", detached=True)
                   for i in range(20)]
        people = [broker.put_prompt(model, f"p{i}", detached=True) for i in range(20)]
        wait_for(lambda: queued(service) == 41, "all in the queue")
        cancel(broker, first)
        assert broker.record(first)["status"] == "cancelled"
        ended = {p: broker.record(p, 60) for p in [*people, *batches]}
    assert {r["status"] for r in ended.values()} == {"completed"}
    last_person = max(ended[p]["started_at"] for p in people)
    slipped_in = [b for b in batches if ended[b]["started_at"] <= last_person]
    assert len(slipped_in) <= 3, "of 20"
    assert max(r["attempt"] for r in ended.values()) == 1


def test_both_lanes_under_load(start):
    """Every prompt of both lanes once, whoever comes first."""
    service = start(workers=3, slots=3, model="fake:tokens=10,delay_ms=3")
    with service.broker() as broker:
        batches = [broker.put_prompt(model_of(service), f"b{i}", lane="batch", detached=True)
                   for i in range(100)]
        replies = many(service, [f"p{i}" for i in range(100)], parallel=20)
        for i, reply in enumerate(replies):
            assert reply.json()["choices"][0]["message"]["content"] == fake_text(f"p{i}", 10)
        for i, prompt in enumerate(batches):
            record = broker.record(prompt, 60)
            assert (record["status"], record["text"]) == ("completed", fake_text(f"b{i}", 10))
            assert record["reply_tokens"] == 10
        wait_for(lambda: broker.count("PROMPTS") == 0, "an empty queue")


def test_draining_ends_batches_too(start):
    """What was accepted is done, in hand or waiting, before the service is gone."""
    service = start(workers=1, slots=3, model="fake:tokens=30,delay_ms=20")
    with service.broker() as broker:
        broker.subscribe("live.*.*")
        prompts = [broker.put_prompt(model_of(service), f"b{i}", lane="batch", detached=True)
                   for i in range(5)]
        wait_for(lambda: len(broker.subjects("TOKENS", "tok.*.*.c")) >= 2, "two at work")
        service.term()
        heard = broker.messages(lambda got: len(records(got)) == 5, 60)
        texts = {r["id"]: r["text"] for r in records(heard)}
    assert texts == {p: fake_text(f"b{i}", 30) for i, p in enumerate(prompts)}
    assert service.process.wait(60) == 0


def records(messages):
    return [m.json() for m in messages if m.subject.startswith("live.")]
