"""The prompt queue: every prompt once, bounds, readers that leave, draining."""

import contextlib
import json
import socket

import httpx

from harness import Stream, fake_text, many, openai_client, run, run_json, wait_for


def idle(service):
    status = service.status()
    return (status["queue"]["waiting"] == 0 and status["queue"]["in_flight"] == 0
            and all(w["active"] == 0 for n in status["nodes"] for w in n["workers"]))


def test_105_prompts_over_four_workers_on_two_nodes(start):
    service = start(nodes=2, workers=4, slots=4)
    prompts = [f"p{i} tokens={5 + i % 40}" for i in range(105)]
    replies = many(service, prompts)
    assert [r.status_code for r in replies] == [200] * 105
    bodies = [r.json() for r in replies]
    for i, body in enumerate(bodies):
        assert body["choices"][0]["message"]["content"] == fake_text(f"p{i}", 5 + i % 40)
    assert len({b["wyvern"]["prompt_id"] for b in bodies}) == 105
    assert len({b["wyvern"]["response_id"] for b in bodies}) == 105

    def all_take_a_share():
        """One that stood still while the others did it all gets some of what comes then."""
        if len({b["wyvern"]["inference_worker"] for b in bodies}) == 4:
            return True
        bodies.extend(reply.json() for reply in many(service, prompts[:16]))
        return False

    wait_for(all_take_a_share, "a share for each worker")
    assert len({b["wyvern"]["node"] for b in bodies}) == 2
    assert {b["wyvern"]["attempt"] for b in bodies} == {1}
    assert idle(service) or wait_for(lambda: idle(service), "an idle service")


def test_load(start):
    service = start(nodes=2, workers=4, slots=4, model="fake:tokens=10,delay_ms=2")
    report = run_json("load", "--url", service.url, "--min-tokens", "1", "--json")
    assert report["sent"] == report["answered"] == 105
    assert report["failed"] == report["duplicates"] == 0
    assert report["seconds"] > 0 and report["tokens_per_second"] > 0
    assert set(report["ttft_ms"]) == set(report["latency_ms"]) == {"p50", "p99", "max"}
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p99"] <= report["latency_ms"]["max"]
    # Whoever stood still all the time has done nothing, and is not named.
    assert {w["id"] for w in report["workers"]} <= {w["id"] for w in service.workers()}
    assert 1 < len(report["workers"]) <= 4
    for worker in report["workers"]:
        assert set(worker) >= {"id", "node", "device", "prompts", "tokens", "busy_seconds",
                               "slot_seconds", "first_start", "last_end"}
        assert 0 <= worker["first_start"] <= worker["last_end"]
    assert sum(w["prompts"] for w in report["workers"]) == 105
    assert sum(w["tokens"] for w in report["workers"]) == 1050


