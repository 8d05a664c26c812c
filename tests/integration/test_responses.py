"""/v1/responses as OpenAI's own client uses it, over two gateways and with two API keys: typed
events, background, resume, cancel, delete, and turns that follow each other.

The fake engine's texts are known and it counts words as tokens, so that a turn too many shows.
"""

import asyncio
import json
import random
import re

import httpx
import openai
import pytest

from harness import House, fake_text, sse_events, wait_for

BASE = {False: 4, True: 5}  # events before the first piece; in the background there is one more
NO_ID = "resp_" + "0" * 32


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    folder = tmp_path_factory.mktemp("responses")
    house = House(folder, gateways=2, workers=2, slots=4)
    with house.service:
        yield house


def create(client, text, **fields):
    return client.responses.create(model="default", input=text, **fields)


def finished(client, response_id):
    def ended():
        got = client.responses.retrieve(response_id)
        return got if got.status not in ("queued", "in_progress") else None

    return wait_for(ended, f"the end of {response_id}")


def numbers(events):
    return [json.loads(data)["sequence_number"] for _, data in events]


# ---- whole and streamed ----

def test_whole(house):
    reply = create(house.ann[0], "alpha tokens=7", instructions="be brief", temperature=0.5,
                   top_p=0.9, metadata={"a": "b"}, max_output_tokens=50)
    assert re.fullmatch("resp_[0-9a-f]{32}", reply.id)
    assert (reply.object, reply.status, reply.error) == ("response", "completed", None)
    assert reply.output_text == fake_text("alpha", 7)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (4, 7)
    assert reply.usage.total_tokens == 11
    assert (reply.instructions, reply.metadata) == ("be brief", {"a": "b"})
    assert (reply.temperature, reply.top_p, reply.max_output_tokens) == (0.5, 0.9, 50)
    assert (reply.background, reply.previous_response_id) == (False, None)
    item, = reply.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert item.content[0].type == "output_text"
    # the same, from the other gateway
    assert house.ann[1].responses.retrieve(reply.id).model_dump() == reply.model_dump()


def test_input_as_messages(house):
    reply = create(house.ann[0], [
        {"role": "developer", "content": "one two"},
        {"role": "user", "content": [{"type": "input_text", "text": "beta tokens=3"}]}])
    assert reply.output_text == fake_text("beta", 3)
    assert reply.usage.input_tokens == 4


def test_a_limit_makes_it_incomplete(house):
    reply = create(house.ann[0], "cut tokens=30", max_output_tokens=4)
    assert reply.status == "incomplete"
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.output_text == fake_text("cut", 4)
    assert reply.output[0].status == "incomplete"


EVENTS_BEFORE = ["response.created", "response.in_progress", "response.output_item.added",
                 "response.content_part.added"]
EVENTS_AFTER = ["response.output_text.done", "response.content_part.done",
                "response.output_item.done"]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("limit,last", [(None, "response.completed"), (5, "response.incomplete")])
def test_every_event(house, background, limit, last):
    stream = create(house.ann[0], "gamma tokens=9", stream=True, background=background,
                    max_output_tokens=limit)
    events = list(stream)
    pieces = limit or 9
    before = EVENTS_BEFORE[:1] + ["response.queued"] * background + EVENTS_BEFORE[1:]
    assert [e.type for e in events] == (
        before + ["response.output_text.delta"] * pieces + EVENTS_AFTER + [last])
    assert [e.sequence_number for e in events] == list(range(len(events)))
    # the client knows each by a type of its own
    assert len({type(e) for e in events}) == 9 + background
    assert all(type(e).__name__.startswith("Response") for e in events)

    text = fake_text("gamma", pieces)
    deltas = [e for e in events if e.type == "response.output_text.delta"]
    assert "".join(e.delta for e in deltas) == text
    item_ids = {e.item_id for e in events if hasattr(e, "item_id")}
    item_ids |= {e.item.id for e in events if hasattr(e, "item")}
    assert len(item_ids) == 1
    done = {e.type: e for e in events}
    assert done["response.output_text.done"].text == text
    assert done["response.content_part.done"].part.text == text
    assert done["response.output_item.done"].item.content[0].text == text
    created, ended = events[0].response, events[-1].response
    assert created.id == ended.id
    assert created.status == ("queued" if background else "in_progress")
    assert created.output == [] and created.usage is None
    assert ended.status == last.removeprefix("response.")
    assert ended.output_text == text and ended.usage.output_tokens == pieces
    assert house.ann[1].responses.retrieve(ended.id).model_dump() == ended.model_dump()


