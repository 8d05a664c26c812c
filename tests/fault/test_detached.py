"""Detached prompts: they go on without their gateway, and their record answers for them.

The prompts are put on the queue by hand, as a gateway does it, so that what the workers owe shows
without one.  The fake engine numbers its pieces: TAG.0 TAG.1 …
"""

import json
import secrets
import time

import pytest

from harness import fake_text, kill, wait_for
from test_deaths import gateway_pid, worker_pids

OWNER = "00112233445566ff"
REQUEST = {"kind": "responses", "metadata": {"a": "b \u00e9"}, "deep": [[[1, None, True]]]}


def model_of(service):
    return service.service_ini()["model"]["name"]


def messages_of(content):
    return [{"role": "system", "content": "be \"brief\""}, {"role": "user", "content": content}]


def put(service, broker, content, **fields):
    fields = {"detached": True, "owner": OWNER, "request": REQUEST,
              "messages": messages_of(content), **fields}
    return broker.put_prompt(model_of(service), **fields)


def texts(broker, prompt):
    """The pieces stored so far: of what is being said."""
    return [piece[0] for message in broker.stored("TOKENS", f"tok.*.{prompt}.p")
            for piece in message.json()["pieces"]]


def begun(broker, prompt):
    """Some was said, or all."""
    return len(texts(broker, prompt)) > 5 or broker.last("REPLIES", f"reply.*.{prompt}")


def claim_of(broker, prompt):
    return broker.last("TOKENS", f"tok.*.{prompt}.c").json()


def kill_holder(service, broker, prompt):
    """The death of the worker that has a prompt in hand."""
    kill(worker_pids(service)[claim_of(broker, prompt)["worker"]])


def check_answers(record, content, detached=True):
    """The record says whose it is, what was asked, and how its text was cut into pieces."""
    assert record["owner"] == OWNER
    assert record["detached"] is detached
    if not detached:
        assert not record.keys() & {"request", "messages", "cuts"}
        return
    assert record["request"] == REQUEST
    assert record["messages"] == messages_of(content)
    assert len(record["cuts"]) == record["pieces"]
    assert sum(record["cuts"]) == len(record["text"].encode())
    words = record["text"].split(" ")[:-1]
    assert record["cuts"] == [len(w) + 1 for w in words], "one piece is one word here"


def test_it_goes_on_when_its_gateway_is_killed(start):
    """And what is not detached ends, so that the difference is the flag's."""
    service = start(workers=1, slots=4, gateways=2, model="fake:tokens=400,delay_ms=20")
    with service.broker() as broker:
        gateway = gateway_pid(service, 1)
        # the tag of that very process, as its claims and presence have it
        tag = broker.gateway_tag(gateway)
        kept = put(service, broker, "kept", gateway=tag)
        owned = put(service, broker, "owned tokens=100000", gateway=tag, detached=False)
        wait_for(lambda: begun(broker, kept) and texts(broker, owned), "the first words")
        kill(gateway)
        record = broker.record(owned)
        assert (record["status"], record["error_code"]) == ("cancelled", "owner_gone")
        check_answers(record, "owned", detached=False)
        record = broker.record(kept, 30)
        assert (record["status"], record["text"]) == ("completed", fake_text("kept", 400))
        assert record["attempt"] == 1
        check_answers(record, "kept")
        wait_for(lambda: broker.count("PROMPTS") == 0, "an empty queue")


@pytest.mark.parametrize("lane", ["main", "batch"])
def test_a_worker_dies_in_its_middle(start, lane):
    service = start(workers=2, slots=4, model="fake:tokens=100,delay_ms=20")
    with service.broker() as broker:
        prompts = [put(service, broker, f"d{i}", lane=lane) for i in range(4)]
        # in its middle for sure; the others are, where nothing stands still meanwhile
        long = put(service, broker, "long tokens=100000", lane=lane)
        wait_for(lambda: all(begun(broker, p) for p in [*prompts, long]), "the first words")
        kill_holder(service, broker, long)
        ended = [broker.record(p) for p in prompts]
        wait_for(lambda: claim_of(broker, long)["attempt"] == 2, "its successor")
        cut = cancel(broker, long)
    for i, record in enumerate(ended):
        assert (record["status"], record["text"]) == ("completed", fake_text(f"d{i}", 100))
        check_answers(record, f"d{i}")
    assert (cut["attempt"], cut["text"]) == (2, fake_text("long", cut["pieces"]))


def cancel(broker, prompt, gateway="0" * 16, wait=True):
    """What any gateway does first; the worker does the rest."""
    broker.put(f"tok.{gateway}.{prompt}.c",
               {"v": 1, "kind": "tombstone", "nonce": secrets.token_hex(8), "previous": "",
                "worker": "", "node": "", "device": "", "boot": "", "deaths": 0, "attempt": 0,
                "started_at": time.time(), "reason": "cancelled"})
    return broker.record(prompt) if wait else None


def test_it_is_cancelled_in_its_middle(start):
    service = start(workers=1, slots=4, model="fake:tokens=100000,delay_ms=10")
    with service.broker() as broker:
        prompt = put(service, broker, "long")
        wait_for(lambda: len(texts(broker, prompt)) > 5, "the first words")
        record = cancel(broker, prompt)
        assert (record["status"], record["error_code"]) == ("cancelled", "cancelled")
        assert record["pieces"] > 5
        assert record["text"] == fake_text("long", record["pieces"])
        check_answers(record, "long")
        wait_for(lambda: broker.count("PROMPTS") == 0, "an empty queue")


