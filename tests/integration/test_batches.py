"""Batches as OpenAI's client makes them: each line once, whatever dies meanwhile."""

import asyncio
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from batches import CHAT, answers, begin, check_chats, client, end, jsonl, line
from harness import Service, fake_text, kill, run, wait_for

@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("quick"), workers=2, gateways=2,
                 model="fake:tokens=5,delay_ms=1") as service:
        yield service


def test_two_hundred_lines(quick):
    one = client(quick)
    batch = begin(one, [line(i) for i in range(200)], metadata={"who": "tests"})
    assert batch.object == "batch" and batch.status == "validating"
    assert batch.metadata == {"who": "tests"} and batch.completion_window == "24h"
    assert batch.expires_at - batch.created_at in (86399, 86400, 86401)
    assert batch.output_file_id is None and batch.request_counts.total == 0
    done = end(client(quick, gateway=1), batch)
    assert done.status == "completed", done
    assert (done.request_counts.total, done.request_counts.completed,
            done.request_counts.failed) == (200, 200, 0)
    assert done.error_file_id is None and done.errors is None
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    check_chats(answers(one, done.output_file_id), range(200))
    made = one.files.retrieve(done.output_file_id)
    assert made.purpose == "batch_output" and made.filename == f"{batch.id}_output.jsonl"
    assert made.bytes == len(one.files.content(made.id).read())


def test_every_endpoint(quick):
    one = client(quick)
    bodies = {
        "/v1/completions": {"model": "default", "prompt": "t7", "echo": True},
        "/v1/embeddings": {"model": "default", "input": ["a", "b"]},
        "/v1/responses": {"model": "default", "input": "t7"},
    }
    for url, body in bodies.items():
        done = end(one, begin(one, [line(7, url, **body)], url))
        assert done.status == "completed", done
        assert done.request_counts.completed == 1, answers(one, done.error_file_id)
        reply = answers(one, done.output_file_id)["request-7"]["response"]["body"]
        if url == "/v1/completions":
            assert reply["choices"][0]["text"] == "t7" + fake_text("t7", 5)
        elif url == "/v1/embeddings":
            assert len(reply["data"]) == 2 and reply["data"][0]["embedding"]
        else:
            assert reply["status"] == "completed"
            assert reply["output"][0]["content"][0]["text"] == fake_text("t7", 5)


def test_requests_that_fail_go_to_the_error_file(quick):
    one = client(quick)
    lines = [line(i) for i in range(10)]
    lines[3]["body"]["model"] = "no-such-model"
    lines[5]["body"]["temperature"] = 99
    lines[6]["body"]["n"] = 3
    lines[8]["body"] = {"model": "default"}
    done = end(one, begin(one, lines))
    assert done.status == "completed"
    assert (done.request_counts.completed, done.request_counts.failed) == (6, 4)
    check_chats(answers(one, done.output_file_id), [0, 1, 2, 4, 7, 9])
    errors = answers(one, done.error_file_id)
    assert sorted(errors) == [f"request-{i}" for i in (3, 5, 6, 8)]
    assert errors["request-3"]["response"]["status_code"] == 404
    assert errors["request-5"]["response"]["body"]["error"]["param"] == "temperature"
    assert all(400 <= e["response"]["status_code"] < 500 and e["error"] is None
               for e in errors.values())


@pytest.mark.parametrize("wrong, code, number", [
    ("{", "invalid_json_line", 3),
    ("[]", "invalid_json_line", 3),
    ('{"a":' * 100 + "1" + "}" * 100, "invalid_json_line", 3),
    ({**line(9), "custom_id": 9}, "missing_required_parameter", 3),
    ({**line(9), "custom_id": "request-0"}, "duplicate_custom_id", 3),
    ({**line(9), "custom_id": "x" * 600}, "invalid_value", 3),
    ({**line(9), "method": "GET"}, "invalid_method", 3),
    ({**line(9), "url": "/v1/embeddings"}, "invalid_url", 3),
    ({**line(9), "url": "http://169.254.169.254/"}, "invalid_url", 3),
    ({**line(9), "body": "x"}, "missing_required_parameter", 3),
    ("x" * ((1 << 20) + 1), "line_too_long", None),
])
def test_a_wrong_line_fails_the_batch(quick, wrong, code, number):
    one = client(quick)
    done = end(one, begin(one, [line(0), line(1), wrong, line(2)]))
    assert done.status == "failed" and done.failed_at is not None
    assert [(e.code, e.line) for e in done.errors.data] == [(code, number)]
    assert done.output_file_id is None and done.in_progress_at is None