def test_the_helper_of_the_client(house):
    with house.ann[0].responses.stream(model="default", input="delta tokens=6") as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == fake_text("delta", 6)


def test_async_client(house):
    async def talk():
        async with openai.AsyncOpenAI(
                base_url=house.service.gateway_url(1) + "/v1", api_key=house.keys["ann"],
                max_retries=0, http_client=httpx.AsyncClient(trust_env=False)) as client:
            streams = [await client.responses.create(model="default", input=f"a{i} tokens=5",
                                                     stream=True) for i in range(5)]
            texts = []
            for stream in streams:
                texts.append("".join([e.delta async for e in stream
                                      if e.type == "response.output_text.delta"]))
            return texts

    assert asyncio.run(talk()) == [fake_text(f"a{i}", 5) for i in range(5)]


def test_async_resume_and_cancel(house):
    def client(index):
        return openai.AsyncOpenAI(
            base_url=house.service.gateway_url(index) + "/v1", api_key=house.keys["ann"],
            max_retries=0, http_client=httpx.AsyncClient(trust_env=False))

    async def talk():
        async with client(0) as one, client(1) as two:
            assert (await two.models.list()).data[0].id == "fake"
            stream = await one.responses.create(model="default", input="more tokens=30",
                                                background=True, stream=True)
            first = [await anext(stream) for _ in range(10)]
            await stream.close()
            rest = [e async for e in await two.responses.retrieve(
                first[0].response.id, stream=True, starting_after=first[-1].sequence_number)]
            long = await one.responses.create(model="default", input="long tokens=100000 delay_ms=20",
                                              background=True)
            ended = await two.responses.cancel(long.id)
            return first + rest, ended

    events, ended = asyncio.run(talk())
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == \
        fake_text("more", 30)
    assert ended.status == "cancelled"


def test_a_silent_stream_gives_signs_of_life(start):
    """A comment each 15 s keeps proxies and readers awake; a chat's first comes after its late head."""
    service = start(workers=1, slots=2, model="fake:tokens=2,delay_ms=27000")
    bodies = {"/v1/responses": {"model": "default", "input": "slow", "stream": True,
                                "store": False},  # it ends with its reader
              "/v1/chat/completions": {"model": "default", "stream": True,
                                       "messages": [{"role": "user", "content": "slow"}]}}

    async def read(path):
        async with httpx.AsyncClient(trust_env=False, timeout=60) as http, \
                http.stream("POST", service.url + path, json=bodies[path]) as reply:
            async for line in reply.aiter_lines():
                if line.startswith(":"):
                    return line
        return None

    async def both():
        return await asyncio.gather(*(read(path) for path in bodies))

    assert asyncio.run(both()) == [": waiting", ": waiting"]


# ---- a reply that fails ----

@pytest.fixture(scope="module")
def failed(house):
    stream = create(house.ann[0], "bad tokens=9 error_at=3", stream=True, background=True)
    return list(stream)


def test_a_failure_is_an_event(house, failed):
    assert [e.sequence_number for e in failed] == list(range(9))
    assert failed[-1].type == "response.failed"
    assert "".join(e.delta for e in failed if e.type == "response.output_text.delta") == \
        fake_text("bad", 3)
    assert failed[-1].response.status == "failed"
    assert failed[-1].response.error.code == "server_error"
    assert "piece 3" in failed[-1].response.error.message
    got = house.ann[1].responses.retrieve(failed[-1].response.id)
    assert (got.status, got.error.code) == ("failed", "server_error")


def test_a_failure_is_resumed(house, failed):
    whole = house.events(failed[0].response.id)
    assert [json.loads(d)["type"] for _, d in whole] == [e.type for e in failed]
    for after in range(len(whole)):
        assert house.events(failed[0].response.id, after, gateway=1) == whole[after + 1:]


def test_a_failure_without_a_stream_is_an_error(house):
    with pytest.raises(openai.InternalServerError) as raised:
        create(house.ann[0], "bad tokens=9 error_at=3")
    assert "piece 3" in raised.value.message


# ---- background ----

