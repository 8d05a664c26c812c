"""The chat API, used as its people use it: OpenAI's own client, whole and streamed."""

import json
import re
import time

import httpx
import openai
import pytest

from harness import Stream, fake_text, run, run_json, sse_events, wait_for

ID = r"[0-9a-f]{32}"


@pytest.fixture(scope="module")
def client(fake):
    with openai.OpenAI(base_url=fake.url + "/v1", api_key="none", max_retries=0,
                       http_client=httpx.Client(trust_env=False)) as client:
        yield client


def user(text):
    return [{"role": "user", "content": text}]


def test_whole_reply(client):
    reply = client.chat.completions.create(model="default", messages=user("alpha tokens=7"))
    assert reply.object == "chat.completion"
    assert re.fullmatch(f"chatcmpl-{ID}", reply.id)
    choice, = reply.choices
    assert choice.message.role == "assistant"
    assert choice.message.content == fake_text("alpha", 7)
    assert choice.finish_reason == "stop"
    assert reply.usage.completion_tokens == 7
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 7


def test_streamed_reply(client):
    stream = client.chat.completions.create(model="default", messages=user("beta tokens=9"),
                                            stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert len({c.id for c in chunks}) == 1
    with_choice = [c for c in chunks if c.choices]
    assert with_choice[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in with_choice) == fake_text("beta", 9)
    assert with_choice[-1].choices[0].finish_reason == "stop"
    usages = [c.usage for c in chunks if c.usage]
    assert len(usages) == 1 and usages[0].completion_tokens == 9


def test_words_appear_as_they_are_made(fake):
    body = {"model": "default", "stream": True,
            "messages": user("drip tokens=100000 delay_ms=50")}  # the last one comes tomorrow
    said = ""
    with fake.client.stream("POST", "/v1/chat/completions", json=body) as reply:
        for _, data in sse_events(reply.iter_lines()):
            said += json.loads(data)["choices"][0]["delta"].get("content") or ""
            if said.count(" ") >= 3:
                break
    assert said and fake_text("drip", 1000).startswith(said)


def test_limits_of_length(client):
    reply = client.chat.completions.create(model="default", messages=user("cut tokens=50"),
                                           max_tokens=5)
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content == fake_text("cut", 5)


def test_wyvern_object(fake):
    before = time.time()
    reply = fake.post("gamma tokens=3", user="ada")
    details = reply.json()["wyvern"]
    assert details["prompter"] == "ada"
    assert re.fullmatch(ID, details["prompt_id"])
    assert reply.json()["id"] == "chatcmpl-" + details["prompt_id"]
    assert details["response_id"]
    workers = {w["id"]: w for w in fake.workers()}
    assert details["inference_worker"] in workers
    assert details["device"] == workers[details["inference_worker"]]["device"]
    assert details["response_worker"] in {r["id"] for r in fake.status()["response_workers"]}
    assert details["node"] in {n["name"] for n in fake.status()["nodes"]}
    assert details["attempt"] == 1
    assert before - 1 <= details["accepted_at"] <= details["started_at"] <= details["finished_at"]
    assert details["finished_at"] <= time.time() + 1
    assert reply.headers["x-request-id"]


def test_streamed_wyvern_object(fake):
    stream = Stream(fake, "delta tokens=3", user="ada").join()
    assert stream.done and stream.error is None
    assert stream.details["prompter"] == "ada"
    assert stream.details["prompt_id"] == stream.prompt_id


def test_prompter_is_made_up_per_connection(fake):
    with httpx.Client(base_url=fake.url, timeout=60, trust_env=False) as one:
        def prompter(client):
            body = {"model": "default", "messages": user("x tokens=1")}
            return client.post("/v1/chat/completions", json=body).json()["wyvern"]["prompter"]
        first, second = prompter(one), prompter(one)
    with httpx.Client(base_url=fake.url, timeout=60, trust_env=False) as two:
        other = prompter(two)
    assert first and first == second != other


def test_models(client):
    models = list(client.models.list())
    assert models and models[0].object == "model"
    reply = client.chat.completions.create(model=models[0].id, messages=user("named tokens=2"))
    assert reply.choices[0].message.content == fake_text("named", 2)
    assert reply.model == models[0].id


def test_health_ready_metrics(fake):
    assert fake.client.get("/health").status_code == 200
    assert fake.client.get("/ready").status_code == 200
    metrics = fake.client.get("/metrics")
    assert metrics.status_code == 200
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_not_ready_while_loading(start):
    """For a good while: that it gets ready when its model is there is what all other tests begin
    with."""
    service = start(wait=False, model="fake:tokens=1,delay_ms=1,load_ms=600000", workers=1)
    def code():
        try:
            return service.client.get("/ready").status_code
        except httpx.TransportError:
            return None
    assert wait_for(code, "the gateway") == 503


def test_status_shape(fake):
    def idle():  # figures are told a moment later
        status = fake.status()
        return status if not any(w["active"] for w in status["nodes"][0]["workers"]) else None

    status = wait_for(idle, "free slots")
    assert set(status) >= {"nodes", "response_workers", "gateways", "broker", "queue"}
    node, = status["nodes"]
    assert {"name", "address", "metrics_url", "pid", "workers"} <= set(node)
    assert len(node["workers"]) == 2
    for worker in node["workers"]:
        assert {"id", "pid", "device", "model", "state", "slots", "active"} <= set(worker)
        assert worker["state"] == "ready" and worker["slots"] == 4 and worker["active"] == 0
    assert len(status["response_workers"]) == 2
    assert all({"id", "pid"} <= set(r) for r in status["response_workers"])
    gateway, = status["gateways"]
    assert {"id", "pid", "url"} <= set(gateway)
    assert gateway["url"].endswith(f":{fake.port}")
    assert {"url", "pid"} <= set(status["broker"])
    assert {"waiting", "in_flight", "limit"} <= set(status["queue"])
    pids = [node["pid"], gateway["pid"], status["broker"]["pid"],
            *(w["pid"] for w in node["workers"]), *(r["pid"] for r in status["response_workers"])]
    assert len(set(pids)) == len(pids)
    assert set(pids) <= {fake.process.pid, *fake.family}


def test_ask(fake):
    reply = run_json("ask", "--url", fake.url, "--json", "omega tokens=4")
    assert set(reply) >= {"prompter", "prompt_id", "prompt", "response_id", "response",
                          "inference_worker", "response_worker", "node", "finish_reason", "usage"}
    assert reply["prompt"] == "omega tokens=4"
    assert reply["response"] == fake_text("omega", 4)
    assert reply["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == 4


def test_ask_plain(fake):
    done = run("ask", "--url", fake.url, "omega tokens=4", check=0)
    assert done.stdout.strip() == fake_text("omega", 4).strip()
    assert "\x1b" not in done.stdout + done.stderr


def test_chat_verb(fake):
    """A conversation through pipes: a question a line, plain text back, an end at end of file."""
    done = run("chat", "--url", fake.url, stdin="uno tokens=2\ndue tokens=3\n", check=0)
    assert fake_text("uno", 2).strip() in done.stdout
    assert fake_text("due", 3).strip() in done.stdout
    assert "\x1b" not in done.stdout


def test_generate():
    reply = run_json("generate", "--model", "fake:tokens=3,delay_ms=0", "--json", "solo")
    assert set(reply) >= {"input_ids", "output_ids", "text", "finish_reason", "timings"}
    assert reply["text"] == fake_text("solo", 3)
    assert len(reply["output_ids"]) == 3
    limited = run_json("generate", "--model", "fake:tokens=30,delay_ms=0", "--json",
                       "--params", json.dumps({"max_tokens": 2}), "solo")
    assert limited["text"] == fake_text("solo", 2)
    assert limited["finish_reason"] == "length"


@pytest.mark.parametrize("verb", ["up", "node", "gateway", "infer", "respond", "telemetry", "chat",
                                  "ask", "load", "status", "generate", "convert"])
def test_help(verb):
    done = run(verb, "--help", check=0)
    assert verb in done.stdout
    assert done.stderr == ""


def test_usage_errors():
    for arguments in (["frobnicate"], ["up", "--no-such-option"], ["up", "--port", "many"],
                      ["up", "--port", "99999"], ["ask"]):
        done = run(*arguments)
        assert done.returncode == 64, (arguments, done.returncode)
        assert done.stdout == ""
        assert len(done.stderr.strip().splitlines()) <= 3, done.stderr