def test_load_of_ones_own_prompts(fake, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one tokens=2\ntwo tokens=3\n")
    report = run_json("load", "--url", fake.url, "--prompts", prompts, "--repeat", "3",
                      "--min-tokens", "1", "--json")
    assert report["sent"] == report["answered"] == 6
    assert sum(w["tokens"] for w in report["workers"]) == 15


def test_greedy_never_more_than_its_slots(start):
    service = start(workers=1, slots=2, model="fake:tokens=60,delay_ms=5")
    with busy(service, 2):
        streams = [Stream(service, f"s{i}") for i in range(3)]
        wait_for(lambda: service.status()["queue"] == {"waiting": 3, "in_flight": 2, "limit": 1024},
                 "two in flight, three waiting")
        wait_for(lambda: service.workers()[0]["active"] == 2, "two active slots")
    for i, stream in enumerate(streams):
        assert stream.join().text == fake_text(f"s{i}", 60)


def test_full_queue(start):
    service = start(workers=1, slots=1, max_queue=3, model="fake:tokens=40,delay_ms=5")
    with busy(service):
        streams = [Stream(service, f"s{i}") for i in range(2)]
        wait_for(lambda: sum(service.status()["queue"][k] for k in ("waiting", "in_flight")) == 3,
                 "a full queue")
        assert service.status()["queue"]["limit"] == 3
        refused = service.post("late")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        error = refused.json()["error"]
        assert error["type"] and error["message"]
    for i, stream in enumerate(streams):
        assert stream.join().text == fake_text(f"s{i}", 40)
    wait_for(lambda: service.post("again tokens=1").status_code == 200, "room in the queue")


def leave(service, content):
    """Asks, reads the first words, and closes the connection."""
    body = {"model": "default", "stream": True,
            "messages": [{"role": "user", "content": content}]}
    with httpx.Client(base_url=service.url, trust_env=False) as client:
        with client.stream("POST", "/v1/chat/completions", json=body) as reply:
            for line in reply.iter_lines():
                if '"content":"' in line.replace(": ", ":"):
                    return


def test_a_reader_that_leaves_frees_the_slot(start):
    service = start(workers=1, slots=1, model="fake:tokens=100000,delay_ms=10")
    leave(service, "gone")
    wait_for(lambda: idle(service), "a free slot")
    assert service.text("next tokens=3") == fake_text("next", 3)


def test_the_text_of_a_reply_whose_reader_left_is_not_kept(start):
    service = start(workers=1, slots=1, model="fake:tokens=100000,delay_ms=10")
    with service.broker() as broker:
        leave(service, "gone")
        records = wait_for(lambda: broker.subjects("REPLIES", "reply.>"), "the record")
        (subject,) = records

        def record():
            return broker.request(f"$JS.API.DIRECT.GET.REPLIES.{subject}").json()

        assert record()["status"] == "cancelled"
        wait_for(lambda: record().get("text") is None, "the text to be erased")


def test_a_waiting_prompt_whose_reader_leaves_is_removed(start):
    service = start(workers=1, slots=1, model="fake:tokens=5,delay_ms=5")
    body = json.dumps({"model": "default", "messages": [{"role": "user", "content": "waits"}]})
    with busy(service):
        with socket.create_connection(("127.0.0.1", service.port)) as raw:
            raw.sendall(("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
                         "Content-Type: application/json\r\n"
                         f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
            wait_for(lambda: service.status()["queue"]["waiting"] == 1, "one that waits")
        wait_for(lambda: service.status()["queue"]["waiting"] == 0, "an empty queue")
    assert service.text("next tokens=3") == fake_text("next", 3)


@contextlib.contextmanager
def busy(service, slots=1):
    """Holds slots with replies that last until the block ends."""
    client = openai_client(service)
    replies = [client.responses.create(model="default", input="busy tokens=100000 delay_ms=20",
                                       background=True).id for _ in range(slots)]
    for reply in replies:
        wait_for(lambda r=reply: client.responses.retrieve(r).status == "in_progress", "its turn")
    try:
        yield
    finally:
        ended = [client.responses.cancel(reply).status for reply in replies]
    assert set(ended) == {"cancelled"}


def accepted(service):
    """How many prompts its gateway has taken."""
    text = httpx.get(service.url + "/metrics", trust_env=False).text
    return next(float(line.split()[1]) for line in text.splitlines()
                if line.startswith("wyvern_prompts_accepted_total"))


def test_sigterm_finishes_replies_in_flight(start):
    service = start(workers=2, slots=2, model="fake:tokens=40,delay_ms=25")
    streams = [Stream(service, f"s{i}") for i in range(4)]
    waiting = [Stream(service, f"w{i} tokens=5") for i in range(3)]
    for stream in streams:
        stream.wait_text()
    wait_for(lambda: accepted(service) == 7, "all accepted")
    service.term()
    for i, stream in enumerate(streams):
        assert stream.join().text == fake_text(f"s{i}", 40)
        assert stream.done and stream.error is None
    for i, stream in enumerate(waiting):  # accepted before, so answered
        assert stream.join().text == fake_text(f"w{i}", 5)
    assert service.stop() == 0


def test_sigint_ends_an_idle_service_at_once(start):
    service = start()
    service.family |= {}
    service.process.send_signal(2)
    assert service.process.wait(20) == 0
    service.check_nothing_left()


def test_gateways_share_one_queue(start):
    service = start(gateways=2, workers=1, slots=2)
    assert service.post("one tokens=3", gateway=0).status_code == 200
    assert service.post("two tokens=3", gateway=1).json()["choices"][0]["message"]["content"] == \
        fake_text("two", 3)
    wait_for(lambda: len(service.status()["gateways"]) == 2, "both in the status")


def test_a_second_start_in_the_same_directory(start, tmp_path):
    """State of an earlier run is no obstacle, and a running service is not disturbed."""
    service = start()
    second = run("up", "--state-dir", service.state_dir, "--port", service.port + 1, "--model",
                 "fake:tokens=1,delay_ms=1")
    assert second.returncode not in (0, 1, -11)
    assert len(second.stderr.strip().splitlines()) <= 4, second.stderr
    assert service.text("still tokens=2") == fake_text("still", 2)
    assert service.stop() == 0
    again = start(state_dir=service.state_dir, port=service.port)
    assert again.text("again tokens=2") == fake_text("again", 2)


def test_a_reply_that_takes_too_long(start):
    """--max-reply: it ends with an error, what came before stands, and the slot is free."""
    service = start(workers=1, slots=1, max_reply=1, model="fake:tokens=100000,delay_ms=20")
    answer = service.post("endless")
    assert answer.status_code == 504, answer.text
    assert answer.json()["error"]["code"] == "reply_timeout"
    # One that is short, but where the machine stands still for as long.
    short = wait_for(lambda: (got := service.post("short tokens=3")).status_code == 200 and got,
                     "a reply in time")
    assert short.json()["choices"][0]["message"]["content"] == fake_text("short", 3)
