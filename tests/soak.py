"""Load on a service whose processes are killed and halted all the time, and the audit afterwards.

Players ask as people and programs do: streams that are read to the end or left, replies kept and
resumed at any gateway, the same Idempotency-Key at two gateways at once, batches, cancels, erasures,
a stranger who tries others' ids.  The fake engine numbers its pieces (TAG.0 TAG.1 …), so that each
text is known; a player that sees anything but what was promised says so in the ledger.
"""

import collections
import contextlib
import json
import os
import random
import secrets
import signal
import sys
import threading
import time
import traceback

import httpx
import openai

from batches import answers, begin, end, line
from harness import House, fake_text, keeps_freed_memory, process_start, sse_events, wait_for

AWAY = (httpx.TransportError, ConnectionError)  # a gateway that is killed cuts its connections
BACK_S = 60           # so long a service may take to answer again
DEATHS = 3            # workers that die of a prompt before it is given up (docs/API.md)
HALT_S = 1.0          # a gateway halted for so long is not taken for dead, on a busy machine either
SILENT_S = 3.5        # who stood still for longer may be: it says what it is each second, for 5 s
LATE_S = 5            # so late something of us may notice or do what it is about, on such a machine
GROWTH_KIB = 16 << 10  # of a process of ours at rest, before and after a load without deaths
BATCH_LINES = 24


class Ledger:
    """What happened, by name; what must not happen; and who died when."""

    def __init__(self):
        self.lock = threading.Lock()
        self.counts = collections.Counter()
        self.faults = []
        self.deaths = []  # (time, kind)
        self.pause_s = 0.0  # the longest between two pieces of a stream that came whole

    def count(self, name, number=1):
        with self.lock:
            self.counts[name] += number

    def fault(self, text):
        with self.lock:
            self.faults.append(text)
        print(f"FAULT {text}", file=sys.stderr, flush=True)

    def died(self, kind, number=1):
        with self.lock:
            self.deaths.append((time.monotonic(), kind))
            self.counts[f"killed: {kind}"] += number

    def deaths_since(self, when, kind=None):
        with self.lock:
            return sum(1 for at, k in self.deaths
                       if at >= when and (kind is None or k.startswith(kind)))

    def paused(self, seconds):
        with self.lock:
            self.pause_s = max(self.pause_s, seconds)

    def report(self):
        return "\n".join([f"{number:8d}  {name}" for name, number in sorted(self.counts.items())]
                         + [f"{self.pause_s:8.2f}  s, the longest pause in a stream"])


