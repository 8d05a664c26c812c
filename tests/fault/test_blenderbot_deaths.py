"""Blenderbot's worker is killed in mid-reply; the reply ends as if nothing had been.

The small checkpoint is fast, so the moment is made: beside replies of many beams each step takes
long, and the workers go by moments until one has said something; it is killed as it stands still."""

import json
import os
import pathlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from harness import Stream, kill, run, run_json, wait_for
from test_deaths import piece_texts, reply_records

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "blenderbot" / "tiny-bin"
PROMPTS = ("qqq zzz the river of seven music dogs", "Tell me about the sea.", "Do you like music?",
           "Blue? 12 apples, why not!")
SLOW = {"min_new_tokens": 127, "max_new_tokens": 127}
KINDS = {
    "greedy": {"num_beams": 1, **SLOW},
    "sampling": {"num_beams": 1, "do_sample": True, "temperature": 1.5, "seed": 11, **SLOW},
    "beams": {"num_beams": 10, **SLOW},
    "drawn beams": {"num_beams": 4, "do_sample": True, "temperature": 1.5, "seed": 12, **SLOW},
}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny-bin.gguf"
    run("convert", DATA, path, "--type", "f32", check=0)
    return path


def stored_ids(messages, prompt_id):
    """The ids of all stored pieces of a prompt."""
    ids = []
    for message in messages:
        parts = message.stored_subject.split(".")
        if parts[0] == "tok" and parts[-1] == "p" and parts[2] == prompt_id:
            for _, tokens in message.json()["pieces"]:
                ids += tokens
    return ids


def both_workers(service):
    """{id: pid}, once both can take prompts."""
    return wait_for(lambda: len(found := {w["id"]: w["pid"] for w in service.workers()
                                          if w["state"] == "ready"}) == 2 and found,
                    "both workers", 60)


def slow_mates(service, broker):
    """Replies of many beams, at both workers: each step takes long beside them."""
    both_workers(service)
    mates = [Stream(service, f"mate {i}", num_beams=32, **SLOW) for i in range(6)]
    wait_for(lambda: len({broker.last("TOKENS", subject).json()["worker"]
                          for subject in broker.subjects("TOKENS", "tok.*.*.c")}) == 2,
             "work for both workers")
    return mates


def queued(broker):
    return {subject.rpartition(".")[2] for subject in broker.subjects("PROMPTS", "prompt.>")}


def half_said(broker, prompts):
    """One of these prompts whose worker has said some of it, and not all."""
    for prompt in prompts:
        pieces = broker.stored("TOKENS", f"tok.*.{prompt}.p")
        if pieces and not pieces[-1].json()["done"] and \
                broker.last("REPLIES", f"reply.*.{prompt}") is None:
            return prompt
    return None


def signal_all(pids, signum):
    for pid in pids:
        os.kill(pid, signum)


def kill_in_mid_reply(service, broker, ask):
    """What ask() starts, in a list; of one a worker that was killed had said a part.  The workers
    stand still but for moments, so that no load of this machine lets a reply slip by; should one
    of the moments be long enough for all of them, it is asked again."""
    workers = both_workers(service)
    signal_all(workers.values(), signal.SIGSTOP)
    prompt = None
    while prompt is None:
        known = queued(broker)
        replies = ask()
        wait_for(lambda before=known, all_of=replies: len(queued(broker) - before) >= len(all_of),
                 "the prompts")
        prompts = queued(broker) - known
        while prompt is None and prompts & queued(broker):
            signal_all(workers.values(), signal.SIGCONT)
            time.sleep(0.02)
            signal_all(workers.values(), signal.SIGSTOP)
            time.sleep(0.03)  # what it said arrives
            prompt = half_said(broker, prompts)
    claim = broker.last("TOKENS", f"tok.*.{prompt}.c").json()
    kill(workers.pop(claim["worker"]))
    signal_all(workers.values(), signal.SIGCONT)
    return replies


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_ends_as_if_nobody_had_died(start, gguf, kind):
    service = start(model=gguf, workers=2, slots=6)
    wanted = {prompt: run_json("generate", "--model", gguf, "--threads", 1, "--json", "--params",
                               json.dumps(KINDS[kind]), "--", prompt)
              for prompt in PROMPTS}
    with service.broker() as watcher, service.broker() as broker:
        mates = slow_mates(service, broker)
        watcher.subscribe("live.>")
        watcher.flush()
        streams = kill_in_mid_reply(service, broker, lambda: [
            Stream(service, prompt, **KINDS[kind]) for prompt in PROMPTS])
        for stream in streams + mates:
            stream.join()
            assert stream.error is None and stream.done, stream.error
        assert any(s.details["attempt"] > 1 for s in streams)
        records = watcher.messages(lambda got: all(s.prompt_id in reply_records(got)
                                                   for s in streams), 30)
    for prompt, stream in zip(PROMPTS, streams):
        ids = wanted[prompt]["output_ids"][1:-1]  # without start and forced end
        assert stream.text == wanted[prompt]["text"], prompt
        assert stream.chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert stored_ids(records, stream.prompt_id) == ids
        own = [m for m in records if stream.prompt_id in m.stored_subject]
        assert piece_texts(own)[stream.prompt_id] == stream.text
        assert reply_records(records)[stream.prompt_id] == stream.text


def test_unseeded_draws_go_on_as_they_would_have(start, gguf):
    """The seed that nobody gave is the same for the successor: its id's."""
    service = start(model=gguf, workers=2, slots=6)
    with service.broker() as broker:
        mates = slow_mates(service, broker)
        streams = kill_in_mid_reply(service, broker, lambda: [
            Stream(service, prompt, temperature=1.5, min_tokens=127) for prompt in PROMPTS])
    for mate in mates:
        mate.join()
    for stream in streams:
        stream.join()
        assert stream.error is None and stream.done, stream.error
        seed = int(stream.prompt_id[:15], 16)
        again = service.text(stream.body["messages"][0]["content"], temperature=1.5,
                             min_tokens=127, seed=seed)
        assert again == stream.text


def test_several_texts_survive_a_death(start, gguf):
    """Only the first text is stored as it is made; a successor has the others as well."""
    service = start(model=gguf, workers=2, slots=2)
    params = {**KINDS["beams"], "num_return_sequences": 3}
    wanted = run_json("generate", "--model", gguf, "--threads", 1, "--json", "--params",
                      json.dumps(params), "--", PROMPTS[0])["texts"]
    with service.broker() as broker, ThreadPoolExecutor(1) as pool:
        reply, = kill_in_mid_reply(service, broker, lambda: [
            pool.submit(service.ask, PROMPTS[0], **params)])
        body = reply.result()
    assert [c["message"]["content"] for c in body["choices"]] == wanted
    assert body["usage"]["completion_tokens"] > 300
    assert body["wyvern"]["attempt"] == 2
