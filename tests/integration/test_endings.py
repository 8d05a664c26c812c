"""Endings that a client sees seldom: a reply that another ended (499), one that grew too long, and one
that is older than --keep."""

import json
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from harness import Service, fake_text, openai_client, sse_events, wait_for

CHAT, TEXT, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
TAG = "w" * 60
TEXT_MAX = (7 << 20) // 2  # a reply's text may be half as large as its record


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("endings"), gateways=2, workers=1, slots=4, keep=3,
                 keep_files=5, max_reply=90) as service:
        yield service


def body_of(path, content, **fields):
    asked = {CHAT: {"messages": [{"role": "user", "content": content}]},
             TEXT: {"prompt": content}, RESPONSE: {"input": content}}[path]
    return {"model": "default", **asked, **({"max_tokens": 900000} if path == TEXT else {}),
            **fields}


def ask(service, path, content, gateway=0, **fields):
    return httpx.post(service.gateway_url(gateway) + path, json=body_of(path, content, **fields),
                      timeout=120, trust_env=False)


def prompts(broker):
    return {subject.rpartition(".")[2] for subject in broker.subjects("PROMPTS", "prompt.>")}


def cancel(broker, prompt):
    """As any gateway begins it; the worker does the rest."""
    gateway = next(iter(broker.subjects("TOKENS", f"tok.*.{prompt}.c"))).split(".")[1]
    broker.put(f"tok.{gateway}.{prompt}.c",
               {"v": 1, "kind": "tombstone", "nonce": secrets.token_hex(8), "previous": "",
                "worker": "", "node": "", "device": "", "boot": "", "deaths": 0, "attempt": 0,
                "started_at": time.time(), "reason": "cancelled"})


def cancelled_meanwhile(service, make):
    """What make() gives, whose prompt is ended from elsewhere once it is worked on."""
    with service.broker() as broker, ThreadPoolExecutor(1) as pool:
        before = prompts(broker)
        made = pool.submit(make)
        prompt = wait_for(lambda: prompts(broker) - before, "the prompt").pop()
        wait_for(lambda: broker.subjects("TOKENS", f"tok.*.{prompt}.p"), "its first words")
        cancel(broker, prompt)
        return prompt, made.result(60)


# ---- 499 ----

@pytest.mark.parametrize("path", [CHAT, TEXT, RESPONSE])
def test_another_ended_it(service, path):
    _, got = cancelled_meanwhile(
        service, lambda: ask(service, path, "c tokens=100000 delay_ms=10"))
    assert got.status_code == 499 and got.reason_phrase != ""
    assert got.headers["content-type"] == "application/json" and "x-request-id" in got.headers
    assert "retry-after" not in got.headers
    error = got.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("cancelled", "cancelled", None)
    assert error["message"]


def test_the_official_client_does_not_ask_again(service):
    client = openai_client(service).with_options(max_retries=3)
    accepted = sum(g["accepted"] for g in figures(service))

    def one():
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(**body_of(CHAT, "once tokens=100000 delay_ms=10"))
        return caught.value

    _, error = cancelled_meanwhile(service, one)
    assert error.status_code == 499 and error.code == "cancelled"
    assert sum(g["accepted"] for g in figures(service)) == accepted + 1


def figures(service):
    """What each gateway counted."""
    for i in range(service.gateways):
        text = httpx.get(service.gateway_url(i) + "/metrics", trust_env=False).text
        values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
                  for line in text.splitlines() if not line.startswith("#")}
        yield {"accepted": values["wyvern_prompts_accepted_total"],
               "cancelled": sum(v for k, v in values.items() if k.startswith(
                   "wyvern_replies_total") and 'status="cancelled"' in k)}


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_in_mid_stream_it_is_an_event(service, path):
    before = sum(g["cancelled"] for g in figures(service))
    _, got = cancelled_meanwhile(
        service, lambda: ask(service, path, "s tokens=100000 delay_ms=10", stream=True))
    assert got.status_code == 200
    events = [data for _, data in sse_events(got.text.split("\n"))]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "cancelled"
    assert sum(g["cancelled"] for g in figures(service)) == before + 1


