"""What strangers send, at every endpoint that reads a body, plain and streamed: a 4xx in OpenAI's
error shape that names the field, nothing about the machine or about others, nothing fetched; and
a service that answers as before, with the processes that it began with.
"""

import asyncio
import json
import re
import select
import socket

import httpx
import pytest

from harness import House, fake_text, process_start

CHAT, TEXT, RESPONSE = "/v1/chat/completions", "/v1/completions", "/v1/responses"
EMBED, TOKENIZE, DETOKENIZE = "/v1/embeddings", "/tokenize", "/detokenize"
TEMPLATE, BATCH = "/apply-template", "/v1/batches"
USER = [{"role": "user", "content": "good tokens=2"}]
GOOD = {  # what is sent with one thing in it made bad
    CHAT: {"model": "default", "messages": USER},
    TEXT: {"model": "default", "prompt": "good tokens=2"},
    RESPONSE: {"model": "default", "input": "good tokens=2"},
    EMBED: {"model": "default", "input": "good"},
    TOKENIZE: {"content": "good"},
    DETOKENIZE: {"tokens": [1, 2]},
    TEMPLATE: {"messages": USER},
    BATCH: {"input_file_id": "file-" + "0" * 32, "endpoint": CHAT, "completion_window": "24h"},
}
STREAMED = {CHAT, TEXT, RESPONSE}
ENDPOINTS = list(GOOD)
PROMPTED = [path for path in ENDPOINTS if path != BATCH]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    house = House(tmp_path_factory.mktemp("hostile"), workers=1, slots=8, body_limit=1024,
                  model="fake:tokens=20,delay_ms=1")
    try:
        house.service.wait_ready()
        yield house
        died = [p for p, begun in house.service.family.items() if process_start(p) != begun]
        assert not died, f"{len(died)} processes died of it\n{house.service.logs()}"
        assert house.service.stop() == 0, house.service.logs()
    finally:
        house.service.kill()


@pytest.fixture(scope="module")
def secret(house):
    """The id of a reply of ann's."""
    return house.ann[0].responses.create(model="default", input="hers tokens=1").id[5:]


@pytest.fixture(scope="module")
def http(house):
    with house.http(0, "bob") as client:
        yield client


@pytest.fixture(autouse=True)
def untouched(house, http):
    yield
    got = http.post(CHAT, json=GOOD[CHAT])
    assert got.status_code == 200, got.text
    assert got.json()["choices"][0]["message"]["content"] == fake_text("good", 2)


def check_error(house, got, param=None, statuses=(400,)):
    """A 4xx in OpenAI's shape; param: what is named, or the beginning of it."""
    assert got.status_code in statuses, (got.status_code, got.text[:500])
    assert got.headers["content-type"].startswith("application/json")
    body = got.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"] in ("invalid_request_error", "authentication_error")
    assert len(error["message"]) < 500
    if param is not None:
        named = error["param"] or ""
        assert re.match(re.escape(param) + r"($|[.\[])", named), (param, error)
        if error["code"] != "invalid_json":
            words = re.findall("[a-z]+", named)
            assert any(word in error["message"].lower() for word in words), error
    leak = (str(house.service.state_dir), "127.0.0.1", "nats:", "/tmp", "src/", ".c:", "\x1b",
            house.keys["ann"], house.keys["bob"])
    for text in leak:
        assert text not in got.text, f"{text!r} leaks: {got.text[:500]}"
    return error


def refused(house, http, path, fields, param=None, statuses=(400,)):
    """The good request with these fields is refused, plain and streamed."""
    for stream in [False, True][:1 + (path in STREAMED)]:
        body = {**GOOD[path], **({"stream": True} if stream else {}), **fields}
        data = json.dumps(body).encode()  # also what is no JSON: NaN, Infinity
        got = http.post(path, content=data, headers={"content-type": "application/json"})
        check_error(house, got, param, statuses)


# ---- bodies ----

def with_field(path, name, raw):
    """The good body with a further field whose value is raw bytes."""
    return json.dumps(GOOD[path]).encode()[:-1] + b', "' + name + b'": ' + raw + b"}"