def test_background_waits_runs_and_ends(house):
    fillers = [create(house.ann[0], f"f{i} tokens=100000 delay_ms=50", background=True)
               for i in range(8)]
    try:
        wait_for(lambda: house.active() == 8, "busy slots")
        reply = create(house.ann[0], "patient tokens=30 delay_ms=20", background=True)
        assert (reply.status, reply.background, reply.output) == ("queued", True, [])
        assert house.ann[1].responses.retrieve(reply.id).status == "queued"
        assert fillers[0].status == "queued"
        wait_for(lambda: house.ann[1].responses.retrieve(fillers[0].id).status == "in_progress",
                 "the first at work")
        assert house.ann[1].responses.cancel(fillers[0].id).status == "cancelled"
        wait_for(lambda: house.ann[1].responses.retrieve(reply.id).status != "queued", "its turn")
        ended = finished(house.ann[1], reply.id)
        assert (ended.status, ended.output_text) == ("completed", fake_text("patient", 30))
        assert ended.created_at == reply.created_at
    finally:
        for filler in fillers:
            house.ann[1].responses.delete(filler.id)
    wait_for(lambda: house.active() == 0, "free slots")


def test_background_needs_store(house):
    with pytest.raises(openai.BadRequestError) as raised:
        create(house.ann[0], "x", background=True, store=False)
    assert raised.value.param == "background"


# ---- resume ----

async def resume_all(house, response_id, count, gateway):
    """The raw events after every number, all at once."""
    async with httpx.AsyncClient(
            base_url=house.service.gateway_url(gateway), trust_env=False, timeout=60,
            limits=httpx.Limits(max_connections=None),
            headers={"authorization": f"Bearer {house.keys['ann']}"}) as http:
        begun = [False] * (count + 1)

        async def one(after):
            path = f"/v1/responses/{response_id}?stream=true&starting_after={after}"
            lines = []
            async with http.stream("GET", path) as reply:
                assert reply.status_code == 200, await reply.aread()
                begun[after + 1] = True
                async for line in reply.aiter_lines():
                    lines.append(line)
            return list(sse_events(lines))

        return await asyncio.gather(*(one(after) for after in range(-1, count)))


@pytest.mark.parametrize("background", [False, True])
def test_resume_at_every_number(house, background):
    """While it runs and after its end, at either gateway: always the missing events, the same
    bytes."""
    pieces = 60
    total = BASE[background] + pieces + 4
    with house.http() as http, http.stream("POST", "/v1/responses", json={
            "model": "default", "input": f"river tokens={pieces} delay_ms=40", "stream": True,
            "background": background}) as reply:
        events = sse_events(reply.iter_lines())
        whole = [next(events)]
        response_id = json.loads(whole[0][1])["response"]["id"]
        # as many pieces as let a resume begin before, at and after what is there
        while len(whole) < BASE[background] + 10:
            whole.append(next(events))
        running = asyncio.run(resume_all(house, response_id, total, 1))
        whole += events
    assert len(whole) == total
    assert [json.loads(d)["sequence_number"] for _, d in whole] == list(range(total))
    assert [name for name, _ in whole] == [json.loads(d)["type"] for _, d in whole]
    for after, got in enumerate(running, -1):
        assert got == whole[after + 1:], f"running, after {after}"
    for gateway in range(2):
        ended = asyncio.run(resume_all(house, response_id, total, gateway))
        for after, got in enumerate(ended, -1):
            assert got == whole[after + 1:], f"ended, after {after} at gateway {gateway}"


def async_http(house, who="ann"):
    return httpx.AsyncClient(trust_env=False, timeout=60,
                             limits=httpx.Limits(max_connections=None),
                             headers={"authorization": f"Bearer {house.keys[who]}"})


async def events_from(http, house, response_id, after, gateway):
    url = f"{house.service.gateway_url(gateway)}/v1/responses/{response_id}"
    got = await http.get(url, params={"stream": "true", "starting_after": after})
    assert got.status_code == 200, got.text
    return list(sse_events(got.text.split("\n")))


def test_readers_come_at_any_moment(house):
    """Before, at and after its end, anywhere: the moment is arbitrary on purpose."""
    dice = random.Random(7)

    async def reader(http, response_id, gateway, after, wait_s):
        await asyncio.sleep(wait_s)
        return after, await events_from(http, house, response_id, after, gateway)

    async def all_of_them():
        async with async_http(house) as http:
            for turn in range(12):
                made = await http.post(house.service.gateway_url(turn % 2) + "/v1/responses", json={
                    "model": "default", "background": True,
                    "input": f"m{turn} tokens=30 delay_ms=4"})
                response_id = made.json()["id"]
                got = await asyncio.gather(*(
                    reader(http, response_id, i % 2, dice.randrange(-1, 39), dice.random() * 0.25)
                    for i in range(24)))
                whole = await events_from(http, house, response_id, -1, 1)
                assert numbers(whole) == list(range(39))
                for after, events in got:
                    assert events == whole[after + 1:], (turn, after)

    asyncio.run(all_of_them())


