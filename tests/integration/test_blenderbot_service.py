"""Blenderbot through the whole service: its parameters by request and by flag, positions, several
turns, streams, and what it says to a request that makes no sense."""

import json
import pathlib
import threading

import httpx
import pytest

from harness import Service, Stream, run, run_json, wait_for

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "blenderbot" / "tiny"
LINES = [json.loads(line) for line in (DATA / "expected.jsonl").open(encoding="utf-8")]
MODES = json.loads((DATA / "modes.json").read_text())["modes"]
HELLO = LINES[0]["prompt"]
ODD = "qqq zzz the river of seven music dogs"  # nothing it was trained on: it is unsure
LONG = "do you like music? " * 100
POSITIONS = 128


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    run("convert", DATA, path, "--type", "f32", check=0)
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, gguf):
    """One service with the checkpoint's defaults, for the tests that leave it as it was."""
    with Service(tmp_path_factory.mktemp("tiny"), model=gguf, workers=1, slots=4) as service:
        yield service


def generated(gguf, params, prompt=HELLO):
    return run_json("generate", "--model", gguf, "--threads", 1, "--json", "--params",
                    json.dumps(params), "--", prompt)


def answer(service, prompt=HELLO, **fields):
    body = service.ask(prompt, **fields)
    return body["choices"][0]["message"]["content"], body


def test_every_parameter_arrives(tiny, gguf):
    """What the service says with it is what generate says, and not what it says without."""
    plain, unchanged = generated(gguf, {}, ODD)["text"], []
    for params in ({"num_beams": 1}, {"num_beams": 2, "length_penalty": -2.0},
                   {"early_stopping": True, "num_beams": 3, "min_length": 0},
                   {"early_stopping": "never", "length_penalty": 3.0},
                   {"no_repeat_ngram_size": 1}, {"encoder_no_repeat_ngram_size": 1},
                   {"repetition_penalty": 5.0}, {"min_length": 50}, {"min_new_tokens": 45},
                   {"max_length": 9}, {"max_new_tokens": 5}, {"forced_bos_token_id": 300},
                   {"max_new_tokens": 5, "forced_eos_token_id": None},
                   {"max_new_tokens": 5, "forced_eos_token_id": 300},
                   {"do_sample": True, "temperature": 2.0, "top_k": 3, "top_p": 0.9, "seed": 5},
                   {"do_sample": True, "num_beams": 1, "temperature": 2.0, "seed": 6}):
        text, body = answer(tiny, ODD, **params)
        ours = generated(gguf, params, ODD)
        assert text == ours["text"], params
        assert body["choices"][0]["finish_reason"] == ours["finish_reason"], params
        if text == plain:
            unchanged.append(params)
    assert not unchanged


@pytest.mark.parametrize("name", ["n", "num_return_sequences"])
def test_several_texts(tiny, gguf, name):
    params = {"num_beams": 4, "max_new_tokens": 20}
    wanted = generated(gguf, {**params, "num_return_sequences": 3}, ODD)
    body = tiny.ask(ODD, **params, **{name: 3})
    texts = [c["message"]["content"] for c in body["choices"]]
    assert texts == wanted["texts"] and len(set(texts)) == 3
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]
    assert {c["finish_reason"] for c in body["choices"]} <= {"stop", "length"}
    assert body["usage"]["completion_tokens"] > 2 * len(wanted["sequences"][0][1:-1])
    # a stop string cuts each of them
    word = texts[1].split()[3]
    cut = tiny.ask(ODD, stop=word, **params, **{name: 3})
    assert [c["message"]["content"] for c in cut["choices"]] == \
        [text.partition(word)[0] for text in texts]
    refused = tiny.post(ODD, stream=True, **params, **{name: 3})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == name
    with tiny.broker() as watcher:  # nothing of it is kept once it is delivered
        watcher.subscribe("live.>")
        watcher.flush()
        prompt_id = tiny.ask(ODD, **params, **{name: 3})["wyvern"]["prompt_id"]
        records = records_of(watcher.messages(
            lambda got: len(records_of(got, prompt_id)) == 2, 30), prompt_id)
    assert len(records[0]["choices"]) == 3
    assert records[1]["text"] is None and "choices" not in records[1]


