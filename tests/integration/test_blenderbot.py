"""Blenderbot against its reference outputs: the checkpoints of tests/data, converted here, through
`generate`, and through the service with all modes side by side."""

import concurrent.futures
import json
import os
import pathlib
import subprocess

import pytest

from harness import WYVERN, Service, run

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "blenderbot"
NAMES = "tiny", "tiny-bin"
NEAR = 1e-3


def modes(name):
    return json.loads((DATA / name / "modes.json").read_text())["modes"]


def lines(name):
    return [json.loads(line) for line in (DATA / name / "expected.jsonl").open(encoding="utf-8")]


@pytest.fixture(scope="module", params=NAMES)
def checkpoint(request, tmp_path_factory):
    """(name, GGUF)"""
    path = tmp_path_factory.mktemp("model") / f"{request.param}.gguf"
    done = run("convert", DATA / request.param, path, "--type", "f32")
    assert done.returncode == 0, done.stderr
    return request.param, path


def generate(gguf, prompt, params, *more):
    return subprocess.run([WYVERN, "generate", "--model", gguf, "--threads", "1", "--json",
                           "--params", json.dumps(params), *more, "--", prompt],
                          capture_output=True, text=True, timeout=60,
                          env=os.environ | {"NO_COLOR": "1"})


def generated(*arguments):
    done = generate(*arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def close(ours, theirs):
    return len(ours) == len(theirs) and all(abs(a - b) < NEAR for a, b in zip(ours, theirs))


def test_generate_gives_the_reference_outputs(checkpoint):
    name, gguf = checkpoint
    wanted = [(line, mode, params) for line in lines(name) for mode, params in modes(name).items()]
    assert len(wanted) >= 100

    def check(job):
        line, mode, params = job
        ours, theirs = generated(gguf, line["prompt"], params), line["generate"][mode]
        assert ours["input_ids"] == line["input_ids"]
        assert ours["output_ids"] == theirs["output_ids"], (mode, line["prompt"])
        assert ours["text"] == theirs["text"]

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(check, wanted))


def test_trace_is_near_the_reference(checkpoint):
    name, gguf = checkpoint
    for line in lines(name):
        ours = generated(gguf, line["prompt"], {"max_new_tokens": 1}, "--trace")
        assert abs(ours["encoder_mean"] - line["encoder_mean"]) < NEAR
        assert close(ours["encoder_first8"], line["encoder_first8"])
        assert [i for i, _ in ours["first_logits_top8"]] == [i for i, _ in
                                                             line["first_logits_top8"]]
        assert close([x for _, x in ours["first_logits_top8"]],
                     [x for _, x in line["first_logits_top8"]])


def test_service_gives_the_reference_outputs_side_by_side(checkpoint, tmp_path):
    name, gguf = checkpoint
    service = Service(tmp_path, model=gguf, nodes=1, workers=1, slots=8)
    try:
        service.wait_ready()
        wanted = [(line, mode, params) for line in lines(name)
                  for mode, params in modes(name).items()]

        def check(job):
            line, mode, params = job
            reply = service.post(line["prompt"], **params)
            assert reply.status_code == 200, reply.text
            choice, theirs = reply.json()["choices"][0], line["generate"][mode]
            assert choice["message"]["content"] == theirs["text"], (mode, line["prompt"])
            full = len(theirs["output_ids"]) == params.get("max_new_tokens", 59) + 1
            assert choice["finish_reason"] == ("length" if full else "stop")

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(check, wanted))
        assert service.stop() == 0, service.logs()
    finally:
        service.kill()


def test_prompt_beyond_the_positions(checkpoint):
    _, gguf = checkpoint
    text = "do you like music? " * 100
    refused = generate(gguf, text, {})
    assert refused.returncode == 65 and "at most 128" in refused.stderr
    cut = generated(gguf, text, {}, "--truncate", "left")
    assert len(cut["input_ids"]) == 128 and cut["truncated_tokens"] > 0


def test_limit_beyond_the_positions_is_cut(checkpoint):
    _, gguf = checkpoint
    reply = generated(gguf, "Hello, how are you today?",
                      {"min_new_tokens": 300, "max_new_tokens": 300})
    assert len(reply["output_ids"]) == 128 and reply["output_ids"][-1] == 2
    assert reply["finish_reason"] == "length"


def test_the_longest_length_counts_before_the_shortest(checkpoint):
    """As in the original, by either name."""
    _, gguf = checkpoint
    for shortest in ("min_new_tokens", "min_length"):
        ids = generated(gguf, "hello", {shortest: 60, "max_new_tokens": 30})["output_ids"]
        assert len(ids) == 31 and ids[-1] == 2 and 2 not in ids[:-1]


def test_parameters_that_make_no_sense_are_refused(checkpoint):
    _, gguf = checkpoint
    for params in ({"num_beams": 0}, {"num_beams": 10**6}, {"no_repeat_ngram_size": -1},
                   {"early_stopping": "later"}, {"num_beams": 2, "num_return_sequences": 3},
                   {"repetition_penalty": 0}, {"forced_eos_token_id": 10**6}, {"beams": 3}):
        done = generate(gguf, "hello", params)
        assert done.returncode in (64, 65), (params, done.stderr)
        assert next(iter(params)) in done.stderr or "num_return_sequences" in done.stderr


def test_same_seed_draws_the_same(checkpoint):
    _, gguf = checkpoint

    def draw(seed, **more):
        params = {"do_sample": True, "temperature": 3.0, "seed": seed, **more}
        return generated(gguf, "Do you like music?", params)["output_ids"]

    for more in ({"num_beams": 1}, {"num_beams": 4}):
        assert draw(7, **more) == draw(7, **more)
        assert len({tuple(draw(seed, **more)) for seed in range(4)}) > 1