def test_cancelled_and_deleted_at_any_moment(house):
    """Around its end: one ending, the same for all, told in order."""
    dice = random.Random(8)

    async def one(http, i):
        base = [house.service.gateway_url(g) + "/v1/responses" for g in (i % 2, 1 - i % 2)]
        made = await http.post(base[0], json={
            "model": "default", "background": True, "input": f"c{i} tokens=20 delay_ms=4"})
        response_id = made.json()["id"]
        reader = asyncio.create_task(events_from(http, house, response_id, -1, 1))
        await asyncio.sleep(0.02 + dice.random() * 0.12)
        if i % 3 == 2:
            gone = await http.delete(f"{base[1]}/{response_id}")
            assert gone.status_code == 200, gone.text
            assert (await http.get(f"{base[0]}/{response_id}")).status_code == 404
            try:
                seen = await reader
            except AssertionError as late:  # it came when the reply was gone
                assert "not_found" in str(late)
                seen = []
            assert numbers(seen) == list(range(len(seen)))
            return "deleted"
        cancelled = await http.post(f"{base[1]}/{response_id}/cancel")
        assert cancelled.status_code == 200, cancelled.text
        seen = await reader
        got = (await http.get(f"{base[0]}/{response_id}")).json()
        assert got == cancelled.json()
        assert numbers(seen) == list(range(len(seen)))
        assert json.loads(seen[-1][1])["response"] == got
        text = "".join(json.loads(d).get("delta", "") for _, d in seen)
        assert text == "".join(part["text"] for item in got["output"] for part in item["content"])
        assert text == fake_text(f"c{i}", text.count(" "))
        return got["status"]

    async def all_of_them():
        async with async_http(house) as http:
            ends = []
            for turn in range(10):
                ends += await asyncio.gather(*(one(http, turn * 6 + i) for i in range(6)))
            return ends

    ends = asyncio.run(all_of_them())
    assert len(set(ends)) > 1, "the moments were too much alike"
    wait_for(lambda: house.active() == 0, "free slots")


def test_resume_by_the_client(house):
    """As OpenAI's guide to background mode has it."""
    stream = create(house.ann[0], "guide tokens=40 delay_ms=15", stream=True, background=True)
    seen = []
    for event in stream:
        seen.append(event)
        if len(seen) == 20:
            break
    stream.close()
    rest = list(house.ann[1].responses.retrieve(seen[0].response.id, stream=True,
                                                starting_after=seen[-1].sequence_number))
    numbers = [e.sequence_number for e in seen + rest]
    assert numbers == list(range(5 + 40 + 4))
    text = "".join(e.delta for e in seen + rest if e.type == "response.output_text.delta")
    assert text == fake_text("guide", 40) == rest[-1].response.output_text


@pytest.mark.parametrize("after", [10**6, 2**63 - 1])
def test_resume_beyond_the_end_is_an_empty_stream(house, after):
    reply = create(house.ann[0], "end tokens=2")
    assert house.events(reply.id, after) == []


@pytest.mark.parametrize("after", ["abc", "", "-2", "1.5", "1e9", "%00", "9223372036854775808",
                                   "1%20", "0x10"])
@pytest.mark.parametrize("known", [True, False])
def test_resume_from_nonsense(house, after, known):
    reply_id = create(house.ann[0], "n tokens=1").id if known else NO_ID
    with house.http() as http:
        got = http.get(f"/v1/responses/{reply_id}?stream=true&starting_after={after}")
    assert got.status_code == 400, got.text
    assert got.json()["error"]["param"] == "starting_after"


# ---- cancel ----

