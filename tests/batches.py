"""Batches by OpenAI's client: making them, waiting for their end, and holding their files against what
was asked for."""

import json

import httpx
import openai

from harness import fake_text, wait_for

CHAT = "/v1/chat/completions"


def client(service, key="none", gateway=0, retries=0):
    return openai.OpenAI(base_url=service.gateway_url(gateway) + "/v1", api_key=key,
                         max_retries=retries, http_client=httpx.Client(trust_env=False))


def line(number, url=CHAT, **body):
    if url == CHAT:
        body = {"model": "default", "messages": [{"role": "user", "content": f"t{number}"}], **body}
    return {"custom_id": f"request-{number}", "method": "POST", "url": url, "body": body}


def jsonl(lines):
    return "".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n"
                   for entry in lines).encode()


def begin(one, lines, url=CHAT, window="24h", **fields):
    file = one.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
    return one.batches.create(input_file_id=file.id, endpoint=url, completion_window=window,
                              **fields)


def end(one, batch, timeout=60, *states):
    states = states or ("completed", "failed", "expired", "cancelled")

    def over():
        now = one.batches.retrieve(batch.id)
        return now if now.status in states else None

    return wait_for(over, f"the end of {batch.id}", timeout)


def answers(one, file_id):
    """{custom_id: line}, each of which is there once."""
    if file_id is None:
        return {}
    lines = [json.loads(text) for text in one.files.content(file_id).text.splitlines()]
    found = {entry["custom_id"]: entry for entry in lines}
    assert len(found) == len(lines), "a line is there twice"
    assert len({entry["id"] for entry in lines}) == len(lines)
    return found


def check_chats(found, numbers, tokens=5):
    assert sorted(found) == sorted(f"request-{i}" for i in numbers)
    for i in numbers:
        answer = found[f"request-{i}"]
        assert answer["error"] is None and answer["response"]["status_code"] == 200
        body = answer["response"]["body"]
        assert body["object"] == "chat.completion"
        assert body["choices"][0]["message"]["content"] == fake_text(f"t{i}", tokens)
        assert answer["response"]["request_id"] in body["id"]
