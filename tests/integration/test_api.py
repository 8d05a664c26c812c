"""The API with the real model, field by field, as OpenAI's own client uses it: what each field of
docs/API.md does, whole and streamed, synchronous and asynchronous, at two gateways."""

import asyncio
import base64
import json
import math
import re
import struct

import httpx
import openai
import pydantic
import pytest

from harness import Service, openai_client

ORIGIN = "https://app.example"


@pytest.fixture(scope="module")
def service(tmp_path_factory, model):
    with Service(tmp_path_factory.mktemp("api"), model=model, workers=1, slots=4, gateways=2,
                 cors=ORIGIN) as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    return openai_client(service)


@pytest.fixture(scope="module")
def other(service):
    return openai_client(service, 1)


def chat(client, text="Tell me about dragons.", **fields):
    fields = {"max_tokens": 12, **fields}
    return client.chat.completions.create(model="default", **fields,
                                          messages=[{"role": "user", "content": text}])


def said(reply, index=0):
    return reply.choices[index].message.content


def tokenize(service, text):
    return service.client.post("/tokenize", json={"content": text}).json()["tokens"]


# ---- chat: how long, which words ----

def test_seeds_draw_the_same(client, other):
    draws = [said(chat(c, seed=seed, temperature=1.5)) for seed in (7, 8) for c in (client, other)]
    assert draws[0] == draws[1] and draws[2] == draws[3]
    assert draws[0] != draws[2]


def test_temperature_0_is_always_the_same(client):
    assert said(chat(client, temperature=0)) == said(chat(client, temperature=0, seed=5))


def test_top_k_and_top_p_of_one_are_the_likeliest(client):
    likeliest = said(chat(client, temperature=0))
    assert said(chat(client, temperature=2, extra_body={"top_k": 1})) == likeliest
    assert said(chat(client, temperature=2, top_p=1e-6)) == likeliest


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_limits(client, field):
    reply = client.chat.completions.create(
        model="default", messages=[{"role": "user", "content": "Count to 100."}], **{field: 5})
    assert reply.usage.completion_tokens == 5
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 5


def test_min_tokens(client):
    bare = chat(client, "Say: yes", max_tokens=200, temperature=0)
    assert bare.choices[0].finish_reason == "stop"
    more = bare.usage.completion_tokens + 20
    longer = chat(client, "Say: yes", max_tokens=200, temperature=0,
                  extra_body={"min_tokens": more})
    assert longer.usage.completion_tokens >= more
    assert said(longer).startswith(said(bare))


def test_stop(client):
    whole = said(chat(client, temperature=0, max_tokens=30))
    word = whole.split()[4]
    cut = whole[:whole.index(word)]
    for stop in (word, [word, "nothing of this kind"], ["zzz", word]):
        reply = chat(client, temperature=0, max_tokens=30, stop=stop)
        assert (said(reply), reply.choices[0].finish_reason) == (cut, "stop")
    streamed = "".join(c.choices[0].delta.content or "" for c in chat(
        client, temperature=0, max_tokens=30, stop=word, stream=True) if c.choices)
    assert streamed == cut, "the beginning of a stop string was streamed"