def test_cancel_while_it_waits(house):
    fillers = [create(house.ann[0], f"f{i} tokens=100000 delay_ms=50", background=True)
               for i in range(8)]
    try:
        wait_for(lambda: house.active() == 8, "busy slots")
        reply = create(house.ann[0], "never tokens=5", background=True)
        gone = house.ann[1].responses.cancel(reply.id)
        assert (gone.status, gone.output) == ("cancelled", [])
        assert house.ann[0].responses.retrieve(reply.id).status == "cancelled"
        with house.service.broker() as broker:
            wait_for(lambda: broker.subjects("PROMPTS", f"prompt.*.*.{reply.id[5:]}") == {},
                     "its leaving the queue")
    finally:
        for filler in fillers:
            house.ann[1].responses.delete(filler.id)
    wait_for(lambda: house.active() == 0, "free slots")


@pytest.mark.parametrize("gateway", [0, 1])
def test_cancel_in_mid_reply(house, gateway):
    """Its reader hears the end, what was said stays, and the slot is free."""
    stream = iter(create(house.ann[0], "halt tokens=100000 delay_ms=10", stream=True,
                         background=True))
    events = [next(stream) for _ in range(10)]
    response_id = events[0].response.id
    gone = house.ann[gateway].responses.cancel(response_id)
    assert gone.status == "cancelled"
    events += stream
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[-1].response.status == "cancelled"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == gone.output_text == fake_text("halt", text.count(" "))
    assert gone.output[0].status == "incomplete"
    wait_for(lambda: house.active() == 0, "the free slot")
    # twice, and everything as it was
    assert house.ann[1 - gateway].responses.cancel(response_id).model_dump() == gone.model_dump()
    raw = house.events(response_id, gateway=1 - gateway)
    assert [json.loads(d)["type"] for _, d in raw] == [e.type for e in events]
    assert "".join(json.loads(d).get("delta", "") for _, d in raw) == text


def test_cancel_after_the_end_changes_nothing(house):
    reply = create(house.ann[0], "over tokens=3")
    again = house.ann[1].responses.cancel(reply.id)
    assert again.model_dump() == reply.model_dump()
    assert house.ann[0].responses.retrieve(reply.id).status == "completed"


def test_many_cancel_at_once(house):
    reply = create(house.ann[0], "crowd tokens=100000 delay_ms=10", background=True)
    wait_for(lambda: house.ann[0].responses.retrieve(reply.id).status == "in_progress", "its turn")

    async def crowd():
        async with httpx.AsyncClient(trust_env=False, timeout=60, headers={
                "authorization": f"Bearer {house.keys['ann']}"}) as http:
            return await asyncio.gather(*(
                http.post(f"{house.service.gateway_url(i % 2)}/v1/responses/{reply.id}/cancel")
                for i in range(16)))

    replies = asyncio.run(crowd())
    assert {r.status_code for r in replies} == {200}
    assert len({r.text for r in replies}) == 1, "two endings"
    assert replies[0].json()["status"] == "cancelled"


# ---- delete ----

def gone_everywhere(house, response_id):
    for client in house.ann:
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response_id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(response_id, stream=True)
        with pytest.raises(openai.NotFoundError):
            client.responses.cancel(response_id)
        with pytest.raises(openai.NotFoundError):
            client.responses.delete(response_id)
        with pytest.raises(openai.NotFoundError):
            client.responses.input_items.list(response_id)
        with pytest.raises(openai.BadRequestError) as raised:
            create(client, "x tokens=1", previous_response_id=response_id)
        assert raised.value.param == "previous_response_id"


def stored(house, prompt_id):
    """All that the broker keeps of a prompt."""
    kept = b""
    with house.service.broker() as broker:
        for stream, subject in (("REPLIES", "reply.*.{}"), ("TOKENS", "tok.*.{}.p"),
                                ("PROMPTS", "prompt.*.*.{}"), ("RESPONSES", "response.{}")):
            for name in broker.subjects(stream, subject.format(prompt_id)):
                got = broker.request(f"$JS.API.DIRECT.GET.{stream}.{name}")
                kept += got.data
    return kept


def test_delete(house):
    reply = create(house.ann[0], "secret tokens=3")
    assert b"secret.1" in stored(house, reply.id[5:])
    assert house.ann[1].responses.delete(reply.id) is None
    gone_everywhere(house, reply.id)
    wait_for(lambda: b"secret" not in stored(house, reply.id[5:]), "its text to be gone")


def test_delete_answers_as_openai_does(house):
    reply = create(house.ann[0], "secret tokens=3")
    with house.http(1) as http:
        got = http.delete(f"/v1/responses/{reply.id}")
    assert (got.status_code, got.json()) == (
        200, {"id": reply.id, "object": "response", "deleted": True})