BODIES = [  # name, bytes of a field's value
    ("an array 100,000 deep", b"[" * 100000 + b"]" * 100000),
    ("an object 100,000 deep", b'{"a":' * 100000 + b"1" + b"}" * 100000),
    ("brackets that never close", b"[" * 500000),
    ("an array 65 deep", b"[" * 65 + b"]" * 65),
    ("invalid UTF-8", b'"\xff\xfe"'),
    ("an overlong character", b'"\xc0\xaf"'),
    ("a surrogate in UTF-8", b'"\xed\xa0\x80"'),
    ("a character above Unicode", b'"\xf4\x90\x80\x80"'),
    ("half a character", b'"\xe2\x82"'),
    ("a lone high surrogate", b'"\\ud800"'),
    ("a lone low surrogate", b'"\\udc00x"'),
    ("two high surrogates", b'"\\ud800\\ud800"'),
    ("NUL", b'"a\\u0000b"'),
    ("a NUL byte", b'"a\x00b"'),
    ("a control character", b'"a\x01b"'),
    ("a bad escape", b'"\\x41"'),
    ("NaN", b"NaN"),
    ("Infinity", b"-Infinity"),
    ("a number over all doubles", b"1e999"),
    ("a leading zero", b"007"),
    ("hexadecimal", b"0x10"),
    ("a comment", b"1 /* x */"),
    ("a comma too many", b"[1,]"),
    ("single quotes", b"'x'"),
    ("a key twice", b'{"a": 1, "a": 2}'),
    ("a key twice by an escape", b'{"a": 1, "\\u0061": 2}'),
]


@pytest.mark.parametrize("raw", [b[1] for b in BODIES], ids=[b[0] for b in BODIES])
@pytest.mark.parametrize("path", ENDPOINTS)
def test_a_value_that_is_no_json(house, http, path, raw):
    """In a field that nobody knows as in one that is known."""
    for name in (b"unheard", b"user"):
        got = http.post(path, content=with_field(path, name, raw))
        check_error(house, got, name.decode() if raw != b"[" * 500000 else None)


def test_a_known_key_twice(house, http):
    for path in ENDPOINTS:
        for name in GOOD[path]:
            raw = json.dumps(GOOD[path][name]).encode()
            check_error(house, http.post(path, content=with_field(path, name.encode(), raw)), name)


WHOLE = [("nothing", b""), ("a blank", b" "), ("null", b"null"), ("an array", b"[]"),
         ("a text", b'"x"'), ("true", b"true"), ("a number", b"5"), ("cut off", None),
         ("two objects", b"{}{}"), ("a byte order mark", b"\xef\xbb\xbf{}"),
         ("UTF-16", '{"model": "default"}'.encode("utf-16")), ("a form", b"model=default&a=b"),
         ("a NUL behind it", b"{}\x00"), ("gzip", b"\x1f\x8b\x08\x00" + b"\x00" * 50)]


@pytest.mark.parametrize("body", [w[1] for w in WHOLE], ids=[w[0] for w in WHOLE])
def test_a_body_that_is_none(house, http, body):
    for path in ENDPOINTS:
        good = json.dumps(GOOD[path]).encode()
        for data in [body] if body is not None else [good[:i] for i in range(1, len(good) - 1, 7)]:
            check_error(house, http.post(path, content=data))


def test_a_giant_body(house, http):
    for path in ENDPOINTS:
        big = {**GOOD[path], "unheard": "x" * (1024 * 1024)}
        check_error(house, http.post(path, json=big), statuses=(413,))
        # announced only: refused before it comes
        head = (f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n"
                f"Authorization: Bearer {house.keys['bob']}\r\n\r\n")
        status, _ = raw(house, head.encode())
        assert status == 413


def test_many_fields(house, http):
    """100,000 fields that nobody knows are ignored; so is one with a name of 500 KB."""
    many = {f"x{i}": i for i in range(50000)}
    got = http.post(CHAT, json={**GOOD[CHAT], **many, "y" * 300000: 1})
    assert got.status_code == 200, got.text


def test_what_fits_barely(house, http):
    """64 levels are read: the bound is where it says."""
    got = http.post(CHAT, content=with_field(CHAT, b"unheard", b"[" * 63 + b"]" * 63))
    assert got.status_code == 200, got.text


