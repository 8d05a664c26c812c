"""What people send wrong: a 4xx in OpenAI's error shape that names the field, and a service that
is untouched."""

import contextlib
import gzip
import json
import socket

import pytest

from harness import fake_text, wait_for

USER = [{"role": "user", "content": "hi"}]

# name, fields that replace those of a good request (None: left out), field named, status
CASES = [
    ("model of another type", {"model": 7}, "model", 400),
    ("unknown model", {"model": "gpt-none"}, "model", 404),
    ("no messages", {"messages": None}, "messages", 400),
    ("empty messages", {"messages": []}, "messages", 400),
    ("messages of another type", {"messages": "hi"}, "messages", 400),
    ("message of another type", {"messages": ["hi"]}, "messages[0]", 400),
    ("no role", {"messages": [{"content": "hi"}]}, "messages[0].role", 400),
    ("unknown role", {"messages": [{"role": "king", "content": "hi"}]}, "messages[0].role", 400),
    ("no content", {"messages": [{"role": "user"}]}, "messages[0].content", 400),
    ("content of another type", {"messages": [{"role": "user", "content": 5}]},
     "messages[0].content", 400),
    ("max_tokens 0", {"max_tokens": 0}, "max_tokens", 400),
    ("max_tokens negative", {"max_tokens": -1}, "max_tokens", 400),
    ("max_tokens huge", {"max_tokens": 10**18}, "max_tokens", 400),
    ("max_tokens fraction", {"max_tokens": 1.5}, "max_tokens", 400),
    ("max_tokens text", {"max_tokens": "ten"}, "max_tokens", 400),
    ("min_tokens over max_tokens", {"min_tokens": 9, "max_tokens": 3}, "min_tokens", 400),
    ("temperature text", {"temperature": "hot"}, "temperature", 400),
    ("temperature negative", {"temperature": -0.1}, "temperature", 400),
    ("temperature huge", {"temperature": 1e9}, "temperature", 400),
    ("top_p over 1", {"top_p": 1.1}, "top_p", 400),
    ("top_k negative", {"top_k": -5}, "top_k", 400),
    ("stream text", {"stream": "yes"}, "stream", 400),
    ("n too many", {"n": 10**6}, "n", 400),
    ("stop of another type", {"stop": 5}, "stop", 400),
    ("stop list too long", {"stop": ["x"] * 1000}, "stop", 400),
    ("user of another type", {"user": 5}, "user", 400),
    ("seed text", {"seed": "s"}, "seed", 400),
]


def error_of(reply):
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return body["error"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/files"])
def test_a_packed_body(fake, path):
    """Refused for what it is, and not called bad JSON."""
    body = gzip.compress(json.dumps({"model": "default", "messages": USER}).encode())
    reply = fake.client.post(path, content=body, headers={
        "content-type": "application/json", "content-encoding": "gzip"})
    assert reply.status_code == 415 and error_of(reply)["code"] == "unsupported_content_encoding"
    assert reply.headers["accept-encoding"] == "identity"
    plain = fake.client.post("/v1/chat/completions", headers={"content-encoding": "Identity"}, json={
        "model": "default", "messages": [{"role": "user", "content": "p tokens=1"}]})
    assert plain.status_code == 200


@pytest.mark.parametrize("fields,param,status", [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_wrong_field(fake, fields, param, status):
    body = {"model": "default", "messages": USER, **fields}
    body = {k: v for k, v in body.items() if v is not None}
    reply = fake.client.post("/v1/chat/completions", json=body)
    assert reply.status_code == status, reply.text
    error = error_of(reply)
    assert error["param"] == param
    assert error["type"]
    assert param.rpartition(".")[2] in error["message"] or param in error["message"]


BODIES = [
    ("empty", b""),
    ("not JSON", b"hello"),
    ("cut off", b'{"model": "default", "messages": [{"role": "us'),
    ("an array", b"[]"),
    ("a number", b"5"),
    ("invalid UTF-8", b'{"model":"default","messages":[{"role":"user","content":"\xff\xfe"}]}'),
    ("lone surrogate", b'{"model":"default","messages":[{"role":"user","content":"\\ud800"}]}'),
    ("NUL in a string", b'{"model":"default","messages":[{"role":"user","content":"a\\u0000b"}]}'),
    ("nested deeply", b'{"model":' + b"[" * 100000 + b"]" * 100000 + b"}"),
    ("trailing text", b'{"model":"default","messages":[]} x'),
]


@pytest.mark.parametrize("body", [b[1] for b in BODIES], ids=[b[0] for b in BODIES])
def test_wrong_body(fake, body):
    reply = fake.client.post("/v1/chat/completions", content=body,
                             headers={"content-type": "application/json"})
    assert reply.status_code == 400, reply.text
    assert error_of(reply)["type"] == "invalid_request_error"


def test_body_over_the_limit(start):
    service = start(body_limit=64)
    big = {"model": "default", "messages": [{"role": "user", "content": "x" * 70000}]}
    reply = service.client.post("/v1/chat/completions", json=big)
    assert reply.status_code == 413
    error_of(reply)
    assert service.text("after tokens=2") == fake_text("after", 2)


def test_prompt_longer_than_the_context(real):
    reply = real.post("word " * 20000)
    assert reply.status_code == 400, reply.text
    error = error_of(reply)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert real.text("Say hi.", max_tokens=4)


@pytest.mark.parametrize("method,path,status", [
    ("GET", "/v1/chat/completions", 405), ("DELETE", "/v1/models", 405),
    ("GET", "/nothing", 404), ("POST", "/v1/nothing", 404)])
def test_wrong_way(fake, method, path, status):
    reply = fake.client.request(method, path)
    assert reply.status_code == status
    error_of(reply)


RAW = [  # what httpx would not send; status line expected
    ("no Host", b"GET /health HTTP/1.1\r\n\r\n", b"400"),
    ("two Content-Length", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
     b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", b"400"),
    ("CL and TE", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
     b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
    ("huge head", b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100000 + b"\r\n\r\n", b"431"),
    ("many headers", b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 2000 + b"\r\n", b"431"),
    ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"505"),
]


@pytest.mark.parametrize("data,status", [r[1:] for r in RAW], ids=[r[0] for r in RAW])
def test_raw(fake, data, status):
    with socket.create_connection(("127.0.0.1", fake.port), timeout=30) as sock:
        answer = b""
        with contextlib.suppress(ConnectionError):  # it need not hear all of it
            sock.sendall(data)
        with contextlib.suppress(ConnectionError):
            while b"\r\n" not in answer:
                part = sock.recv(65536)
                if not part:
                    break
                answer += part
        assert answer.split(b" ")[1:2] == [status], answer[:200]


def test_an_error_in_one_prompt_fails_that_prompt_alone(fake):
    reply = fake.post("bad tokens=5 error_at=2")
    assert reply.status_code == 500, reply.text
    assert error_of(reply)["code"]
    assert fake.text("good tokens=3") == fake_text("good", 3)


def test_untouched(fake):
    """After all of the above the module's service still has its processes and its slots."""
    def empty():
        queue = fake.status()["queue"]
        return queue["waiting"] == 0 and queue["in_flight"] == 0

    wait_for(empty, "an empty queue")
    wait_for(lambda: all(w["active"] == 0 for w in fake.workers()), "free slots")
    pids = {w["pid"] for w in fake.workers()}
    assert pids <= set(fake.family), "a worker had to be restarted"
    assert json.loads(json.dumps(fake.ask("fine tokens=1")))["choices"]