def test_stream(client):
    whole = chat(client, temperature=0, max_tokens=20)
    chunks = list(chat(client, temperature=0, max_tokens=20, stream=True,
                       stream_options={"include_usage": True}))
    assert len({(c.id, c.created, c.model, c.object) for c in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said(whole)
    ends = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert ends[-1] == "length" and set(ends[:-1]) == {None}
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 20
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(c.usage is None for c in chunks[:-1])
    without = list(chat(client, temperature=0, max_tokens=20, stream=True))
    assert all(c.usage is None and c.choices for c in without)


# ---- chat: several texts ----

def test_n(client):
    reply = chat(client, n=3, seed=11, temperature=1)
    assert [c.index for c in reply.choices] == [0, 1, 2]
    assert len({said(reply, i) for i in range(3)}) > 1, "all drew the same"
    assert reply.usage.completion_tokens == 36
    assert reply.usage.prompt_tokens == chat(client, n=1).usage.prompt_tokens
    assert said(chat(client, n=1, seed=11, temperature=1)) == said(reply)


def test_n_streamed(client):
    whole = chat(client, n=3, seed=11, temperature=1)
    texts, ends, roles, usages, ids = {}, {}, {}, [], set()
    for chunk in chat(client, n=3, seed=11, temperature=1, stream=True,
                      stream_options={"include_usage": True}):
        ids.add(chunk.id)
        usages += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            assert choice.index not in ends, "words after its end"
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
            if choice.delta.role:
                roles[choice.index] = roles.get(choice.index, 0) + 1
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert texts == {i: said(whole, i) for i in range(3)}
    assert ends == {i: "length" for i in range(3)}
    assert roles == {0: 1, 1: 1, 2: 1}
    assert len(ids) == 1
    assert [u.completion_tokens for u in usages] == [36]


def test_more_texts_than_slots(client):
    reply = chat(client, n=9, max_tokens=3)
    assert [c.index for c in reply.choices] == list(range(9))
    assert all(said(reply, i) for i in range(9))


# ---- chat: probabilities and what shifts them ----

def check_logprobs(content, tops, text):
    assert "".join(t.token for t in content) == text
    assert bytes(b for t in content for b in t.bytes) == text.encode()
    for token in content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == tops
        order = [t.logprob for t in token.top_logprobs]
        assert order == sorted(order, reverse=True)
        if tops:
            # greedy: what was said is the likeliest
            assert token.top_logprobs[0].token == token.token
            assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-3)
            assert sum(math.exp(p) for p in order) <= 1.001


@pytest.mark.parametrize("tops", [0, 1, 5, 20])
def test_logprobs(client, tops):
    reply = chat(client, temperature=0, logprobs=True, top_logprobs=tops)
    content = reply.choices[0].logprobs.content
    assert len(content) == reply.usage.completion_tokens == 12
    check_logprobs(content, tops, said(reply))


def test_logprobs_streamed_are_the_same(client):
    whole = chat(client, temperature=0, logprobs=True, top_logprobs=2)
    content = []
    for chunk in chat(client, temperature=0, logprobs=True, top_logprobs=2, stream=True):
        if chunk.choices and chunk.choices[0].logprobs:
            content += chunk.choices[0].logprobs.content
    assert [(t.token, t.bytes) for t in content] == \
        [(t.token, t.bytes) for t in whole.choices[0].logprobs.content]
    check_logprobs(content, 2, said(whole))


def test_without_logprobs_there_are_none(client):
    assert chat(client).choices[0].logprobs is None


def test_logit_bias_bans_and_forces(client, service):
    first = chat(client, temperature=0, max_tokens=1, logprobs=True, top_logprobs=2)
    token = first.choices[0].logprobs.content[0].token
    ids = tokenize(service, said(first))
    assert len(ids) == 1
    banned = chat(client, temperature=0, max_tokens=8, logit_bias={str(ids[0]): -100})
    assert token not in said(banned)
    forced = tokenize(service, " dragon")
    assert len(forced) == 1
    assert said(chat(client, temperature=0, max_tokens=4,
                     logit_bias={str(forced[0]): 100})) == " dragon" * 4


def test_penalties_keep_from_repeating(client):
    def repeats(**fields):
        reply = client.completions.create(model="default", prompt="1 1 1 1 1 1 1 1",
                                          max_tokens=30, temperature=0, **fields)
        words = reply.choices[0].text.split()
        return len(words) - len(set(words))

    bare = repeats()
    assert bare > 10
    for fields in ({"frequency_penalty": 2}, {"presence_penalty": 2},
                   {"extra_body": {"repeat_penalty": 2.0}}):
        assert repeats(**fields) < bare / 2, fields


# ---- chat: JSON ----

PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age", "tags"],
          "properties": {"name": {"type": "string", "maxLength": 12},
                         "age": {"type": "integer", "minimum": 0, "maximum": 150},
                         "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}}}


def check_person(text):
    person = json.loads(text)
    assert list(person) == ["name", "age", "tags"]
    assert isinstance(person["name"], str) and len(person["name"]) <= 12
    assert isinstance(person["age"], int) and 0 <= person["age"] <= 150
    assert len(person["tags"]) <= 3 and set(person["tags"]) <= {"a", "b"}


def person_format(**more):
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, **more}}


@pytest.mark.parametrize("seed", range(4))
def test_json_schema(client, seed):
    reply = chat(client, "Describe Ann.", max_tokens=150, seed=seed, temperature=1.5,
                 response_format=person_format(strict=True))
    assert reply.choices[0].finish_reason == "stop"
    check_person(said(reply))