@pytest.mark.parametrize("gateway", [0, 1])
def test_delete_in_mid_reply(house, gateway):
    stream = iter(create(house.ann[0], "mum tokens=100000 delay_ms=10", stream=True,
                         background=True))
    events = [next(stream) for _ in range(10)]
    response_id = events[0].response.id
    house.ann[gateway].responses.delete(response_id)
    gone_everywhere(house, response_id)
    events += stream  # it ends, in order
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert len(events) < 10000
    wait_for(lambda: house.active() == 0, "the free slot")
    wait_for(lambda: b"mum" not in stored(house, response_id[5:]), "its text to be gone")


def test_delete_while_it_waits(house):
    fillers = [create(house.ann[0], f"f{i} tokens=100000 delay_ms=50", background=True)
               for i in range(8)]
    try:
        wait_for(lambda: house.active() == 8, "busy slots")
        reply = create(house.ann[0], "unsaid tokens=5", background=True)
        house.ann[1].responses.delete(reply.id)
        gone_everywhere(house, reply.id)
        wait_for(lambda: b"unsaid" not in stored(house, reply.id[5:]), "its text to be gone")
    finally:
        for filler in fillers:
            house.ann[1].responses.delete(filler.id)
    wait_for(lambda: house.active() == 0, "free slots")


# ---- turns that follow each other ----

def test_five_turns_over_two_gateways(house):
    """The fake engine counts all words that it reads: a turn too many or too few would show."""
    previous, words, said = None, 0, []
    for turn in range(5):
        text = f"t{turn} tokens={turn + 2} and so on"
        reply = create(house.ann[turn % 2], text, previous_response_id=previous,
                       instructions=f"rule {turn}")
        assert reply.output_text == fake_text(f"t{turn}", turn + 2)
        words += len(text.split())
        assert reply.usage.input_tokens == words + 2, "all turns, and the last instructions alone"
        words += turn + 2
        said += [("user", text), ("assistant", reply.output_text)]
        assert reply.previous_response_id == previous
        previous = reply.id
    items = house.ann[1].responses.input_items.list(previous, order="asc", limit=100)
    assert [(i.role, i.content[0].text) for i in items] == said[:-1]
    # page by page, the newest first
    items = house.ann[0].responses.input_items.list(previous, limit=2)
    assert [(i.role, i.content[0].text) for i in items] == said[-2::-1]
    # a branch from the middle is as good
    middle = house.ann[0].responses.retrieve(previous).previous_response_id
    assert create(house.ann[0], "b tokens=1", previous_response_id=middle).usage.input_tokens \
        == words - (4 + 2) - 5 + 2


def test_a_turn_streams_too(house):
    first = create(house.ann[0], "one tokens=3")
    events = list(create(house.ann[1], "two tokens=4", previous_response_id=first.id, stream=True,
                         background=True))
    assert events[-1].response.output_text == fake_text("two", 4)
    assert events[-1].response.usage.input_tokens == 2 + 3 + 2


@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_followed(house, stream):
    def refused(previous):
        with pytest.raises(openai.BadRequestError) as raised:
            create(house.ann[1], "x tokens=1", previous_response_id=previous, stream=stream)
        assert raised.value.param == "previous_response_id"
        return raised.value.message

    foreign = create(house.bob[0], "his tokens=2")
    unstored = create(house.ann[0], "lost tokens=2", store=False)
    assert refused(foreign.id) == refused(NO_ID).replace(NO_ID, foreign.id), "another's existence"
    assert refused(unstored.id)
    with pytest.raises(openai.InternalServerError):
        create(house.ann[0], "bad error_at=1", metadata={"mark": "x"})
    running = create(house.ann[0], "slow tokens=100000 delay_ms=50", background=True)
    assert refused(running.id)
    house.ann[0].responses.cancel(running.id)
    assert refused(running.id), "a cancelled one"
    house.ann[0].responses.delete(running.id)
    for malformed in ("x", "resp_", "resp_" + "0" * 31, "resp_" + "g" * 32, "resp_" + "0" * 33,
                      "chatcmpl-" + foreign.id[5:], foreign.id[5:], "../" + NO_ID, "resp_*", ""):
        assert refused(malformed)