def test_a_stored_chat_that_was_ended_says_so(service):
    """Who waits for it hears 499, and so does who fetches it later, at any gateway; what was said
    of a response stays."""
    prompt, got = cancelled_meanwhile(
        service, lambda: ask(service, CHAT, "k tokens=100000 delay_ms=10", store=True))
    assert got.status_code == 499
    for gateway in range(2):
        later = httpx.get(f"{service.gateway_url(gateway)}{CHAT}/chatcmpl-{prompt}",
                          trust_env=False)
        assert later.status_code == 499 and later.json()["error"]["code"] == "cancelled"
    prompt, got = cancelled_meanwhile(
        service, lambda: ask(service, RESPONSE, "r tokens=100000 delay_ms=10"))
    assert got.status_code == 499
    kept = openai_client(service, 1).responses.retrieve(f"resp_{prompt}")
    assert kept.status == "cancelled"
    assert kept.output_text and fake_text("r", 100000).startswith(kept.output_text)


# ---- too long ----

def events_of(service, response_id, after=-1):
    got = httpx.get(f"{service.gateway_url(1)}{RESPONSE}/{response_id}", trust_env=False,
                    timeout=60, params={"stream": "true", "starting_after": after})
    assert got.status_code == 200, got.text
    return [(name, json.loads(data)) for name, data in sse_events(got.text.split("\n"))]


def read_live(service, response_id, events, begun):
    """All events from the first on, by who says when the first has come."""
    with httpx.stream("GET", f"{service.gateway_url(1)}{RESPONSE}/{response_id}", trust_env=False,
                      timeout=120, params={"stream": "true"}) as reply:
        assert reply.status_code == 200, reply.read()
        for name, data in sse_events(reply.iter_lines()):
            events.append((name, json.loads(data)))
            begun.set()


def numbers(events):
    return [event["sequence_number"] for _, event in events]


def test_a_reply_that_grows_too_long(service):
    content = f"{TAG} tokens=900000 delay_ms=0"
    got = ask(service, CHAT, content)
    assert got.status_code == 500
    error = got.json()["error"]
    assert (error["code"], error["type"]) == ("reply_too_long", "server_error")
    assert "bound" in error["message"]
    streamed = ask(service, CHAT, content, stream=True)
    events = [data for _, data in sse_events(streamed.text.split("\n"))]
    assert streamed.status_code == 200 and events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["code"] == "reply_too_long"
    text = "".join(c["delta"].get("content") or "" for data in events[:-2]
                   for c in json.loads(data)["choices"])
    whole = fake_text(TAG, 900000)
    assert whole.startswith(text) and TEXT_MAX - 100000 < len(text) <= TEXT_MAX
    # The slot is free, and the next one is well.
    assert service.text("after tokens=3") == fake_text("after", 3)


def test_a_response_that_grows_too_long(service):
    client = openai_client(service)
    slots = [client.responses.create(model="default", input="f tokens=100000 delay_ms=20",
                                     background=True) for _ in range(4)]
    for slot in slots:
        wait_for(lambda s=slot: client.responses.retrieve(s.id).status == "in_progress", "its turn")
    got = ask(service, RESPONSE, f"{TAG} tokens=900000 delay_ms=0", background=True).json()
    live, begun = [], threading.Event()
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(read_live, service, got["id"], live, begun)
        assert begun.wait(60)  # it is there before the first word
        for slot in slots:
            client.responses.delete(slot.id)
        reader.result(120)

    def over():
        now = httpx.get(f"{service.gateway_url(1)}{RESPONSE}/{got['id']}", trust_env=False,
                        timeout=60).json()
        return now if now["status"] not in ("queued", "in_progress") else None

    now = wait_for(over, "its end", 60)
    assert now["status"] == "failed" and now["error"]["code"] == "server_error"
    assert now["wyvern"]["error_code"] == "reply_too_long"
    events = events_of(service, got["id"])
    tail = events_of(service, got["id"], live[-2][1]["sequence_number"])
    assert numbers(events[:-1]) == list(range(len(events) - 1))
    assert [name for name, _ in live] == [*(n for n, _ in events[:-1]), *(
        ["response.output_text.delta"] * (len(live) - len(events))), "response.failed"]
    # What it had not taken when the reply failed is gone with all of the text; no number is another's.
    assert numbers(live[:-1]) == list(range(len(live) - 1))
    assert live[-1][1]["sequence_number"] >= len(live) - 1
    assert "".join(e.get("delta", "") for _, e in live) == fake_text(TAG, len(live) - len(events))
    # The end is the same, with the same number, for who was there and for who comes later.
    assert live[-1] == events[-1] and live[-1][0] == "response.failed"
    assert live[-1][1]["response"]["wyvern"]["error_code"] == "reply_too_long"
    assert tail == events[-1:]