def test_json_schema_streamed(client):
    chunks = list(chat(client, "Describe Ann.", max_tokens=150, seed=3, temperature=1, n=2,
                       stream=True, response_format=person_format()))
    for index in range(2):
        check_person("".join(c.delta.content or "" for chunk in chunks for c in chunk.choices
                             if c.index == index))


def test_json_schema_of_a_class(client):
    """The client's own way: a pydantic class, and an object of it back."""
    class Beast(pydantic.BaseModel):
        legs: int
        wings: bool

    reply = client.chat.completions.parse(
        model="default", messages=[{"role": "user", "content": "Describe a wyvern."}],
        max_tokens=100, temperature=0, response_format=Beast)
    assert isinstance(reply.choices[0].message.parsed, Beast)


def test_json_schema_with_a_response(client):
    reply = client.responses.create(
        model="default", input="Describe Ann.", max_output_tokens=150, temperature=1,
        text={"format": {"type": "json_schema", "name": "person", "schema": PERSON}})
    assert reply.status == "completed"
    check_person(reply.output_text)
    assert reply.text.format.type == "json_schema"


@pytest.mark.parametrize("seed", range(3))
def test_json_object(client, seed):
    reply = chat(client, "Give me a small JSON object with a name.", max_tokens=100, seed=seed,
                 temperature=0.7, response_format={"type": "json_object"})
    assert said(reply).lstrip().startswith("{")
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(said(reply)), dict)


def test_json_object_is_whole(client):
    reply = chat(client, "Say {}", max_tokens=400, temperature=0,
                 response_format={"type": "json_object"}, stop=None)
    assert reply.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(said(reply)), dict)


def test_a_grammar(client):
    reply = chat(client, "Yes or no?", temperature=1.5,
                 extra_body={"grammar": 'root ::= ("yes" | "no") "!"'})
    assert said(reply) in ("yes!", "no!")
    assert reply.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("grammar", [
    'x ::= "a"', 'root ::= "a', "root ::= nope", 'root ::= root "a" | "a"',
    'root ::= b\nb ::= root "x" | "y"', 'root ::= ("a"{0,1000}){0,1000}',
    "root ::= " + "(" * 5000 + '"a"' + ")" * 5000, 'root ::= "' + "a" * 70000 + '"'],
    ids=["no root", "unended", "undefined", "recursive", "recursive by another", "too often",
         "too deep", "too long"])
def test_a_bad_grammar(client, grammar):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as raised:
            chat(client, stream=stream, extra_body={"grammar": grammar})
        assert raised.value.param == "grammar"


def test_an_ambiguous_grammar_costs_others_nothing(client):
    """Exponentially many ways to read the same text: bounded, and whole."""
    grammar = "root ::= a a a a a a a a\n" 'a ::= ("a" | "a" | "aa")*'
    assert set(said(chat(client, max_tokens=20, extra_body={"grammar": grammar}))) <= {"a"}
    assert said(chat(client, max_tokens=3))


# ---- chat: who asks, and what is kept ----

def test_user_is_the_prompter(client):
    assert chat(client, user="ann").wyvern["prompter"] == "ann"


def test_stored_chat(client, other):
    reply = chat(client, store=True, metadata={"page": "7"}, seed=4)
    got = other.chat.completions.retrieve(reply.id)
    assert (got.id, said(got), got.created) == (reply.id, said(reply), reply.created)
    assert got.metadata == {"page": "7"}
    assert got.usage == reply.usage
    gone = other.chat.completions.delete(reply.id)
    assert (gone.id, gone.object, gone.deleted) == (reply.id, "chat.completion.deleted", True)
    for verb in (client.chat.completions.retrieve, client.chat.completions.delete):
        with pytest.raises(openai.NotFoundError):
            verb(reply.id)


def test_a_stored_chat_that_was_streamed(client, other):
    chunks = list(chat(client, store=True, stream=True, temperature=0))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said(other.chat.completions.retrieve(chunks[0].id)) == text


def test_what_was_not_stored_is_not_there(client):
    for fields in ({}, {"store": False}, {"metadata": {"a": "b"}}):
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.retrieve(chat(client, max_tokens=2, **fields).id)