def test_several_drawn_texts_need_beams(tiny):
    """A temperature draws from one sequence: there is one text of it, and never fewer than asked for."""
    refused = tiny.post(ODD, n=3, temperature=0.7)
    assert refused.status_code == 400, refused.text
    assert "num_return_sequences (3)" in refused.json()["error"]["message"]
    body = tiny.ask(ODD, n=3, temperature=0.7, num_beams=3, seed=1, max_new_tokens=10)
    assert len(body["choices"]) == 3


def records_of(messages, prompt_id):
    """Others' may be among them: what is told of a reply after it was delivered comes late."""
    found = [m.json() for m in messages if m.stored_subject.startswith("reply.")]
    return [record for record in found if record["id"] == prompt_id]


def test_a_forced_end_can_be_switched_off(tiny, gguf):
    forced = generated(gguf, {"max_new_tokens": 5})["output_ids"]
    free = generated(gguf, {"max_new_tokens": 5, "forced_eos_token_id": None})["output_ids"]
    assert forced[-1] == 2 and free[-1] != 2 and len(free) == 6
    _, body = answer(tiny, max_new_tokens=5, forced_eos_token_id=None)
    assert body["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("field, value", [
    ("num_beams", 0), ("num_beams", 65), ("num_beams", "4"), ("num_return_sequences", 11),
    ("n", 65), ("n", 0), ("length_penalty", "long"), ("early_stopping", "later"),
    ("no_repeat_ngram_size", -1), ("encoder_no_repeat_ngram_size", 1.5),
    ("repetition_penalty", 0), ("min_length", -1), ("max_length", 1), ("max_new_tokens", 0),
    ("forced_bos_token_id", 881), ("forced_eos_token_id", 10**8), ("do_sample", "yes"),
    ("truncate", "right"), ("truncate", True)])
def test_errors_name_the_parameter(tiny, field, value):
    for stream in (False, True):
        refused = tiny.post(HELLO, stream=stream, **{field: value})
        assert refused.status_code == 400, refused.text
        error = refused.json()["error"]
        assert error["param"] == field and error["type"] == "invalid_request_error", error
        assert field in error["message"]


def test_limits_beyond_the_positions_are_cut(tiny):
    for fields in ({"min_new_tokens": 100, "max_new_tokens": 300}, {"min_tokens": 300, "max_tokens": 300},
                   {"min_length": 200, "max_length": 400}):
        _, body = answer(tiny, **fields)
        count = body["usage"]["completion_tokens"]
        assert 100 <= count < POSITIONS
        full = count == POSITIONS - 2  # without start and forced end
        assert body["choices"][0]["finish_reason"] == ("length" if full else "stop"), fields
        assert full or fields.get("min_new_tokens") == 100
    stream = Stream(tiny, HELLO, min_new_tokens=300, max_new_tokens=300).join()
    assert stream.error is None and stream.done
    assert stream.chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_a_prompt_beyond_the_positions_is_refused_or_cut(tiny, gguf):
    for stream in (False, True):
        refused = tiny.post(LONG, stream=stream)
        assert refused.status_code == 400, refused.text
        error = refused.json()["error"]
        assert error["code"] == "context_length_exceeded" and error["param"] == "messages"
        assert error["type"] == "invalid_request_error" and "128" in error["message"]
    wanted = run_json("generate", "--model", gguf, "--json", "--truncate", "left", "--", LONG)
    text, body = answer(tiny, LONG, truncate="left")
    assert text == wanted["text"]
    assert body["wyvern"]["truncated_tokens"] == wanted["truncated_tokens"] > 300
    assert body["usage"]["prompt_tokens"] == POSITIONS
    stream = Stream(tiny, LONG, truncate="left").join()
    assert stream.details["truncated_tokens"] == wanted["truncated_tokens"]
    assert stream.text == text
    assert answer(tiny)[1]["wyvern"]["truncated_tokens"] == 0