# ---- too old ----

HOUR_NS = 3600 * 10**9


def config(broker, stream):
    return broker.api(f"STREAM.INFO.{stream}")["config"]


def test_how_long_the_broker_keeps_what(service):
    """An hour is the shortest --keep: what the broker was told is looked at instead of waited for."""
    with service.broker() as broker:
        assert config(broker, "REPLIES")["max_age"] == 3 * HOUR_NS
        assert config(broker, "DEAD")["max_age"] == 3 * HOUR_NS
        assert config(broker, "OBJECTS")["max_age"] == 5 * HOUR_NS
        assert 90 * 10**9 < config(broker, "TOKENS")["max_age"] < HOUR_NS
        assert config(broker, "PROMPTS").get("max_age", 0) == 0  # --max-wait is not the broker's
        # A key goes before the reply that it stands for: else that would be made again.
        with httpx.Client(base_url=service.url, trust_env=False) as http:
            http.post(CHAT, json=body_of(CHAT, "keyed tokens=2"),
                      headers={"idempotency-key": "one"})
        found = broker.stored("OBJECTS", "obj.idem.*")
        assert [m.headers["Nats-TTL"] for m in found] == [f"{3 * 3600}s"]


def test_another_keep_at_the_next_start(start, tmp_path):
    """The streams stand already then, with what is in them."""
    state = tmp_path / "kept"
    service = start(state_dir=state, keep=1)
    made = ask(service, RESPONSE, "stays tokens=2").json()
    assert service.stop() == 0
    service = start(state_dir=state, keep=48)
    service.state_dir = state
    with service.broker() as broker:
        assert config(broker, "REPLIES")["max_age"] == 48 * HOUR_NS
    got = httpx.get(f"{service.url}{RESPONSE}/{made['id']}", trust_env=False)
    assert got.json()["output"][0]["content"][0]["text"] == fake_text("stays", 2)


def test_what_is_older_is_gone(start):
    """The broker is told to keep replies for two seconds instead of hours: the same way, and they are
    as if they had never been, also for who has their id."""
    service = start(workers=1, gateways=2)
    client = openai_client(service)
    response = client.responses.create(model="default", input="old tokens=3")
    chat = client.chat.completions.create(model="default", store=True, messages=[
        {"role": "user", "content": "old tokens=3"}])
    assert client.responses.retrieve(response.id).output_text == fake_text("old", 3)
    assert client.chat.completions.retrieve(chat.id).id == chat.id
    with service.broker() as broker:
        short = {**config(broker, "REPLIES"), "max_age": 2 * 10**9,
                 "duplicate_window": 2 * 10**9}
        broker.api("STREAM.UPDATE.REPLIES", short)
        wait_for(lambda: not broker.subjects("REPLIES", "reply.>"), "the records to go", 30)
    for gateway in range(2):
        one = openai_client(service, gateway)
        for call in (lambda: one.responses.retrieve(response.id),
                     lambda: list(one.responses.retrieve(response.id, stream=True)),
                     lambda: one.responses.input_items.list(response.id),
                     lambda: one.responses.cancel(response.id),
                     lambda: one.responses.delete(response.id),
                     lambda: one.chat.completions.retrieve(chat.id),
                     lambda: one.chat.completions.delete(chat.id)):
            with pytest.raises(openai.NotFoundError) as caught:
                call()
            assert "older than the service keeps replies" in caught.value.message
        with pytest.raises(openai.BadRequestError) as caught:
            one.responses.create(model="default", input="go on",
                                 previous_response_id=response.id)
        assert caught.value.code == "previous_response_not_found"
    # What is made from now on is there as long as that, and is delivered whole.
    assert service.text("new tokens=3") == fake_text("new", 3)