def test_parts_and_roles(client):
    reply = client.chat.completions.create(model="default", max_tokens=3, messages=[
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"},
                                     {"type": "text", "text": "there"}]},
        {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "And?"}])
    assert reply.choices[0].message.role == "assistant"
    assert reply.usage.prompt_tokens > 20


def test_unknown_fields_are_ignored(client):
    reply = chat(client, extra_body={"no_such_field": {"a": [1]}, "verbosity": "low"},
                 service_tier="auto", parallel_tool_calls=False, tools=[], tool_choice="none")
    assert said(reply)


def test_timings(client):
    """As llama-server has them."""
    reply = chat(client, max_tokens=8, temperature=0)
    chunks = list(chat(client, max_tokens=8, temperature=0, stream=True))
    for timings in (reply.timings, chunks[-1].timings):
        assert timings["predicted_n"] == 8
        assert timings["prompt_n"] + timings["cache_n"] == reply.usage.prompt_tokens
        for kind in ("prompt", "predicted"):
            assert timings[f"{kind}_ms"] > 0
            assert math.isclose(timings[f"{kind}_per_token_ms"],
                                timings[f"{kind}_ms"] / timings[f"{kind}_n"], rel_tol=0.01)
            assert math.isclose(timings[f"{kind}_per_second"],
                                1000 / timings[f"{kind}_per_token_ms"], rel_tol=0.01)
    assert reply.usage.prompt_tokens_details.cached_tokens == reply.timings["cache_n"]


def test_a_prefix_is_read_once(client):
    text = "Once upon a time there was a small dragon. " * 12
    chat(client, text + "Go on.", max_tokens=2)
    again = chat(client, text + "Stop.", max_tokens=2)
    assert again.usage.prompt_tokens_details.cached_tokens > 60


@pytest.mark.parametrize("call,param", [
    (lambda c, t: chat(c, t), "messages"),
    (lambda c, t: c.completions.create(model="default", prompt=t), "prompt"),
    (lambda c, t: c.responses.create(model="default", input=t), "input"),
    (lambda c, t: c.embeddings.create(model="default", input=t), "input")])
def test_what_is_too_long_is_refused(client, call, param):
    with pytest.raises(openai.BadRequestError) as raised:
        call(client, "word " * 20000)
    assert (raised.value.code, raised.value.param) == ("context_length_exceeded", param)


# ---- completions ----

def complete(client, prompt="One, two, three,", **fields):
    return client.completions.create(model="default", prompt=prompt,
                                     **{"max_tokens": 8, "temperature": 0, **fields})


def test_completion(client):
    reply = complete(client)
    assert reply.object == "text_completion" and reply.id.startswith("cmpl-")
    assert "four" in reply.choices[0].text
    assert (reply.usage.completion_tokens, reply.choices[0].finish_reason) == (8, "length")
    assert complete(client, max_tokens=None).usage.completion_tokens == 16


def test_completion_echo(client):
    bare, echo = complete(client), complete(client, echo=True)
    assert echo.choices[0].text == "One, two, three," + bare.choices[0].text
    assert echo.usage.completion_tokens == 8
    streamed = list(complete(client, echo=True, stream=True))
    assert "".join(c.choices[0].text for c in streamed) == echo.choices[0].text


def test_completion_of_several_prompts(client):
    alone = [complete(client, p).choices[0].text for p in ("One, two,", "Red, green,")]
    reply = complete(client, ["One, two,", "Red, green,"])
    assert [(c.index, c.text) for c in reply.choices] == list(enumerate(alone))
    several = complete(client, ["One, two,", "Red, green,"], n=2, temperature=1, seed=1, echo=True)
    assert [c.index for c in several.choices] == [0, 1, 2, 3]
    assert [c.text.split(",")[0] for c in several.choices] == ["One", "One", "Red", "Red"]
    assert several.usage.completion_tokens == 32
    assert several.usage.prompt_tokens == reply.usage.prompt_tokens


def test_completion_streamed_several(client):
    whole = complete(client, ["One, two,", "Red, green,"], n=2, temperature=1, seed=1)
    texts = {}
    for chunk in complete(client, ["One, two,", "Red, green,"], n=2, temperature=1, seed=1,
                          stream=True):
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    assert texts == {c.index: c.text for c in whole.choices}