class Soak:
    """players(): threads that ask until over() is called; storm(): deaths; audit(): the end."""

    def __init__(self, folder, seed, gateways=2, **options):
        self.house = House(folder, gateways=gateways, nodes=2, workers=4, slots=4,
                           model="fake:tokens=20,delay_ms=10", **options)
        self.service = self.house.service
        self.seed = seed
        self.ledger = Ledger()
        self.stopping = threading.Event()
        self.threads = []
        self.kept = {}    # id of a response that stays → its text
        self.owned = set()  # ids of prompts whose text must not be kept
        self.erased = set()
        self.deleted = []  # ids of files
        self.live = []    # some ids of ann's, for the stranger

    # ---- asking ----

    def url(self, gateway, path):
        return self.service.gateway_url(gateway) + path

    def headers(self, who="ann", **more):
        return {"authorization": f"Bearer {self.house.keys[who]}", **more}

    def until_answered(self, rng, method, path, accept=(200,), who="ann", headers=None, **fields):
        """Asks at one gateway after another until one answers; only a service in trouble may
        refuse, and only for a while."""
        begun = time.monotonic()
        while True:
            why = "no answer"
            with contextlib.suppress(*AWAY):
                reply = httpx.request(method, self.url(rng.randrange(2), path), trust_env=False,
                                      headers=self.headers(who, **(headers or {})), timeout=60,
                                      **fields)
                if reply.status_code in accept:
                    return reply
                if reply.status_code != 503:
                    raise AssertionError(f"{method} {path}: {reply.status_code} {reply.text}")
                why = reply.text
            if time.monotonic() - begun > BACK_S:
                raise AssertionError(f"{method} {path}: refused for {BACK_S} s: {why}")
            if self.ledger.deaths_since(begun - BACK_S) == 0:
                raise AssertionError(f"{method} {path}: refused in a calm: {why}")
            self.ledger.count("asked again")
            time.sleep(rng.uniform(0.05, 0.3))

    @staticmethod
    def script(rng):
        """(tag, tokens, the prompt's text)"""
        tag, tokens = "s" + secrets.token_hex(6), rng.randint(1, 80)
        return tag, tokens, f"{tag} tokens={tokens} delay_ms={rng.randint(0, 40)}"

    def may_fail(self, code, begun):
        """A prompt that was in hand while three workers were killed is given up, and says so; so is
        one whose gateway was taken for dead."""
        begun -= LATE_S
        if code == "worker_died" and self.ledger.deaths_since(begun, "worker") >= DEATHS:
            self.ledger.count("given up after three deaths")
            return True
        if code == "owner_gone" and self.ledger.deaths_since(begun, "gateway taken for dead"):
            self.ledger.count("given up with its gateway")
            return True
        return False

    # ---- players ----

    def chat(self, rng):
        """A streamed reply of its connection: read to its end, or left."""
        tag, tokens, text = self.script(rng)
        leave = rng.randrange(tokens) if rng.random() < 0.25 else None
        body = {"model": "default", "stream": True, "messages": [{"role": "user", "content": text}]}
        begun = heard = time.monotonic()
        said, ended, pause_s = "", None, 0.0
        try:
            with httpx.stream("POST", self.url(rng.randrange(2), "/v1/chat/completions"), json=body,
                              headers=self.headers(), trust_env=False, timeout=BACK_S) as reply:
                if reply.status_code != 200:
                    reply.read()
                    if reply.status_code != 503 or self.ledger.deaths_since(begun - BACK_S) == 0:
                        raise AssertionError(f"{reply.status_code} {reply.text}")
                    self.ledger.count("chat: refused")
                    return time.sleep(0.2)
                for _, data in sse_events(reply.iter_lines()):
                    if data == "[DONE]":
                        ended = ended or "done"
                        break
                    chunk = json.loads(data)
                    if "error" in chunk:
                        ended = chunk["error"]["code"]
                        continue
                    self.owned.add(chunk["id"].removeprefix("chatcmpl-"))
                    for choice in chunk["choices"]:
                        said += choice["delta"].get("content") or ""
                    now = time.monotonic()
                    heard, pause_s = now, max(pause_s, now - heard)
                    if leave is not None and said.count(" ") > leave:
                        ended = "left"
                        break
        except AWAY as error:
            # not there yet, or cut off by its death
            away = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            if self.ledger.deaths_since(begun - (BACK_S if away else LATE_S)) == 0:
                raise
            ended = "away" if away else "cut"
        whole = fake_text(tag, tokens)
        if not whole.startswith(said) or (ended == "done" and said != whole):
            raise AssertionError(f"chat {tag}, {tokens} tokens, {ended}: {said!r}")
        if ended == "away":
            time.sleep(0.2)
        elif ended not in ("done", "left", "cut") and not self.may_fail(ended, begun):
            raise AssertionError(f"chat {tag} ended with {ended} after {len(said)} characters")
        self.ledger.count(f"chat: {ended}")
        if ended == "done":
            self.ledger.paused(pause_s)

    def follow(self, rng, response_id, seen):
        """Reads on from what was seen, at any gateway, until the end or a cut; every number once.
        True: it has ended."""
        after = seen[-1]["sequence_number"] if seen else -1
        most = rng.randint(1, 60) if rng.random() < 0.5 else 10 ** 9
        with contextlib.suppress(*AWAY), httpx.stream(
                "GET", self.url(rng.randrange(2), f"/v1/responses/{response_id}"),
                params={"stream": "true", "starting_after": after}, headers=self.headers(),
                trust_env=False, timeout=BACK_S) as reply:
            if reply.status_code != 200:
                reply.read()
                assert reply.status_code == 503, f"{reply.status_code} {reply.text}"
                time.sleep(0.2)
                return False
            for name, data in sse_events(reply.iter_lines()):
                event = json.loads(data)
                assert event["type"] == name
                if "sequence_number" not in event:  # the error of a gateway that can't go on
                    raise AssertionError(f"follow {response_id}: {data}")
                after += 1
                assert event["sequence_number"] == after, \
                    f"{response_id}: {event['sequence_number']} where {after} was due"
                seen.append(event)
                if name in ("response.completed", "response.incomplete", "response.failed"):
                    return True
                most -= 1
                if most == 0:
                    self.ledger.count("response: reader left")
                    return False
        return False

    def response(self, rng):
        """A reply that is kept: made, followed with cuts, perhaps cancelled, perhaps erased."""
        tag, tokens, text = self.script(rng)
        begun = time.monotonic()
        made = self.until_answered(
            rng, "POST", "/v1/responses", headers={"idempotency-key": tag},
            json={"model": "default", "input": text, "background": True}).json()
        cancel_at = rng.randrange(tokens) if rng.random() < 0.15 else None
        self.live = [made["id"], *self.live[:20]]
        seen = []
        while not self.follow(rng, made["id"], seen):
            if cancel_at is not None and len(seen) > cancel_at:
                cancel_at = None
                self.until_answered(rng, "POST", f"/v1/responses/{made['id']}/cancel")
            if time.monotonic() - begun > 2 * BACK_S:
                raise AssertionError(f"{made['id']} does not end; {len(seen)} events")
        last = seen[-1]["response"]
        said = "".join(e["delta"] for e in seen if e["type"] == "response.output_text.delta")
        whole, status = fake_text(tag, tokens), last["status"]
        ids = {e["response"]["id"] for e in seen if "response" in e}
        if ids != {made["id"]} or not whole.startswith(said) or \
                (status == "completed" and said != whole):
            raise AssertionError(f"response {tag}, {tokens} tokens, {status}: {ids} {said!r}")
        if status == "failed":
            if not self.may_fail(last["wyvern"]["error_code"], begun):
                raise AssertionError(f"response {tag} failed: {last['wyvern']}")
        elif status not in ("completed", "cancelled"):
            raise AssertionError(f"response {tag} ended {status}")
        self.ledger.count(f"response: {status}")
        if rng.random() < 0.4:
            # 404: the answer to the first DELETE was lost
            self.until_answered(rng, "DELETE", f"/v1/responses/{made['id']}", accept=(200, 404))
            self.until_answered(rng, "GET", f"/v1/responses/{made['id']}", accept=(404,))
            self.erased.add(made["id"])
            self.ledger.count("response: erased")
        else:
            self.kept[made["id"]] = (status, said)

    def twins(self, rng):
        """One key, several requests at once at two gateways: one reply."""
        tag, tokens, text = self.script(rng)
        begun = time.monotonic()
        body = {"model": "default", "messages": [{"role": "user", "content": text}]}
        got, errors = [], []

        def one():
            try:
                got.append(self.until_answered(
                    random.Random(secrets.randbits(64)), "POST", "/v1/chat/completions",
                    accept=(200, 500), headers={"idempotency-key": tag}, json=body).json())
            except Exception as error:  # told by the player itself
                errors.append(error)

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        failed = [g["error"]["code"] for g in got if "error" in g]
        if failed:
            if not all(self.may_fail(code, begun) for code in failed):
                raise AssertionError(f"twins {tag}: {failed}")
            return
        ids = {g["id"] for g in got}
        texts = {g["choices"][0]["message"]["content"] for g in got}
        if len(ids) != 1 or texts != {fake_text(tag, tokens)}:
            raise AssertionError(f"twins {tag}: {ids} {texts}")
        self.ledger.count("twins")

    def stranger(self, rng):
        """bob finds nothing of ann's."""
        time.sleep(rng.uniform(0.1, 0.5))
        if self.live:
            path = f"/v1/responses/{rng.choice(self.live)}"
            method, end_of_path = rng.choice(
                [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "?stream=true"),
                 ("GET", "/input_items")])
            reply = self.until_answered(rng, method, path + end_of_path, accept=(404,), who="bob")
            assert reply.json()["error"]["message"]
            self.ledger.count("stranger refused")

    def task(self, rng):
        """What is no text: counted tokens, vectors."""
        time.sleep(rng.uniform(0.05, 0.3))
        content = "one two three " * rng.randint(1, 20)
        tokens = self.until_answered(rng, "POST", "/tokenize", json={"content": content}).json()
        back = self.until_answered(rng, "POST", "/detokenize", json=tokens).json()
        assert back["content"] == content, back
        self.ledger.count("tokenize and back")

    def file(self, rng):
        """What is uploaded is read back as it was; what is deleted is gone for good."""
        time.sleep(rng.uniform(0.1, 1))
        data = rng.randbytes(rng.choice((10, 30_000, 700_000)))
        made = self.until_answered(
            rng, "POST", "/v1/files", data={"purpose": "batch"},
            files={"file": ("soak.bin", data, "application/octet-stream")}).json()
        got = self.until_answered(rng, "GET", f"/v1/files/{made['id']}/content")
        if got.content != data:
            raise AssertionError(f"{made['id']}: {len(got.content)} bytes of {len(data)}")
        self.until_answered(rng, "DELETE", f"/v1/files/{made['id']}", accept=(200, 404))
        self.until_answered(rng, "GET", f"/v1/files/{made['id']}", accept=(404,))
        self.deleted.append(made["id"])
        self.ledger.count("file and back")

    def batch(self, rng):
        """Each line of a batch is answered once."""
        base = rng.randrange(10 ** 6)
        numbers = range(base, base + BATCH_LINES)
        begun = time.monotonic()
        one = openai.OpenAI(base_url=self.url(rng.randrange(2), "/v1"), max_retries=20,
                            api_key=self.house.keys["ann"],
                            http_client=httpx.Client(trust_env=False))
        with one:
            made = begin(one, [line(i) for i in numbers])
            done = end(one, made, 4 * BACK_S)
            assert done.status == "completed", done
            found = answers(one, done.output_file_id)
            failed = answers(one, done.error_file_id)
            for number in numbers:
                name = f"request-{number}"
                assert (name in found) != (name in failed), f"{name} of {made.id}"
                if name in failed:
                    code = failed[name]["response"]["body"]["error"]["code"]
                    assert self.may_fail(code, begun), failed[name]
                else:
                    body = found[name]["response"]["body"]
                    said = body["choices"][0]["message"]["content"]
                    assert said == fake_text(f"t{number}", 20), said
            assert len(found) + len(failed) == BATCH_LINES
        self.ledger.count("batch")

    PLAYERS = (("chat", 8), ("response", 6), ("twins", 1), ("stranger", 1), ("task", 1),
               ("batch", 1), ("file", 2))

    def play(self, name, seed):
        rng = random.Random(seed)
        while not self.stopping.is_set():
            try:
                getattr(self, name)(rng)
            except Exception as error:  # every one is kept: in the end there must be none
                frames = [f for f in traceback.extract_tb(error.__traceback__)
                          if f.filename == __file__]
                self.ledger.fault(f"{name}, line {frames[-1].lineno}: {type(error).__name__}: "
                                  f"{error}")
                time.sleep(1)

    def begin(self):
        self.stopping.clear()
        self.threads = [
            threading.Thread(target=self.play, args=(name, f"{self.seed}.{name}.{i}"), daemon=True)
            for name, count in self.PLAYERS for i in range(count)]
        for thread in self.threads:
            thread.start()

    def end(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(5 * BACK_S)
            assert not thread.is_alive(), "a player does not end\n" + self.service.logs()

    # ---- deaths ----

    def status(self):
        for gateway in (0, 1):
            with contextlib.suppress(*AWAY, ValueError, KeyError):
                with self.house.http(gateway) as http:
                    return http.get("/wyvern/status").json()
        return None

    def victim(self, rng, status):
        """(kind, pid, seconds that it is halted; None: it is killed)"""
        kind = rng.choices(
            ["worker", "gateway", "broker", "response worker", "node", "halted worker",
             "halted broker", "halted gateway"], [6, 4, 4, 3, 1, 2, 2, 2])[0]
        which = kind.removeprefix("halted ")
        pids = {
            "worker": [w["pid"] for n in status["nodes"] for w in n["workers"]],
            "gateway": [g["pid"] for g in status["gateways"]],
            "broker": [status["broker"]["pid"]],
            "response worker": [r["pid"] for r in status["response_workers"]],
            "node": [n["pid"] for n in status["nodes"]],
        }[which]
        pids = [pid for pid in pids if pid]
        if not pids:
            return None
        most = HALT_S if which == "gateway" else 8
        halt_s = rng.uniform(0.2, most) if kind.startswith("halted") else None
        return kind, rng.choice(pids), halt_s

    def storm(self, seconds):
        """Somebody dies or stands still, again and again."""
        rng = random.Random(f"{self.seed}.storm")
        over = time.monotonic() + seconds
        while time.monotonic() < over:
            time.sleep(rng.uniform(0.5, 4))
            status = self.status()
            victim = self.victim(rng, status) if status else None
            if victim is None:
                continue
            kind, pid, halt_s = victim
            with contextlib.suppress(ProcessLookupError):
                self.ledger.died(kind)  # before: a player may see it before the call is back
                if halt_s is None:
                    os.kill(pid, signal.SIGKILL)
                    if kind == "node":
                        self.ledger.died("worker of it")
                    continue
                halted = time.monotonic()
                os.kill(pid, signal.SIGSTOP)
                time.sleep(min(halt_s, SILENT_S))
                which = kind.removeprefix("halted ")
                if halt_s > SILENT_S or time.monotonic() - halted > SILENT_S:
                    self.ledger.died(f"{which} taken for dead", 0)  # a worker's death, then
                    time.sleep(max(0, halt_s - SILENT_S))
                self.ledger.died(kind, 0)  # until now
                os.kill(pid, signal.SIGCONT)

    # ---- rest ----

    def at_rest(self):
        with contextlib.suppress(*AWAY):
            status = self.status()
            if status is None or not all(self.service.ready(self.url(i, "")) for i in range(2)):
                return False
            workers = [w for node in status["nodes"] for w in node["workers"]]
            # Who was killed is still told of until its successor is heard, or for 5 s.
            return (len(status["gateways"]) == 2 and len(workers) == 4 and
                    len(status["response_workers"]) == 2 and len(status["nodes"]) == 2 and
                    all(pid and process_start(pid) for pid in self.pids(status)) and
                    all(w["state"] == "ready" and w["active"] == 0 for w in workers) and
                    status["queue"]["waiting"] == status["queue"]["in_flight"] == 0)
        return False

    def rest(self):
        wait_for(self.at_rest, "a service at rest", 2 * BACK_S)

    def sizes(self):
        """{(pid, start): (name, resident KiB, open files)} of a service at rest."""
        self.rest()
        time.sleep(6)  # what is tidied up now and then, is
        self.rest()
        found = {}
        for pid in self.pids(self.status()):
            with contextlib.suppress(OSError, StopIteration):
                with open(f"/proc/{pid}/status", encoding="ascii") as status:
                    fields = dict(row.split(":", 1) for row in status)
                found[pid, process_start(pid)] = (
                    fields["Name"].strip(), int(fields["VmRSS"].split()[0]),
                    len(os.listdir(f"/proc/{pid}/fd")))
        return found

    @staticmethod
    def pids(status):
        return ([g["pid"] for g in status["gateways"]] +
                [r["pid"] for r in status["response_workers"]] +
                [n["pid"] for n in status["nodes"]] +
                [w["pid"] for n in status["nodes"] for w in n["workers"]] +
                [status["broker"]["pid"]])

    def check_growth(self, before, after):
        """A load without deaths leaves nobody larger."""
        assert before.keys() == after.keys(), "somebody died in the calm"
        for key, (name, kib, files) in after.items():
            _, kib_before, files_before = before[key]
            # (nats-server's size follows what it stores, and its collector.)
            sized = "nats" not in name and not keeps_freed_memory()
            if (sized and kib - kib_before > GROWTH_KIB) or files - files_before > 16:
                self.ledger.fault(f"{name} {key[0]} grew from {kib_before} KiB and {files_before} "
                                  f"files to {kib} KiB and {files}")
            self.ledger.counts[f"KiB at rest: {name} {key[0]}, {kib_before} KiB before"] = kib

    def check_pieces(self, broker):
        """Pieces are purged when there is a record; again, if the broker brought them back."""
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not broker.subjects("TOKENS", "tok.*.*.p"), "no pieces left", BACK_S)
            return
        names = list(broker.subjects("TOKENS", "tok.*.*.p"))
        self.ledger.fault(f"pieces left of {len(names)} replies: {names[:20]}")

    def texts_of_owned(self, broker):
        """Records of what was not to be kept, with a text in them."""
        found = []
        for name in broker.subjects("REPLIES", "reply.>"):
            record = broker.last("REPLIES", name).json()
            if record.get("text") and (not record["detached"] or
                                       name.rpartition(".")[2] in self.owned):
                found.append(name)
        return found

    def audit(self):
        """What is stored now: nothing of what has ended but the records, each once, texts only
        of what is kept."""
        self.rest()
        with self.service.broker() as broker:
            wait_for(lambda: broker.count("PROMPTS") == 0, "an empty prompt queue", BACK_S)
            self.check_pieces(broker)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: not self.texts_of_owned(broker), "no text of them", BACK_S, 1)
            if left := self.texts_of_owned(broker):
                self.ledger.fault(f"text kept of {len(left)} replies: {left[:20]}")
            names = broker.subjects("REPLIES", "reply.>")
            self.ledger.count("records", len(names))
            if twice := [name for name, count in names.items() if count > 1]:
                self.ledger.fault(f"an older record is still stored of {twice}")
            ids = collections.Counter(name.rpartition(".")[2] for name in names)
            if twice := [i for i, count in ids.items() if count > 1]:
                self.ledger.fault(f"more than one record of {twice}")
            tags = collections.Counter()
            for name in names:
                text = broker.last("REPLIES", name).json().get("text") or ""
                tags[text.partition(".")[0]] += 1
            if twice := [tag for tag, count in tags.items() if count > 1 and tag.startswith("s")]:
                self.ledger.fault(f"generated twice: {twice}")
        rng = random.Random(self.seed)
        for response_id, (status, said) in self.kept.items():
            got = self.until_answered(rng, "GET", f"/v1/responses/{response_id}").json()
            text = "".join(part["text"] for item in got["output"] for part in item["content"])
            if (got["status"], text) != (status, said):
                self.ledger.fault(f"{response_id} was {status} {said!r}, is {got['status']} {text!r}")
        for response_id in self.erased:
            self.until_answered(rng, "GET", f"/v1/responses/{response_id}", accept=(404,))
        for file_id in self.deleted:
            got = self.until_answered(rng, "GET", f"/v1/files/{file_id}", accept=(200, 404))
            if got.status_code == 200:
                self.ledger.fault(f"{file_id} was deleted, and is there again")