def test_an_integer_of_more_than_64_bits(house, http):
    """It is no number of a token and no length, and its neighbours stay what they are."""
    large = 10**30
    for path in ENDPOINTS:
        if path == BATCH:  # its file is not there: that is what is said
            check_error(house, http.post(path, json={**GOOD[path], "unheard": large}),
                        "input_file_id")
            continue
        got = http.post(path, json={**GOOD[path], "unheard": [{"x": -large}], "also": large})
        assert got.status_code == 200, (path, got.text)
    said = http.post(DETOKENIZE, json={"tokens": [1, 2]}).json()
    assert http.post(DETOKENIZE, json={"tokens": [1, 2], "unheard": large}).json() == said
    for tokens in ([1, large], [1, -large], [0, 2**63, -1]):
        error = check_error(house, http.post(DETOKENIZE, json={"tokens": tokens, "u": 5}), "tokens")
        assert error["param"] == "tokens[1]" and error["code"] == "invalid_value"
    error = check_error(house, http.post(CHAT, json={**GOOD[CHAT], "max_tokens": 5, "n": large}),
                        "n")
    assert error["code"] == "integer_above_max_value"
    assert http.post(CHAT, json={**GOOD[CHAT], "max_tokens": 1, "logit_bias": {"7": 1},
                                 "unheard": large}).json()["usage"]["completion_tokens"] == 1


# ---- types ----

SAMPLES = {"text": ["x", ""], "integer": [5, 10**30], "number": [0.5, 1e300], "flag": [True],
           "array": [[], [5], [[]], [None], [{}]], "object": [{}, {"a": {}}]}
TYPES = {  # what a field takes; a number takes integers too
    CHAT: {
        "model": "text", "messages": "array", "stream": "flag", "stream_options": "object",
        "max_tokens": "integer", "max_completion_tokens": "integer", "min_tokens": "integer",
        "max_new_tokens": "integer", "min_new_tokens": "integer", "temperature": "number",
        "top_p": "number", "top_k": "integer", "seed": "integer", "stop": "text array",
        "frequency_penalty": "number", "presence_penalty": "number", "repeat_penalty": "number",
        "logit_bias": "object", "logprobs": "flag", "top_logprobs": "integer", "n": "integer",
        "user": "text", "metadata": "object", "store": "flag", "response_format": "object",
        "truncate": "text", "num_beams": "integer", "num_return_sequences": "integer",
        "length_penalty": "number", "early_stopping": "text flag",
        "no_repeat_ngram_size": "integer", "repetition_penalty": "number",
        "do_sample": "flag", "forced_eos_token_id": "integer", "modalities": "array",
    },
    TEXT: {
        "model": "text", "prompt": "text array", "stream": "flag", "stream_options": "object",
        "max_tokens": "integer", "min_tokens": "integer", "temperature": "number",
        "top_p": "number", "seed": "integer", "stop": "text array", "frequency_penalty": "number",
        "presence_penalty": "number", "logit_bias": "object", "logprobs": "integer",
        "n": "integer", "best_of": "integer", "echo": "flag", "user": "text", "suffix": "text",
    },
    RESPONSE: {
        "model": "text", "input": "text array", "instructions": "text", "stream": "flag",
        "stream_options": "object", "max_output_tokens": "integer", "temperature": "number",
        "top_p": "number", "metadata": "object", "store": "flag", "background": "flag",
        "previous_response_id": "text", "truncation": "text", "user": "text",
        "safety_identifier": "text", "text": "object", "reasoning": "object", "seed": "integer",
    },
    EMBED: {"model": "text", "input": "text array", "encoding_format": "text", "user": "text"},
    TOKENIZE: {"model": "text", "content": "text", "with_pieces": "flag", "add_special": "flag",
               "user": "text"},
    DETOKENIZE: {"model": "text", "tokens": "array", "user": "text"},
    TEMPLATE: {"model": "text", "messages": "array", "user": "text"},
    BATCH: {"input_file_id": "text", "endpoint": "text", "completion_window": "text",
            "metadata": "object"},
}


def wrong_values(allowed):
    allowed = allowed.split()
    for kind, values in SAMPLES.items():
        if kind in allowed or (kind == "integer" and "number" in allowed):
            continue
        yield from values


@pytest.mark.parametrize("path,field", [(p, f) for p in ENDPOINTS for f in TYPES[p]])
def test_a_field_of_another_type(house, http, path, field):
    for value in wrong_values(TYPES[path][field]):
        for stream in [False, True][:1 + (path in STREAMED and field != "stream")]:
            body = {**GOOD[path], **({"stream": True} if stream else {}), field: value}
            check_error(house, http.post(path, json=body), field)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_what_is_required(house, http, path):
    for field in GOOD[path]:
        for body in ({k: v for k, v in GOOD[path].items() if k != field},
                     {**GOOD[path], field: None}):
            check_error(house, http.post(path, json=body), field)