def test_completion_logprobs(client):
    reply = complete(client, logprobs=2)
    logprobs = reply.choices[0].logprobs
    assert "".join(logprobs.tokens) == reply.choices[0].text
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 8
    assert all(p <= 0 for p in logprobs.token_logprobs)
    offset = 0
    for token, at in zip(logprobs.tokens, logprobs.text_offset):
        assert at == offset
        offset += len(token)


def test_completion_logprobs_of_parts_of_characters(client):
    """Offsets count characters of the text, however many tokens make one."""
    text = "é🐉日x"
    for stream in (False, True):
        made = complete(client, logprobs=1, max_tokens=30, stream=stream,
                        extra_body={"grammar": f'root ::= "{text}"'})
        chunks = [chunk.choices[0] for chunk in (made if stream else [made]) if chunk.choices]
        assert "".join(chunk.text for chunk in chunks) == text
        offsets = [at for chunk in chunks if chunk.logprobs for at in chunk.logprobs.text_offset]
        assert len(offsets) > len(text), "some take several tokens"
        assert offsets == sorted(offsets) and set(offsets) == set(range(len(text)))


def test_completion_suffix_is_refused(client):
    with pytest.raises(openai.BadRequestError) as raised:
        complete(client, suffix="end")
    assert (raised.value.param, raised.value.code) == ("suffix", "unsupported_parameter")


# ---- responses with the real model ----

def test_response_chain_remembers(client, other):
    first = client.responses.create(model="default", input="My name is Ann.", temperature=0,
                                    max_output_tokens=10)
    second = other.responses.create(model="default", input="And yours?", temperature=0,
                                    previous_response_id=first.id, max_output_tokens=10)
    by_hand = client.chat.completions.create(
        model="default", max_tokens=10, temperature=0,
        messages=[{"role": "user", "content": "My name is Ann."},
                  {"role": "assistant", "content": first.output_text},
                  {"role": "user", "content": "And yours?"}])
    assert second.usage.input_tokens == by_hand.usage.prompt_tokens
    assert second.output_text == said(by_hand)


def test_response_stream_is_resumed_to_the_byte(client, other):
    stream = client.responses.create(model="default", input="Tell me a story.", background=True,
                                     stream=True, max_output_tokens=40, temperature=1)
    seen = []
    for event in stream:
        seen.append(event)
        if len(seen) == 15:
            break
    stream.close()
    seen += other.responses.retrieve(seen[0].response.id, stream=True,
                                     starting_after=seen[-1].sequence_number)
    assert [e.sequence_number for e in seen] == list(range(len(seen)))
    text = "".join(e.delta for e in seen if e.type == "response.output_text.delta")
    assert text == seen[-1].response.output_text
    assert text == client.responses.retrieve(seen[0].response.id).output_text


ODD = [('root ::= "🐉漢字🦄🐲 ünï 🐉🐉 done"', []),  # characters of several tokens
       ('root ::= "abc ab abd abcdef abx end"', ["abcdefg", "ab ab x", "end!"]),  # held back
       ('root ::= "one two three four five six"', ["four five"]), ('root ::= "x"', ["x"])]


@pytest.mark.parametrize("grammar,stop", ODD)
def test_response_events_of_odd_pieces(client, other, grammar, stop):
    """No number is left out where a token brings no text, live and from the record."""
    events = list(client.responses.create(
        model="default", input="Hi", stream=True, max_output_tokens=100,
        extra_body={"grammar": grammar, "stop": stop}))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    whole = grammar.split('"')[1]
    assert text == events[-1].response.output_text == whole.partition(stop[0] if stop else "\n")[0]
    again = list(other.responses.retrieve(events[0].response.id, stream=True))
    assert [e.model_dump() for e in again] == [e.model_dump() for e in events]


# ---- embeddings ----

def floats(text):
    data = base64.b64decode(text)
    return list(struct.unpack(f"<{len(data) // 4}f", data))