def test_the_record_says_what_was_left_out(tiny):
    with tiny.broker() as watcher:
        watcher.subscribe("live.>")
        watcher.flush()
        _, body = answer(tiny, LONG, truncate="left")
        prompt_id = body["wyvern"]["prompt_id"]
        record = records_of(watcher.messages(lambda got: records_of(got, prompt_id), 30),
                            prompt_id)[0]
    assert record["truncated_tokens"] == body["wyvern"]["truncated_tokens"] > 0


def test_ask_and_chat_say_what_was_left_out(tiny):
    asked = run("ask", "--url", tiny.url, "--truncate", "left", "--", LONG, check=0)
    assert "left out" in asked.stderr and "left out" not in asked.stdout
    assert run("ask", "--url", tiny.url, "--", HELLO, check=0).stderr == ""
    refused = run("ask", "--url", tiny.url, "--", LONG)
    assert refused.returncode == 65 and "at most 128" in refused.stderr
    talk = run("chat", "--url", tiny.url, "--params", '{"num_beams": 1}',
               stdin="I like long walks by the river.\n" * 12, check=0)
    assert "left out" in talk.stderr


def test_ask_takes_parameters(tiny, gguf):
    params = {"num_beams": 1, "max_new_tokens": 7}
    asked = run_json("ask", "--url", tiny.url, "--json", "--max-tokens", 3, "--params",
                     json.dumps(params), "--", HELLO)
    assert asked["response"] == generated(gguf, params)["text"]
    wrong = run("ask", "--url", tiny.url, "--params", '{"beams": 1}', "--", HELLO)
    assert wrong.returncode == 64 and '"beams"' in wrong.stderr


def test_the_services_defaults_stand_under_each_request(start, gguf):
    defaults = {"num_beams": 4, "max_new_tokens": 40, "min_new_tokens": 10, "length_penalty": 1.0}
    service = start(model=gguf, workers=1, params=json.dumps(defaults), truncate="left")
    line = LINES[0]
    assert MODES["beam4"] == defaults
    assert service.text(line["prompt"]) == line["generate"]["beam4"]["text"]
    # who asks for a temperature draws from one sequence; who says do_sample, from the beams
    drawn = {"temperature": 1.5, "seed": 4}
    assert service.text(ODD, **drawn) == generated(
        gguf, {"max_new_tokens": 40, "min_new_tokens": 10, "num_beams": 1, **drawn}, ODD)["text"]
    assert service.text(ODD, do_sample=True, **drawn) == generated(
        gguf, {**defaults, "do_sample": True, **drawn}, ODD)["text"]
    # a field of a request goes before them; a length of the other kind replaces theirs
    assert service.text(HELLO, num_beams=1) == \
        generated(gguf, {**defaults, "num_beams": 1})["text"]
    assert service.text(HELLO, max_length=6) == generated(
        gguf, {"num_beams": 4, "length_penalty": 1.0, "min_new_tokens": 10, "max_length": 6})["text"]
    _, body = answer(service, max_tokens=4)
    assert body["usage"]["completion_tokens"] <= 4
    assert answer(service, LONG)[1]["wyvern"]["truncated_tokens"] > 0
    assert service.post(LONG, truncate="none").status_code == 400


def test_defaults_that_make_no_sense_end_up_at_once(gguf, model, tmp_path):
    for file, params, word in ((gguf, '{"num_beams": 0}', "num_beams"), (gguf, "[]", "--params"),
                               (gguf, '{"beams": 2}', "beams"),
                               (model, '{"num_beams": 2}', "this kind")):
        done = run("up", "--model", file, "--state-dir", tmp_path, "--params", params)
        assert done.returncode == 64 and word in done.stderr, (params, done.stderr)