def test_lines_may_be_blank_or_unended(quick):
    one = client(quick)
    data = b"\xef\xbb\xbf\n" + jsonl([line(0)]) + b"\r\n  \n" + jsonl([line(1)])[:-1]
    file = one.files.create(file=("in.jsonl", data), purpose="batch")
    batch = one.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    done = end(one, batch)
    check_chats(answers(one, done.output_file_id), range(2))
    file = one.files.create(file=("in.jsonl", b"\n\n"), purpose="batch")
    batch = one.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert end(one, batch).errors.data[0].code == "empty_file"


@pytest.mark.parametrize("fields, param", [
    ({"endpoint": "/v1/files"}, "endpoint"),
    ({"endpoint": 3}, "endpoint"),
    ({"completion_window": "25"}, "completion_window"),
    ({"completion_window": "0h"}, "completion_window"),
    ({"completion_window": "99999999h"}, "completion_window"),
    ({"completion_window": None}, "completion_window"),
    ({"input_file_id": "file-" + "0" * 32}, "input_file_id"),
    ({"input_file_id": "file-*"}, "input_file_id"),
    ({"input_file_id": None}, "input_file_id"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
])
def test_what_is_wrong_is_named(quick, fields, param):
    one = client(quick)
    file = one.files.create(file=("in.jsonl", jsonl([line(0)])), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **fields}
    reply = httpx.post(quick.url + "/v1/batches", json=body, timeout=60, trust_env=False)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == param
    one.files.delete(file.id)


def test_an_idempotency_key_makes_one_batch(quick):
    """Sent twenty times at once, at both gateways, it is one batch; with another body it is a 409;
    a key of a request that was refused is refused as that was."""
    one = client(quick)
    file = one.files.create(file=("in.jsonl", jsonl([line(0)])), purpose="batch")
    body = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}

    def post(i, fields=body, key=os.urandom(8).hex()):
        return httpx.post(quick.gateway_url(i % 2) + "/v1/batches", json=fields, trust_env=False,
                          timeout=60, headers={"idempotency-key": key})

    known = len(list(one.batches.list()))
    with ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(post, range(20)))
    assert {reply.status_code for reply in replies} == {200}
    assert len({reply.json()["id"] for reply in replies}) == 1
    end(one, one.batches.retrieve(replies[0].json()["id"]))
    again = post(1)  # when it is over, too; and when its file is gone
    assert (again.json()["id"], again.json()["status"]) == (replies[0].json()["id"], "completed")
    one.files.delete(file.id)
    assert post(0).json() == again.json()
    assert len(list(one.batches.list())) == known + 1
    other = post(0, {**body, "completion_window": "23h"})
    assert other.status_code == 409
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    unknown = {**body, "input_file_id": "file-" + "0" * 32}
    for gateway in range(2):
        assert post(gateway, unknown, key="to nowhere").status_code == 400


def test_lists_show_the_newest_first(quick):
    one = client(quick)
    made = [begin(one, [line(0)]).id for _ in range(3)]
    for batch in made:
        end(one, one.batches.retrieve(batch))
    assert [b.id for b in one.batches.list(limit=2).data] == made[:0:-1]
    listed = [b.id for b in one.batches.list(limit=2)]  # all pages
    assert listed[:3] == made[::-1] and len(set(listed)) == len(listed)
    after = one.batches.list(limit=1, after=made[1])
    assert [b.id for b in after.data] == [made[0]]


def test_a_batch_that_is_over_can_not_be_cancelled(quick):
    one = client(quick)
    batch = end(one, begin(one, [line(0)]))
    with pytest.raises(openai.ConflictError):
        one.batches.cancel(batch.id)
    for unknown in ("batch_" + "0" * 32, "batch_x", "x"):
        with pytest.raises(openai.NotFoundError):
            one.batches.retrieve(unknown)


