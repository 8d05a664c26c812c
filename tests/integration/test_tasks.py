"""What a prompt may ask for besides a chat, from the queue to the record, on the real model."""

import base64
import math
import secrets
import struct
import time

import pytest

from harness import kill, wait_for


def model_of(service):
    return service.service_ini()["model"]["name"]


@pytest.fixture
def broker(real):
    with real.broker() as connection:
        yield connection


@pytest.fixture
def ask(real, broker):
    """ask(**fields): the record of such a prompt.  Detached: workers end others after some seconds,
    because no gateway owns it."""
    return lambda **fields: broker.record(
        broker.put_prompt(model_of(real), **{"detached": True, **fields}))


def vector(text):
    data = base64.b64decode(text, validate=True)
    return struct.unpack(f"<{len(data) // 4}f", data)


def test_embeddings(ask):
    record = ask(task="embed", inputs=["a cat sleeps", "a dog barks", "a cat sleeps"])
    assert record["status"] == "completed"
    assert record["text"] == "" and record["pieces"] == 0
    assert record["prompt_tokens"] > 5 and record["reply_tokens"] == 0
    vectors = [vector(v) for v in record["result"]["embeddings"]]
    assert len(vectors) == 3 and len(vectors[0]) > 100
    for v in vectors:
        assert math.isclose(sum(x * x for x in v), 1, rel_tol=1e-3)
    assert max(abs(a - b) for a, b in zip(vectors[0], vectors[2])) < 1e-3
    assert max(abs(a - b) for a, b in zip(vectors[0], vectors[1])) > 1e-2


def test_tokens_there_and_back(ask):
    text = "Hello w\u00f6rld \U0001f389 </s> \"q\"\n"
    record = ask(task="tokenize", inputs=[text])
    tokens, pieces = record["result"]["tokens"], record["result"]["pieces"]
    assert record["status"] == "completed"
    assert len(tokens) == len(pieces) > 5 and pieces[0] == "Hello"
    assert ask(task="detokenize", tokens=tokens)["result"] == {"content": text}
    assert ask(task="tokenize", inputs=[""])["result"] == {"tokens": [], "pieces": []}
    assert ask(task="detokenize", tokens=[])["result"] == {"content": ""}


def test_template(ask):
    record = ask(task="template", messages=[{"role": "user", "content": "hi"}])
    assert "hi" in record["result"]["prompt"] and len(record["result"]["prompt"]) > 20
    assert record["pieces"] == 0 and record["text"] == ""


def test_text_goes_on_as_it_is(ask, real, broker):
    owner = broker.gateway_tag(real.status()["gateways"][0]["pid"])
    record = ask(task="text", inputs=["The capital of France is"], detached=False, gateway=owner,
                 params={"max_tokens": 4, "temperature": 0})
    assert record["text"].startswith(" Paris")
    assert "result" not in record and "cuts" not in record and "logprobs" not in record


@pytest.mark.parametrize("fields,code,status,words", [
    ({"task": "detokenize", "tokens": [10**8]}, "invalid_prompt", 400, "tokens"),
    ({"task": "detokenize", "tokens": [1.5]}, "invalid_prompt", 400, "tokens"),
    ({"task": "embed", "inputs": ["ok", "a " * 9000]}, "context_length_exceeded", 400, "input"),
    ({"params": {"grammar": "root ::= ("}}, "invalid_prompt", 400, "grammar"),
    ({"params": {"logit_bias": {"x": 1}}}, "invalid_prompt", 400, "logit_bias"),
    ({"params": {"logit_bias": {"99999999": 1}}}, "invalid_prompt", 400, "logit_bias"),
    ({"task": "dance"}, "unsupported", 501, "dance"),
])
def test_failures_have_a_record(ask, broker, fields, code, status, words):
    """Also where the worker does not know what is asked: it says so, and nobody waits for ever."""
    record = ask(owner="0011223344556677", **fields)
    assert (record["status"], record["error_code"], record["error_status"]) == (
        "failed", code, status), record
    assert words in record["error_text"]
    assert record["owner"] == "0011223344556677"
    wait_for(lambda: broker.count("PROMPTS") == 0, "an empty queue")