def test_several_turns(tiny, gguf):
    def post(messages, **fields):
        reply = httpx.post(tiny.url + "/v1/chat/completions", trust_env=False, timeout=60,
                           json={"model": "default", "messages": messages, **fields})
        assert reply.status_code == 200, reply.text
        return reply.json()

    def whole(body):
        return body["usage"]["prompt_tokens"] + body["wyvern"]["truncated_tokens"]

    turns = [{"role": "user", "content": "Hello!"},
             {"role": "assistant", "content": "Hi, how are you?"},
             {"role": "user", "content": "I am fine."}]
    body = post(turns, num_beams=1)
    joined = " Hello!  Hi, how are you?   I am fine."
    # generate's one prompt gets its space from the tokenizer
    assert body["choices"][0]["message"]["content"] == \
        generated(gguf, {"num_beams": 1}, joined.removeprefix(" "))["text"]
    assert body["wyvern"]["truncated_tokens"] == 0
    # the oldest leave, without being asked to, and the reply says how much
    long_talk = turns[:2] * 20 + turns[2:]
    cut = post(long_talk, num_beams=1)
    assert cut["usage"]["prompt_tokens"] <= POSITIONS
    assert cut["wyvern"]["truncated_tokens"] > 0
    # a persona stays in front
    persona = [{"role": "system", "content": "your persona: I like cats."}]
    kept = post(persona + long_talk, num_beams=1)
    assert kept["usage"]["prompt_tokens"] <= POSITIONS
    assert whole(kept) > whole(cut)


@pytest.mark.parametrize("params", [
    {"num_beams": 1, "min_new_tokens": 127}, {"temperature": 1.0, "seed": 3, "min_tokens": 127},
    {"num_beams": 4, "min_new_tokens": 127}])
def test_streams_come_in_pieces_and_are_the_whole_reply(tiny, params):
    text, body = answer(tiny, **params)

    def in_pieces():
        # alone it would be over before the first piece's way to us: beside many beams a step takes
        # long (unless we stand still until the mates are over)
        mates = [Stream(tiny, f"mate {i}", num_beams=32, min_new_tokens=127) for i in range(3)]
        mates[0].wait_text()
        stream = Stream(tiny, HELLO, stream_options={"include_usage": True}, **params).join()
        for mate in mates:
            mate.join()
        assert stream.error is None and stream.done
        assert stream.text == text
        assert stream.chunks[-1]["usage"] == body["usage"]
        return sum(bool(c["choices"] and c["choices"][0]["delta"].get("content"))
                   for c in stream.chunks) >= 2

    wait_for(in_pieces, "a stream in pieces")


def test_a_reader_who_leaves_frees_the_slot(start, gguf):
    service = start(model=gguf, workers=1, slots=1)
    body = {"model": "default", "stream": True, "num_beams": 32, "min_new_tokens": 127,
            "messages": [{"role": "user", "content": HELLO}]}
    seen = threading.Event()

    def leave():
        with httpx.stream("POST", service.url + "/v1/chat/completions", json=body, timeout=60,
                          trust_env=False) as reply:
            for _ in reply.iter_lines():
                seen.set()
                return

    def cancelled():  # not, if it was over before the gateway heard that we left
        leave()
        assert seen.is_set()
        service.ask(HELLO, num_beams=1, max_new_tokens=3)
        return "status=cancelled" in service.logs() or "job.cancelled" in service.logs()

    wait_for(cancelled, "its being cancelled")
    wait_for(lambda: not any(w["active"] for w in service.workers()), "a free slot")


def test_a_service_that_is_asked_to_leave_finishes_its_replies(start, gguf):
    service = start(model=gguf, workers=1, slots=4)
    streams = [Stream(service, line["prompt"], **MODES["full"]) for line in LINES[:4]]
    wait_for(lambda: "wyvern_prompts_accepted_total 4\n" in service.client.get("/metrics").text,
             "all of them")
    assert service.stop() == 0
    for stream, line in zip(streams, LINES):
        stream.join()
        assert stream.error is None and stream.text == line["generate"]["full"]["text"]