def test_embeddings(client, service):
    texts = ["a dragon", "a wyvern with two legs", "ünïcödé 🐉"]
    got = client.embeddings.create(model="default", input=texts, encoding_format="float")
    assert [d.index for d in got.data] == [0, 1, 2]
    assert len({len(d.embedding) for d in got.data}) == 1
    for item in got.data:
        assert math.isclose(sum(x * x for x in item.embedding), 1, rel_tol=1e-3)
    assert got.usage.prompt_tokens == sum(len(tokenize(service, t)) for t in texts)
    assert got.usage.total_tokens == got.usage.prompt_tokens
    # the same bits in base64, which is what the client asks for by itself
    raw = service.client.post("/v1/embeddings", json={
        "model": "default", "input": texts, "encoding_format": "base64"}).json()
    for item, other in zip(got.data, raw["data"]):
        assert [struct.pack("<f", x) for x in item.embedding] == \
            [struct.pack("<f", x) for x in floats(other["embedding"])]
    by_default = client.embeddings.create(model="default", input=texts)
    for item, other in zip(got.data, by_default.data):
        assert max(abs(a - b) for a, b in zip(item.embedding, other.embedding)) < 1e-6


def test_an_embedding_does_not_depend_on_its_company(client):
    alone = client.embeddings.create(model="default", input="a dragon").data[0].embedding
    many = client.embeddings.create(model="default", input=["x", "a dragon", "y " * 50]).data
    assert max(abs(a - b) for a, b in zip(alone, many[1].embedding)) < 5e-3
    assert max(abs(a - b) for a, b in zip(alone, many[0].embedding)) > 0.01


def test_a_batch_of_embeddings(client):
    got = client.embeddings.create(model="default", input=[f"text {i}" for i in range(12)])
    assert [d.index for d in got.data] == list(range(12))
    assert len({tuple(d.embedding[:4]) for d in got.data}) == 12


# ---- models, and what llama-server's users know ----

def test_models(client, service):
    name, = [m.id for m in client.models.list()]
    assert client.models.retrieve(name).id == name
    assert client.models.retrieve("default").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such")
    assert chat(client, max_tokens=1).model == name
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="no-such", messages=[{"role": "user", "content": "x"}])
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("text", ["Hello, world!", "  blanks  ", "ünïcödé 🐉 漢字", "", "a\nb\tc",
                                  "<|im_end|>"])
def test_tokenize_and_back(service, text):
    ids = tokenize(service, text)
    assert all(isinstance(i, int) for i in ids)
    back = service.client.post("/detokenize", json={"tokens": ids})
    assert back.status_code == 200, back.text
    assert back.json()["content"] == text
    pieces = service.client.post("/tokenize", json={"content": text, "with_pieces": True}).json()
    assert [p["id"] for p in pieces["tokens"]] == ids
    assert b"".join(p["piece"].encode() if isinstance(p["piece"], str) else bytes(p["piece"])
                    for p in pieces["tokens"]) == text.encode()


def test_text_of_a_special_token_is_text(service):
    assert len(tokenize(service, "<|im_end|>")) > 1


def test_detokenize_what_is_none(service):
    got = service.client.post("/detokenize", json={"tokens": [1, 99999999]})
    assert got.status_code == 400, got.text
    assert got.json()["error"]["param"].startswith("tokens")