# ---- sizes, counts, numbers ----

def part(kind, **fields):
    return [{"role": "user", "content": [{"type": kind, **fields}]}]


LIMITS = [(path, fields, param) for paths, fields, param in [
    ([CHAT, TEXT], {"n": 0}, "n"), ([CHAT, TEXT], {"n": 65}, "n"),
    ([CHAT, TEXT], {"n": 10**9}, "n"), ([CHAT, TEXT], {"n": -1}, "n"),
    ([CHAT, TEXT], {"n": 2**64}, "n"), ([CHAT, TEXT], {"n": 2**32 + 1}, "n"),
    ([TEXT], {"n": 33, "prompt": ["a", "b"]}, "n"), ([TEXT], {"best_of": 10**9}, "best_of"),
    ([TEXT], {"best_of": 2, "n": 1}, "best_of"),
    ([CHAT, TEXT], {"max_tokens": 0}, "max_tokens"),
    ([CHAT, TEXT], {"max_tokens": -1}, "max_tokens"),
    ([CHAT, TEXT], {"max_tokens": 2**31}, "max_tokens"),
    ([CHAT, TEXT], {"max_tokens": 2**63}, "max_tokens"),
    ([CHAT, TEXT], {"max_tokens": 10**400}, "max_tokens"),
    ([CHAT, TEXT], {"max_tokens": 1e18}, "max_tokens"),
    ([CHAT], {"max_completion_tokens": 2**31}, "max_completion_tokens"),
    ([RESPONSE], {"max_output_tokens": 2**31}, "max_output_tokens"),
    ([RESPONSE], {"max_output_tokens": 0}, "max_output_tokens"),
    ([CHAT, TEXT], {"min_tokens": 2**31}, "min_tokens"),
    ([CHAT, TEXT], {"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ([CHAT], {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ([CHAT], {"logprobs": True, "top_logprobs": 10**9}, "top_logprobs"),
    ([CHAT], {"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
    ([CHAT], {"top_logprobs": 3}, "top_logprobs"), ([TEXT], {"logprobs": 6}, "logprobs"),
    ([TEXT], {"logprobs": 10**9}, "logprobs"), ([TEXT], {"logprobs": -1}, "logprobs"),
    ([CHAT, TEXT], {"stop": ["x"] * 17}, "stop"), ([CHAT, TEXT], {"stop": ["x"] * 100000}, "stop"),
    ([CHAT, TEXT], {"stop": ""}, "stop"), ([CHAT, TEXT], {"stop": ["x", ""]}, "stop"),
    ([CHAT, TEXT], {"stop": "x" * 257}, "stop"),
    ([CHAT, TEXT, RESPONSE], {"temperature": -0.01}, "temperature"),
    ([CHAT, TEXT, RESPONSE], {"temperature": 2.01}, "temperature"),
    ([CHAT, TEXT, RESPONSE], {"temperature": 1e308}, "temperature"),
    ([CHAT, TEXT, RESPONSE], {"top_p": 0}, "top_p"),
    ([CHAT, TEXT, RESPONSE], {"top_p": 1.01}, "top_p"),
    ([CHAT, TEXT], {"seed": 2**63}, "seed"), ([CHAT, TEXT], {"seed": -2}, "seed"),
    ([CHAT, TEXT], {"frequency_penalty": 2.1}, "frequency_penalty"),
    ([CHAT, TEXT], {"presence_penalty": -2.1}, "presence_penalty"),
    ([CHAT, TEXT], {"logit_bias": {"5": 101}}, "logit_bias"),
    ([CHAT, TEXT], {"logit_bias": {"5": "x"}}, "logit_bias"),
    ([CHAT, TEXT], {"logit_bias": {"x": 1}}, "logit_bias"),
    ([CHAT, TEXT], {"logit_bias": {"-1": 1}}, "logit_bias"),
    ([CHAT, TEXT], {"logit_bias": {"99999999999999999999": 1}}, "logit_bias"),
    ([CHAT, TEXT], {"logit_bias": {str(i): 1 for i in range(50000)}}, "logit_bias"),
    ([CHAT, RESPONSE], {"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
    ([CHAT, RESPONSE], {"metadata": {"x" * 65: "x"}}, "metadata"),
    ([CHAT, RESPONSE], {"metadata": {"x": "x" * 513}}, "metadata"),
    ([CHAT, RESPONSE], {"metadata": {"x": 5}}, "metadata"),
    ([CHAT, RESPONSE], {"metadata": {"x": {"y": "z"}}}, "metadata"),
    (PROMPTED, {"user": "x" * 65}, "user"), (PROMPTED, {"user": "a\nb"}, "user"),
    (PROMPTED, {"user": "a\x1b[31m"}, "user"), (PROMPTED, {"user": "\u0085"}, "user"),
    (PROMPTED, {"model": "x" * 5000}, "model"), (PROMPTED, {"model": ""}, "model"),
    (PROMPTED, {"model": "a\x07b"}, "model"),
    ([CHAT, TEMPLATE], {"messages": []}, "messages"),
    ([CHAT, TEMPLATE], {"messages": USER * 1025}, "messages"),
    ([CHAT, TEMPLATE], {"messages": [{"role": "user", "content": [
        {"type": "text", "text": "x"}] * 257}]}, "messages"),
    ([CHAT, TEMPLATE], {"messages": [{"role": "user", "content": []}]}, "messages"),
    ([CHAT, TEMPLATE], {"messages": [{"role": "tool", "content": "x"}]}, "messages"),
    ([CHAT, TEMPLATE], {"messages": [{"role": "x" * 5000, "content": "x"}]}, "messages"),
    ([CHAT, TEMPLATE], {"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages"),
    ([CHAT, TEMPLATE], {"messages": part("input_audio", input_audio={"data": "x"})}, "messages"),
    ([CHAT, TEMPLATE], {"messages": part("file", file={"file_id": "x"})}, "messages"),
    ([CHAT, TEMPLATE], {"messages": part("x" * 5000)}, "messages"),
    ([CHAT, TEMPLATE], {"messages": part("text", text=5)}, "messages"),
    ([RESPONSE], {"input": []}, "input"), ([RESPONSE], {"input": USER * 1025}, "input"),
    ([RESPONSE], {"input": [{"type": "function_call_output", "output": "x"}]}, "input"),
    ([RESPONSE], {"input": [{"type": "item_reference", "id": "msg_1"}]}, "input"),
    ([RESPONSE], {"input": part("input_file", file_url="http://x/")}, "input"),
    ([RESPONSE], {"truncation": "x"}, "truncation"),
    ([RESPONSE], {"previous_response_id": "x"}, "previous_response_id"),
    ([RESPONSE], {"previous_response_id": "resp_" + "x" * 100000}, "previous_response_id"),
    ([RESPONSE], {"text": {"format": {"type": "grammar"}}}, "text"),
    ([RESPONSE], {"reasoning": {"effort": "high"}}, "reasoning"),
    ([RESPONSE], {"background": True, "store": False}, "background"),
    ([TEXT], {"prompt": []}, "prompt"), ([TEXT], {"prompt": ["x"] * 65}, "prompt"),
    ([TEXT], {"prompt": [1, 2, 3]}, "prompt"), ([TEXT], {"prompt": [[1], [2]]}, "prompt"),
    ([TEXT], {"suffix": "x"}, "suffix"), ([TEXT], {"echo": True, "logprobs": 1}, "logprobs"),
    ([EMBED], {"input": []}, "input"), ([EMBED], {"input": ""}, "input"),
    ([EMBED], {"input": ["x"] * 257}, "input"), ([EMBED], {"input": ["x", ""]}, "input"),
    ([EMBED], {"input": ["x"] * 100000}, "input"), ([EMBED], {"input": [1, 2]}, "input"),
    ([EMBED], {"dimensions": 5}, "dimensions"),
    ([EMBED], {"encoding_format": "hex"}, "encoding_format"),
    ([BATCH], {"input_file_id": "file-*"}, "input_file_id"),
    ([BATCH], {"input_file_id": "../etc"}, "input_file_id"),
    ([BATCH], {"input_file_id": "file-" + "x" * 100000}, "input_file_id"),
    ([BATCH], {"endpoint": "/v1/files"}, "endpoint"),
    ([BATCH], {"endpoint": "/tokenize"}, "endpoint"),
    ([BATCH], {"endpoint": "http://127.0.0.1:9/v1/chat/completions"}, "endpoint"),
    ([BATCH], {"completion_window": "99999999999999999999h"}, "completion_window"),
    ([BATCH], {"completion_window": "-1h"}, "completion_window"),
    ([BATCH], {"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
    ([DETOKENIZE], {"tokens": [-1]}, "tokens"), ([DETOKENIZE], {"tokens": [2**40]}, "tokens"),
    ([DETOKENIZE], {"tokens": [1.5]}, "tokens"), ([DETOKENIZE], {"tokens": ["x"]}, "tokens"),
    ([DETOKENIZE], {"tokens": [[1]]}, "tokens"), ([TOKENIZE], {"add_special": True}, "add_special"),
] for path in paths]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_sizes_counts_and_numbers(house, http, path):
    for at, fields, param in LIMITS:
        if at == path:
            refused(house, http, path, fields, param)


UNSUPPORTED = [
    (CHAT, ["tools", "tool_choice", "functions", "function_call", "audio", "prediction",
            "web_search_options"]),
    (TEXT, ["tools", "response_format"]),
    (RESPONSE, ["tools", "tool_choice", "include", "prompt", "conversation", "max_tool_calls",
                "response_format", "context_management"]),
]


@pytest.mark.parametrize("path,field", [(p, f) for p, fields in UNSUPPORTED for f in fields])
def test_what_is_known_and_not_done(house, http, path, field):
    for value in ([{"type": "function"}], {"name": "x"}, "required", 5):
        refused(house, http, path, {field: value}, field)


def wrap(depth, inner):
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}, "required": ["a"],
                 "additionalProperties": False}
    return inner


SCHEMAS = [
    ("no schema", None), ("a text", "x"), ("an array", []), ("an unknown type", {"type": "x"}),
    ("a schema from elsewhere", {"$ref": "http://127.0.0.1:9/x.json"}),
    ("one of this machine", {"$ref": "file:///etc/passwd"}),
    ("a reference to nothing", {"$ref": "#/$defs/none"}),
    ("100,000 words", {"enum": [f"word {i}" for i in range(50000)]}),
    ("a huge repetition", {"type": "string", "minLength": 10**9, "maxLength": 10**9}),
    ("an array of billions", {"type": "array", "items": {"type": "integer"}, "minItems": 10**9}),
    ("a negative count", {"type": "array", "items": {}, "minItems": -1}),
    ("many alternatives", {"anyOf": [{"type": "string"}] * 20000}),
    ("none", {"anyOf": []}), ("an empty enum", {"enum": []}),
    ("properties of another type", {"type": "object", "properties": []}),
    ("a bad pattern", {"type": "string", "pattern": "((((((((((a*)*)*)*)*)*)*)*)*)*"}),
]


@pytest.mark.parametrize("schema", [s[1] for s in SCHEMAS], ids=[s[0] for s in SCHEMAS])
def test_a_bad_schema(house, http, schema):
    refused(house, http, CHAT, {"response_format": {
        "type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}},
        "response_format")
    refused(house, http, RESPONSE, {"text": {"format": {
        "type": "json_schema", "name": "x", "strict": True, "schema": schema}}}, "text")


def test_a_deep_schema(house, http):
    """Up to a bound it is taken, beyond it refused by name."""
    def ask(depth):
        return {"response_format": {"type": "json_schema", "json_schema": {
            "name": "x", "strict": True, "schema": wrap(depth, {"type": "string"})}}}
    refused(house, http, CHAT, ask(40), "response_format")
    answer = http.post(CHAT, json={"model": "default", "max_tokens": 4, **ask(12),
                                   "messages": [{"role": "user", "content": "deep tokens=2"}]})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("form", ["json", 5, [], {}, {"type": 5}, {"type": "xml"},
                                  {"type": "json_schema"},
                                  {"type": "json_schema", "json_schema": 5}])
def test_a_bad_format(house, http, form):
    refused(house, http, CHAT, {"response_format": form}, "response_format")


# ---- nothing is fetched ----

def test_no_address_is_ever_visited(house, http):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        refused(house, http, CHAT, {"messages": part("image_url", image_url={"url": url})},
                "messages")
        refused(house, http, CHAT, {"messages": part("image_url", image_url=url)}, "messages")
        refused(house, http, CHAT, {"messages": part("video_url", video_url={"url": url})},
                "messages")
        refused(house, http, TEMPLATE, {"messages": part("image_url", image_url={"url": url})},
                "messages")
        for kind in ("input_image", "image_url", "input_file"):
            refused(house, http, RESPONSE, {"input": part(kind, image_url=url, file_url=url)},
                    "input")
        refused(house, http, RESPONSE, {"tools": [{"type": "mcp", "server_url": url}]}, "tools")
        refused(house, http, CHAT, {"response_format": {"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"$ref": url}}}}, "response_format")
        # as text it is a text
        assert http.post(CHAT, json={**GOOD[CHAT], "messages": [
            {"role": "user", "content": f"good tokens=1 {url}"}]}).status_code == 200
        assert http.get("/v1/models", headers={"host": f"127.0.0.1:{trap.getsockname()[1]}",
                                               "origin": url, "referer": url}).status_code == 200
        readable, _, _ = select.select([trap], [], [], 0.3)
        assert not readable, "somebody called"


# ---- queries and paths ----

def raw(house, data, timeout=60):
    """(status, body) of what a raw socket gets."""
    with socket.create_connection(("127.0.0.1", house.service.port), timeout) as sock:
        sock.sendall(data)
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = sock.recv(65536)
            if not piece:
                break
            answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.I)
        while length and len(body) < int(length[1]):
            piece = sock.recv(65536)
            if not piece:
                break
            body += piece
    assert head, "no answer"
    return int(head.split(b" ")[1]), body


@pytest.mark.parametrize("query,param", [
    ("limit=0", "limit"), ("limit=101", "limit"), ("limit=abc", "limit"), ("limit=-1", "limit"),
    ("limit=1e1", "limit"), ("limit=", "limit"), ("limit=%00", "limit"), ("limit=%zz", "limit"),
    ("limit=99999999999999999999", "limit"), ("limit=5%20", "limit"), ("limit=+5", "limit"),
    ("limit", "limit"), ("order=sideways", "order"), ("order=", "order"), ("order=%00", "order"),
    ("order=" + "x" * 1000, "order"), ("after=" + "x" * 5000, "after"), ("after=%00", "after")])
def test_a_bad_query(house, http, secret, query, param):
    path = f"/v1/responses/resp_{secret}/input_items?{query}"
    with house.http() as ann:
        check_error(house, ann.get(path), param)


@pytest.mark.parametrize("query,param", [
    ("starting_after=abc", "starting_after"), ("starting_after=-2", "starting_after"),
    ("starting_after=1e9", "starting_after"), ("starting_after=%00", "starting_after"),
    ("starting_after", "starting_after"), ("stream=maybe", "stream"), ("stream=", "stream"),
    ("stream=%00", "stream"), ("stream=truetruetruetrue", "stream")])
def test_a_bad_query_of_a_response(house, http, secret, query, param):
    with house.http() as ann:
        check_error(house, ann.get(f"/v1/responses/resp_{secret}?{query}"), param)


@pytest.mark.parametrize("path", ["/v1/files", BATCH])
def test_a_bad_query_of_a_list(house, http, path):
    for query, param in (("limit=0", "limit"), ("limit=abc", "limit"), ("limit=-1", "limit"),
                         ("limit=99999999999999999999", "limit"), ("limit=%00", "limit"),
                         ("after=" + "x" * 5000, "after"),
                         ("after=%00", "after")):
        check_error(house, http.get(f"{path}?{query}"), param)
    assert http.get(path).status_code == 200


def test_a_query_that_is_not_meant(house, secret):
    """Names that are not ours are nobody's, whatever stands in them."""
    with house.http() as ann:
        for query in ("xlimit=abc", "limits=abc", "a=limit", "a=b=limit=x", "&&&", "%", "=", "?",
                      "x" * 3000, "stream=false", "a=starting_after"):
            got = ann.get(f"/v1/responses/resp_{secret}/input_items?{query}")
            assert got.status_code == 200, (query, got.text)


TARGETS = ["/v1/responses/../models", "/v1/../v1/models", "/v1/responses/./x", "//v1/models",
           "/v1//models", "/v1/models/", "/v1/responses/", "/v1/responses//cancel",
           "/v1/responses/%2f",
           "/v1/responses/x%2fcancel", "/v1/responses/%2e%2e/models", "/v1/responses/..%2fmodels",
           "/v1/responses/x/y", "/v1/responses/x/cancel/", "/V1/models", "/v1/models/" + "x" * 6000,
           "/v1/models/%00", "/v1/models/%zz", "/v1/models/%", "/v1/models/%ff", "/v1/models/nope",
           "/v1/chat/completions/", "/v1/chat/completions/x", "/v1/chat/completions/../../models",
           "/v1/chat/completions/chatcmpl-*", "/etc/passwd", "/../../etc/passwd", "/%2e%2e/etc",
           "/v1/responses/resp_\x7f", "/v1/responses/<script>", "/\\..\\..", "/v1/files/../x",
           "/wyvern/../v1/none", "/metrics/x", "/*", "/v1/*", "/v1/responses/*"]


@pytest.mark.parametrize("target", TARGETS, ids=[t[:30].encode("unicode_escape").decode()
                                                 for t in TARGETS])
def test_a_bad_path(house, target):
    for method in ("GET", "POST", "DELETE"):
        status, body = raw(house, f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
                           f"Authorization: Bearer {house.keys['bob']}\r\n\r\n".encode("latin-1"))
        assert 400 <= status < 500, (method, status, body)
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(error["message"]) < 500
        for text in ("root:", "/tmp", "127.0.0.1", "nats", "<script>"):
            assert text not in error["message"], error


def test_methods_that_are_not_there(house, http):
    for path in [*ENDPOINTS, "/v1/models", "/props", "/slots", "/metrics", "/health"]:
        for method in ("PUT", "PATCH", "DELETE"):
            got = http.request(method, path)
            check_error(house, got, statuses=(405,))
            assert http.options(path).headers["allow"] == got.headers["allow"]  # RFC 9110, 15.5.6
            assert set(got.headers["allow"].split(", ")) <= {"GET", "POST"}
    for path in PROMPTED:
        if path != CHAT:  # a list of stored ones may be there some day
            check_error(house, http.get(path), statuses=(405,))


def test_a_wrong_key_tells_nothing(house):
    bad = ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer " + "x" * 5000,
           f"Bearer {house.keys['ann'][:-1]}", f"Bearer {house.keys['ann']}x", house.keys["ann"],
           f"Bearer {house.keys['ann']},{house.keys['bob']}"]
    for value in bad:
        for path in ENDPOINTS:
            got = httpx.post(house.service.url + path, json=GOOD[path], trust_env=False,
                             headers={"authorization": value})
            error = check_error(house, got, statuses=(401,))
            assert error["code"] == "invalid_api_key"
            assert got.headers["www-authenticate"] == "Bearer"


# ---- nothing of one is ever shown to another ----

def test_many_at_once_get_their_own(house, secret):
    """Two people, all kinds of requests, good and bad, all at once: each gets its own."""
    def good(tag, i):
        kind, stream = i % 3, i % 2 == 1
        text = f"{tag} tokens=8"
        if kind == 0:
            return CHAT, {"model": "default", "stream": stream, "store": i % 5 == 0,
                          "messages": [{"role": "user", "content": text}]}
        if kind == 1:
            return TEXT, {"model": "default", "stream": stream, "prompt": text}
        return RESPONSE, {"model": "default", "stream": stream, "input": text,
                          "store": i % 4 == 0}

    async def one(http, who, i):
        tag = f"{who}{i}"
        if i % 7 == 6:
            got = await http.post(CHAT, content=b'{"model": "default", "messages": [' + b"[" * 5000)
            assert got.status_code == 400
            return
        path, body = good(tag, i)
        got = await http.post(path, json=body)
        assert got.status_code == 200, got.text
        seen = set(re.findall(r"\b(?:ann|bob)\d+(?=\.\d)", got.text))
        assert seen == {tag}
        assert secret not in got.text
        numbers = [int(n) for n in re.findall(rf"\b{tag}\.(\d+) ", got.text)]
        assert numbers[:8] == list(range(8))

    async def all_of_them():
        async with BothClients(house) as (ann, bob):
            await asyncio.gather(*(one(client, who, i) for i in range(150)
                                   for who, client in (("ann", ann), ("bob", bob))))

    asyncio.run(all_of_them())


class BothClients:
    """An asynchronous client for each of the two."""

    def __init__(self, house):
        self.clients = [httpx.AsyncClient(
            base_url=house.service.url, trust_env=False, timeout=60,
            limits=httpx.Limits(max_connections=40),
            headers={"authorization": f"Bearer {house.keys[who]}"}) for who in ("ann", "bob")]

    async def __aenter__(self):
        return self.clients

    async def __aexit__(self, *_):
        for client in self.clients:
            await client.aclose()