def test_it_is_cancelled_after_a_death(start):
    """The pieces of both workers are in the record."""
    service = start(workers=2, slots=2, model="fake:tokens=100000,delay_ms=10")
    with service.broker() as broker:
        prompt = put(service, broker, "long")
        wait_for(lambda: len(texts(broker, prompt)) > 5, "the first words")
        kill_holder(service, broker, prompt)
        wait_for(lambda: claim_of(broker, prompt)["attempt"] == 2, "its successor")
        before = len(texts(broker, prompt))
        wait_for(lambda: len(texts(broker, prompt)) > before + 5, "the successor's words")
        record = cancel(broker, prompt)
        assert record["status"] == "cancelled" and record["attempt"] == 2
        assert record["worker"] and record["started_at"] >= record["accepted_at"]
        assert record["text"] == fake_text("long", record["pieces"])
        check_answers(record, "long")


def test_it_expires(start):
    service = start(workers=1, slots=1, max_wait=1, model="fake:tokens=100000,delay_ms=20")
    with service.broker() as broker:
        def in_hand():
            """A prompt that a worker took up in time."""
            prompt = put(service, broker, "first")
            wait_for(lambda: begun(broker, prompt), "its first words, or its end")
            return prompt if texts(broker, prompt) else None

        first = wait_for(in_hand, "a prompt in hand")
        waiting = put(service, broker, "waiting")
        record = broker.record(waiting)
        assert (record["status"], record["text"]) == ("expired", "")
        assert (record["worker"], record["attempt"], record["started_at"]) == ("", 0, 0)
        check_answers(record, "waiting")
        record = cancel(broker, first)
        assert (record["error_code"], record["text"]) == (
            "cancelled", fake_text("first", record["pieces"])), "what is in hand does not expire"


def test_the_broker_dies_meanwhile(start):
    service = start(workers=1, slots=4, model="fake:tokens=150,delay_ms=20")
    with service.broker() as broker:
        prompts = [put(service, broker, f"d{i}") for i in range(3)]
        wait_for(lambda: all(begun(broker, p) for p in prompts), "the first words")
        kill(service.status()["broker"]["pid"])
    with service.returned_broker() as broker:
        for i, prompt in enumerate(prompts):
            record = broker.record(prompt)
            assert (record["status"], record["text"]) == ("completed", fake_text(f"d{i}", 150))
            check_answers(record, f"d{i}")


def forget(broker, prompt):
    """The record as DELETE leaves it."""
    found = broker.last("REPLIES", f"reply.*.{prompt}")
    bare = {k: v for k, v in found.json().items()
            if k not in ("request", "messages", "cuts", "logprobs", "result", "choices")}
    sequence = int(found.headers["Nats-Sequence"])
    assert broker.put(found.stored_subject, {**bare, "text": None, "deleted": True}, sequence) > 0
    return {**bare, "text": None, "deleted": True}


def test_what_has_ended_is_not_done_again(start):
    """Put again with its record there, deleted or not, a prompt leaves the queue and nothing is made:
    the record is the arbiter, also to another worker than the one who had it."""
    service = start(workers=1, slots=4, model="fake:tokens=20,delay_ms=5")
    with service.broker() as broker:
        whole = put(service, broker, "whole")
        gone = put(service, broker, "gone")
        stopped = put(service, broker, "stopped tokens=100000")
        records = {p: broker.record(p) for p in (whole, gone)}
        records[stopped] = cancel(broker, stopped)
        records[gone] = forget(broker, gone)
        wait_for(lambda: broker.count("PROMPTS") == 0, "an empty queue")
        wait_for(lambda: not broker.stored("TOKENS", "tok.*.*.p"), "the purge of what was said")
        for again in range(2):
            for prompt, content in ((whole, "whole"), (gone, "gone"), (stopped, "stopped")):
                put(service, broker, content, prompt_id=prompt)
            wait_for(lambda: broker.count("PROMPTS") == 0, "an empty queue again")
            assert not broker.stored("TOKENS", "tok.*.*.p")
            for prompt, record in records.items():
                assert broker.record(prompt) == record
            if again == 0:
                pid = service.workers()[0]["pid"]
                kill(pid)
                wait_for(lambda: [w for w in service.workers() if w["pid"] != pid
                                  and w["state"] == "ready"], "another worker")


def test_cancelling_what_has_ended_is_harmless(start):
    """Whoever cancels too late hears that the record exists, and the record stays as it was."""
    service = start(workers=1, slots=4, model="fake:tokens=20,delay_ms=5")
    with service.broker() as broker:
        prompt = put(service, broker, "done")
        record = broker.record(prompt)
        cancel(broker, prompt, wait=False)
        answer_to = f"_INBOX_gateway.{secrets.token_hex(8)}.done.{prompt}"
        broker.subscribe(answer_to)
        broker.publish(f"response.{prompt}", ending_of(record, answer_to))
        heard = broker.messages(lambda got: any(m.subject == answer_to for m in got), 30)
        assert [m.subject for m in heard].count(answer_to) == 1
        assert broker.record(prompt) == record
        wait_for(lambda: broker.count("RESPONSES") == 0, "an empty response queue")
        assert service.text("next tokens=2") == fake_text("next", 2)


def ending_of(record, answer_to):
    return json.dumps({**record, "status": "cancelled", "text": "", "error_code": "cancelled",
                       "answer_to": answer_to}).encode()