def test_apply_template(service, client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    got = service.client.post("/apply-template", json={"messages": messages}).json()
    assert got["prompt"] == ("<|im_start|>system\nBe brief.<|im_end|>\n"
                             "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_props_and_slots(service):
    props = service.client.get("/props").json()
    assert props["total_slots"] == 4
    assert props["default_generation_settings"]["n_ctx"] > 0
    assert "/" not in props["model_path"], "a path of this machine"
    slots = service.client.get("/slots").json()
    assert [s["id"] for s in slots] == [0, 1, 2, 3]


def test_the_list_at_the_root(service):
    """Each line of it is answered, with that method; what llama-server's clients use is there, too.
    (That docs/API.md has the same is tests/lint/docs.py's.)"""
    got = service.client.get("/", headers={"accept": "*/*"})
    head, _, rest = got.text.partition("\n\n")
    assert service.status()["model"] in head and got.headers["content-type"].startswith("text/plain")
    listed = [line.split(None, 2) for line in rest.splitlines()]
    assert all(len(line) == 3 for line in listed)
    paths = {(method, path) for method, path, _ in listed}
    assert len(paths) == len(listed) > 30
    assert {("POST", "/tokenize"), ("POST", "/detokenize"), ("POST", "/apply-template"),
            ("GET", "/props"), ("GET", "/slots"), ("GET", "/console/"),
            ("DELETE", "/v1/responses/{id}")} <= paths
    for method, path in paths:
        answer = service.client.request(method, re.sub(r"{\w+}", "x", path))
        assert answer.status_code != 405, (method, path)
        assert "nothing at this path" not in answer.text, (method, path)


@pytest.mark.parametrize("name, value, mend", [
    ("repetition_penalty", 1.2, "say repeat_penalty"), ("length_penalty", 1, "leave it out"),
    ("num_beams", 2, "leave it out"), ("do_sample", True, "leave it out")])
def test_what_only_blenderbot_takes_is_refused_by_its_name(service, name, value, mend):
    refused = service.post("x", **{name: value})
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["param"] == name
    assert error["message"].startswith(name + " is not for") and mend in error["message"]


def test_health(service):
    assert service.client.get("/health").json() == {"status": "ok"}
    assert service.client.get("/ready").status_code == 200


# ---- asynchronous ----

def test_all_at_once(service):
    """All kinds of requests, at both gateways, by the asynchronous client."""
    async def one(client, i):
        kind = i % 6
        messages = [{"role": "user", "content": f"Say {i}."}]
        if kind == 0:
            return (await client.chat.completions.create(
                model="default", max_tokens=5, messages=messages)).usage.completion_tokens
        if kind == 1:
            stream = await client.chat.completions.create(
                model="default", max_tokens=5, messages=messages, stream=True,
                stream_options={"include_usage": True})
            return [c async for c in stream][-1].usage.completion_tokens
        if kind == 2:
            return (await client.completions.create(
                model="default", max_tokens=5, prompt="Once")).usage.completion_tokens
        if kind == 3:
            stream = await client.responses.create(model="default", max_output_tokens=5,
                                                   input="Once", stream=True)
            return [e async for e in stream][-1].response.usage.output_tokens
        if kind == 4:
            got = await client.responses.create(model="default", max_output_tokens=5, input="Hi",
                                                background=True)
            while got.status in ("queued", "in_progress"):
                await asyncio.sleep(0.02)
                got = await client.responses.retrieve(got.id)
            return got.usage.output_tokens
        got = await client.embeddings.create(model="default", input=f"text {i}")
        return len(got.data)

    async def all_of_them():
        clients = [openai.AsyncOpenAI(
            base_url=service.gateway_url(i) + "/v1", api_key="none", max_retries=0, timeout=60,
            http_client=httpx.AsyncClient(trust_env=False, timeout=60)) for i in range(2)]
        try:
            return await asyncio.gather(*(one(clients[i // 6 % 2], i) for i in range(24)))
        finally:
            for client in clients:
                await client.close()

    counts = asyncio.run(all_of_them())
    for i, count in enumerate(counts):
        assert 1 <= count <= (1 if i % 6 == 5 else 5), (i, count)


# ---- web pages ----

def test_a_page_of_the_named_origin_may_read(service):
    asked = {"origin": ORIGIN, "access-control-request-method": "POST",
             "access-control-request-headers": "authorization,content-type,idempotency-key"}
    before = service.client.options("/v1/responses", headers=asked)
    assert before.status_code in (200, 204)
    assert before.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in before.headers["access-control-allow-methods"]
    for name in ("authorization", "content-type", "idempotency-key"):
        assert name in before.headers["access-control-allow-headers"].lower()
    for got in (service.client.get("/v1/models", headers={"origin": ORIGIN}),
                service.client.get("/v1/none", headers={"origin": ORIGIN}),
                service.client.post("/v1/responses", content=b"{", headers={"origin": ORIGIN})):
        assert got.headers["access-control-allow-origin"] == ORIGIN
        assert "access-control-allow-credentials" not in got.headers
        assert "origin" in got.headers["vary"].lower()


def test_a_streamed_reply_says_so_too(service):
    with service.client.stream("POST", "/v1/chat/completions", headers={"origin": ORIGIN}, json={
            "model": "default", "stream": True, "max_tokens": 2,
            "messages": [{"role": "user", "content": "Hi"}]}) as got:
        assert got.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil",
                                    "http://app.example", "https://app.example:444"])
def test_a_page_of_another_may_not(service, origin):
    for got in (service.client.get("/v1/models", headers={"origin": origin}),
                service.client.options("/v1/responses", headers={
                    "origin": origin, "access-control-request-method": "POST"})):
        assert "access-control-allow-origin" not in got.headers