def test_another_keys_batch_does_not_exist(start, tmp_path):
    keys = {name: run("key", "add", name, "--keys", tmp_path / "keys", check=0).stdout.strip()
            for name in ("ada", "bob")}
    service = start(keys=tmp_path / "keys", workers=1, model="fake:tokens=5,delay_ms=1")
    ada, bob = client(service, keys["ada"]), client(service, keys["bob"])
    file = ada.files.create(file=("in.jsonl", jsonl([line(0)])), purpose="batch")
    with pytest.raises(openai.BadRequestError) as caught:
        bob.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    assert caught.value.param == "input_file_id"
    batch = ada.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    for call in (bob.batches.retrieve, bob.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            call(batch.id)
    assert bob.batches.list().data == []
    done = end(ada, batch)
    reply = answers(ada, done.output_file_id)["request-0"]["response"]["body"]
    assert reply["wyvern"]["prompter"] == "ada"
    with pytest.raises(openai.NotFoundError):
        bob.files.content(done.output_file_id)
    assert [f.id for f in bob.files.list()] == []


def test_a_cancelled_batch_keeps_what_was_made(start):
    service = start(workers=1, slots=2, gateways=2, model="fake:tokens=10,delay_ms=20")
    one, other = client(service), client(service, gateway=1)
    batch = begin(one, [line(i) for i in range(200)])
    wait_for(lambda: one.batches.retrieve(batch.id).request_counts.completed >= 4, "some answers")
    assert other.batches.cancel(batch.id).status == "cancelling"
    done = end(one, batch)
    assert done.status == "cancelled" and done.cancelling_at <= done.cancelled_at
    found = answers(one, done.output_file_id)
    assert 4 <= len(found) < 200 and len(found) == done.request_counts.completed
    check_chats(found, [int(name.split("-")[1]) for name in found], 10)
    assert done.error_file_id is None
    assert other.batches.cancel(batch.id).status == "cancelled"
    wait_for(lambda: service.status()["queue"]["waiting"] +
             service.status()["queue"]["in_flight"] == 0, "an empty queue")


def test_a_batch_that_takes_too_long_expires(start):
    service = start(workers=1, slots=2, model="fake:tokens=10")
    one = client(service)
    # a few are made at once, whoever stands still for a while; the others take half an hour
    batch = begin(one, [line(i, messages=[{"role": "user",
                                           "content": f"t{i} delay_ms={1 if i < 5 else 5000}"}])
                        for i in range(100)], window="4s")
    done = end(one, batch)
    assert done.status == "expired" and done.expired_at >= done.expires_at
    found, errors = answers(one, done.output_file_id), answers(one, done.error_file_id)
    assert found and errors
    assert sorted([*found, *errors]) == sorted(f"request-{i}" for i in range(100))
    assert all(e["response"] is None and e["error"]["code"] == "batch_expired"
               for e in errors.values())
    assert done.request_counts.completed == len(found)
    assert done.request_counts.failed == len(errors)


def test_a_file_that_is_deleted_fails_its_batch(start):
    service = start(workers=1, slots=4, model="fake:tokens=10,delay_ms=1")
    one = client(service)
    # more than one chunk of lines, so that some are not read yet: none is answered
    worker = service.workers()[0]["pid"]
    os.kill(worker, signal.SIGSTOP)
    batch = begin(one, [line(i, metadata={"pad": "x" * 500}) for i in range(2000)])
    wait_for(lambda: one.batches.retrieve(batch.id).status == "in_progress", "its beginning")
    one.files.delete(batch.input_file_id)
    os.kill(worker, signal.SIGCONT)
    done = end(one, batch)
    assert done.status == "failed" and done.request_counts.total == 2000
    assert [e.code for e in done.errors.data] == ["input_file_gone"]
    assert done.output_file_id is None
    with service.broker() as broker:  # nothing is left but its state, and that the file is gone
        wait_for(lambda: broker.count("OBJECTS") == 2, "an end of what it had made")


def test_a_batch_is_cancelled_while_it_is_checked(start):
    service = start(workers=1, slots=1, model="fake:tokens=10,delay_ms=1000")
    one = client(service)
    batch = begin(one, [line(i) for i in range(20000)])
    assert one.batches.cancel(batch.id).status == "cancelling"
    assert end(one, batch).status == "cancelled"


def test_answers_larger_than_an_object_are_whole(quick):
    one = client(quick)
    sizes = {0: 10, 1: 90000, 2: 3, 3: 120000, 4: 1}
    lines = [line(i) for i in sizes]
    for i, tokens in sizes.items():
        lines[i]["body"]["messages"][0]["content"] = f"t{i} tokens={tokens} delay_ms=0"
    done = end(one, begin(one, lines))
    assert done.status == "completed" and done.request_counts.completed == len(sizes)
    found = answers(one, done.output_file_id)
    for i, tokens in sizes.items():
        text = found[f"request-{i}"]["response"]["body"]["choices"][0]["message"]["content"]
        assert text == fake_text(f"t{i}", tokens)


def kill_gateway(service, batch):
    """The gateway that moves the batch, with SIGKILL.  Returns its index."""
    names = {}
    for index in range(service.gateways):
        log = (service.state_dir / "logs" / f"gateway-{index}.log").read_text()
        names[index] = f"batch.begun id={batch.id.removeprefix('batch_')}" in log
    index = next(i for i, begun in names.items() if begun)
    gateways = {g["id"]: g["pid"] for g in service.status()["gateways"]}
    kill(gateways[f"gateway-{index}"])
    return index


def test_each_line_once_when_its_gateway_is_killed(start):
    service = start(workers=2, slots=4, gateways=2, model="fake:tokens=10,delay_ms=5")
    batch = begin(client(service, gateway=1), [line(i) for i in range(300)])
    one = client(service)
    wait_for(lambda: one.batches.retrieve(batch.id).request_counts.completed >= 20, "some answers")
    assert kill_gateway(service, batch) == 1
    done = end(one, batch, 90)
    assert done.status == "completed"
    assert done.request_counts.completed == 300 and done.request_counts.failed == 0
    check_chats(answers(one, done.output_file_id), range(300), 10)

    def made():  # workers tell each second
        return sum(w["prompts"] for w in service.workers())

    wait_for(lambda: made() >= 300, "the workers' counts")
    assert made() == 300, "a line was made twice"


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_batch_goes_on_when_the_service_comes_back(start, how):
    service = start(workers=1, slots=2, model="fake:tokens=10,delay_ms=20")
    one = client(service)
    batch = begin(one, [line(i) for i in range(60)])
    wait_for(lambda: one.batches.retrieve(batch.id).request_counts.completed >= 6, "some answers")
    if how == "stopped":
        assert service.stop() == 0, service.logs()
    else:
        service.die()
    again = start(workers=1, slots=2, model="fake:tokens=10,delay_ms=20",
                  state_dir=service.state_dir)
    one = client(again)
    done = end(one, batch, 90)
    assert done.status == "completed" and done.request_counts.completed == 60
    check_chats(answers(one, done.output_file_id), range(60), 10)


def test_files_and_batches_by_the_asynchronous_client(quick):
    """Several people at once, at both gateways: files sent, listed page by page, read and deleted;
    batches made, waited for, listed, one of them cancelled."""
    async def person(client, number):
        data = os.urandom((600 << 10) * (number % 2) + number + 1)  # of one chunk, or of two
        sent = await client.files.create(file=(f"f{number}", data), purpose="batch")
        assert (sent.bytes, sent.filename) == (len(data), f"f{number}")
        assert await client.files.retrieve(sent.id) == sent
        assert (await client.files.content(sent.id)).content == data
        assert sent.id in [file.id async for file in client.files.list(limit=3)]
        lines = [line(number * 100 + i) for i in range(9)]
        if number == 0:
            lines = [line(i, messages=[{"role": "user", "content": "x tokens=100000 delay_ms=20"}])
                     for i in range(9)]
        asked = await client.files.create(file=("in.jsonl", jsonl(lines)), purpose="batch")
        batch = await client.batches.create(input_file_id=asked.id, endpoint=CHAT,
                                            completion_window="1h", metadata={"n": str(number)})
        if number == 0:
            while (batch := await client.batches.retrieve(batch.id)).status == "validating":
                await asyncio.sleep(0.05)
            assert (await client.batches.cancel(batch.id)).status in ("cancelling", "cancelled")
        while batch.status not in ("completed", "cancelled", "failed"):
            await asyncio.sleep(0.05)
            batch = await client.batches.retrieve(batch.id)
        assert batch.status == ("cancelled" if number == 0 else "completed")
        assert batch.metadata == {"n": str(number)}
        listed = [b.id async for b in client.batches.list(limit=2)]
        assert batch.id in listed and len(set(listed)) == len(listed)
        if number > 0:
            answers = (await client.files.content(batch.output_file_id)).text.splitlines()
            found = {entry["custom_id"]: entry for entry in map(json.loads, answers)}
            check_chats(found, range(number * 100, number * 100 + 9))
        for file in (sent, asked):
            assert (await client.files.delete(file.id)).deleted
            with pytest.raises(openai.NotFoundError):
                await client.files.retrieve(file.id)
        with pytest.raises(openai.NotFoundError):
            await client.batches.retrieve("batch_" + "0" * 32)

    async def all_of_them():
        clients = [openai.AsyncOpenAI(
            base_url=quick.gateway_url(i) + "/v1", api_key="none", max_retries=0, timeout=60,
            http_client=httpx.AsyncClient(trust_env=False, timeout=60)) for i in range(2)]
        try:
            await asyncio.gather(*(person(clients[i % 2], i) for i in range(6)))
        finally:
            for one in clients:
                await one.close()

    asyncio.run(all_of_them())


def test_a_short_batch_behind_long_ones(start):
    """More batches than may be asked for at once: each gets its turn, and none waits for another's
    end."""
    service = start(workers=1, slots=2)  # four prompts of all batches may be on their way
    one = client(service)
    long = [line(i, messages=[{"role": "user", "content": f"t{i} tokens=5 delay_ms=40"}])
            for i in range(1000)]
    others = [begin(one, long) for _ in range(5)]
    wait_for(lambda: sum(one.batches.retrieve(b.id).request_counts.completed > 0
                         for b in others) >= 3, "their beginning", 60)
    done = end(one, begin(one, [line(0)]))
    assert done.status == "completed" and done.request_counts.completed == 1
    for batch in others:
        assert one.batches.cancel(batch.id).status == "cancelling", "it was still on its way"
    for batch in others:
        assert end(one, batch).status == "cancelled"