def test_a_result_that_no_answer_holds(ask):
    tokens = ask(task="tokenize", inputs=[" international"])["result"]["tokens"]
    assert len(tokens) == 1
    record = ask(task="detokenize", tokens=tokens * 700000)
    assert record["status"] == "failed" and "result" not in record
    assert (record["error_code"], record["error_status"]) == ("input_too_large", 413)
    assert record["error_text"].startswith("input")


def test_grammar_and_bias(ask):
    record = ask(content="Is water wet?", params={"grammar": 'root ::= "yes!" | "no!"',
                                                  "max_tokens": 20})
    assert record["text"] in ("yes!", "no!")
    token = ask(task="tokenize", inputs=[" Paris"])["result"]["tokens"][0]
    record = ask(task="text", inputs=["The capital of France is"],
                 params={"max_tokens": 1, "temperature": 0, "logit_bias": {str(token): -100}})
    assert not record["text"].startswith(" Paris")


def check_logprobs(record, tops):
    entries = record["logprobs"]
    assert len(entries) == record["reply_tokens"]
    assert bytes(b for e in entries for b in e["bytes"]) == record["text"].encode()
    for entry in entries:
        assert entry["logprob"] <= 0 and len(entry["top_logprobs"]) == tops


def test_logprobs(ask):
    asked = {"max_tokens": 30, "min_tokens": 30, "temperature": 0, "logprobs": 3}
    check_logprobs(ask(content="Tell me a story.", params=asked), 3)
    record = ask(content="Tell me a story.", params={**asked, "logprobs": 0}, detached=True)
    check_logprobs(record, 0)
    assert sum(record["cuts"]) == len(record["text"].encode())


LONGER = 1500  # tokens, that are not said before it is cancelled
LONG = {"max_tokens": 300, "min_tokens": 300, "temperature": 0, "logprobs": 1}


def pieces_of(broker, prompt):
    return sum(len(m.json()["pieces"]) for m in broker.stored("TOKENS", f"tok.*.{prompt}.p"))


def test_logprobs_of_a_cancelled_reply(real, broker):
    longer = {**LONG, "max_tokens": LONGER, "min_tokens": LONGER}
    prompt = broker.put_prompt(model_of(real), "Tell me a story.", params=longer, detached=True)
    wait_for(lambda: pieces_of(broker, prompt) > 10, "the first words")
    broker.put(f"tok.{'0' * 16}.{prompt}.c",
               {"v": 1, "kind": "tombstone", "nonce": secrets.token_hex(8),
                "started_at": time.time(), "reason": "cancelled"})
    record = broker.record(prompt)
    assert record["status"] == "cancelled" and 10 < record["pieces"] < LONGER
    check_logprobs(record, 1)
    assert len(record["cuts"]) == record["pieces"]
    assert sum(record["cuts"]) == len(record["text"].encode())


def test_logprobs_of_a_reply_that_changed_hands(start, model):
    """The successor's record has its predecessor's, too."""
    service = start(model=model, workers=2, slots=2, threads=1)
    with service.broker() as broker:
        pids = {w["id"]: w["pid"] for w in service.workers()}
        prompt = broker.put_prompt(model_of(service), "Tell me a story.", params=LONG, detached=True)
        wait_for(lambda: pieces_of(broker, prompt) > 10, "the first words")
        kill(pids[broker.last("TOKENS", f"tok.*.{prompt}.c").json()["worker"]])
        record = broker.record(prompt, 120)
    assert record["attempt"] == 2 and record["reply_tokens"] == 300
    check_logprobs(record, 1)
    assert len(record["cuts"]) == record["pieces"]