def test_store_false_is_not_there(house):
    reply = create(house.ann[0], "brief tokens=3", store=False)
    assert reply.output_text == fake_text("brief", 3)
    assert reply.store is False
    gone_everywhere(house, reply.id)
    wait_for(lambda: b"brief" not in stored(house, reply.id[5:]), "its text to be gone")
    # it may follow one that is stored
    first = create(house.ann[0], "one tokens=3")
    second = create(house.ann[0], "two tokens=3", store=False, previous_response_id=first.id)
    assert second.usage.input_tokens == 2 + 3 + 2


def test_store_false_streamed(house):
    events = list(create(house.ann[0], "leaf tokens=5", store=False, stream=True))
    assert [e.sequence_number for e in events] == list(range(4 + 5 + 4))
    gone_everywhere(house, events[0].response.id)


# ---- ids ----

VERBS = [("GET", ""), ("GET", "?stream=true"), ("GET", "?stream=true&starting_after=3"),
         ("DELETE", ""), ("POST", "/cancel"), ("GET", "/input_items")]


def test_ids_that_are_none(house):
    known = create(house.ann[0], "k tokens=1").id
    ids = ["x", "resp_", known[5:], known[:-1], known + "0", known.upper(), "resp_*", "resp_%2a",
           "chatcmpl-" + known[5:], "%2e%2e", "resp_" + "0" * 5000, known + "%00", "%ff%fe",
           known + ".c", "resp_" + ">" * 32, NO_ID]
    with house.http(0) as first, house.http(1) as second:
        for i, bad in enumerate(ids):
            for method, rest in VERBS:
                got = (first, second)[i % 2].request(method, f"/v1/responses/{bad}{rest}")
                assert got.status_code in (400, 404, 414), (bad, method, got.text)
                assert set(got.json()["error"]) == {"message", "type", "param", "code"}
                assert got.headers.get("x-request-id") != "", "none is better than an empty one"
    assert house.ann[0].responses.retrieve(known).status == "completed", "none of them was it"


def test_ids_of_others(house):
    """A 404 to the letter as for an id that was never there, for each verb, as long as it lives."""
    def try_all(response_id):
        for gateway in range(2):
            with house.http(gateway, "bob") as http:
                for method, rest in VERBS:
                    got = http.request(method, f"/v1/responses/{response_id}{rest}")
                    nothing = http.request(method, f"/v1/responses/{NO_ID}{rest}")
                    assert got.status_code == 404, (method, rest, got.text)
                    assert got.json() == nothing.json()
                got = http.post("/v1/responses", json={"model": "default", "input": "x",
                                                       "previous_response_id": response_id})
                assert got.status_code == 400

    whole = create(house.ann[0], "mine tokens=3")
    try_all(whole.id)
    assert house.ann[0].responses.retrieve(whole.id).output_text == fake_text("mine", 3)
    running = create(house.ann[0], "hers tokens=100000 delay_ms=20", background=True)
    try_all(running.id)
    wait_for(lambda: house.ann[0].responses.retrieve(running.id).status == "in_progress", "a slot")
    try_all(running.id)
    assert house.ann[0].responses.cancel(running.id).status == "cancelled"
    house.ann[0].responses.delete(running.id)
    try_all(running.id)


def test_a_stored_chat_is_no_response_and_the_other_way(house):
    chat = house.ann[0].chat.completions.create(
        model="default", store=True, messages=[{"role": "user", "content": "c tokens=2"}])
    with pytest.raises(openai.NotFoundError):
        house.ann[0].responses.retrieve(chat.id.replace("chatcmpl-", "resp_"))
    reply = create(house.ann[0], "r tokens=2")
    with pytest.raises(openai.NotFoundError):
        house.ann[0].chat.completions.retrieve(reply.id.replace("resp_", "chatcmpl-"))
    with pytest.raises(openai.NotFoundError):
        house.bob[1].chat.completions.retrieve(chat.id)
    with pytest.raises(openai.NotFoundError):
        house.bob[1].chat.completions.delete(chat.id)
    assert house.ann[1].chat.completions.retrieve(chat.id).choices[0].message.content == \
        fake_text("c", 2)


def test_no_key_no_reply(house):
    reply = create(house.ann[0], "k tokens=1")
    for method, rest in VERBS:
        got = httpx.request(method, f"{house.service.url}/v1/responses/{reply.id}{rest}",
                            trust_env=False)
        assert got.status_code == 401, got.text
        assert got.json()["error"]["code"] == "invalid_api_key"
