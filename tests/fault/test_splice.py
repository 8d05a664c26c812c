"""What a broker's crash loses of a reply that was delivered already, and what its successor makes of
it: the same text goes on, another ends the reply with an error.

The test plays both workers: the real one stands still.
"""

import json
import os
import secrets
import signal
import socket

import pytest

from harness import Stream, process_start, wait_for
from test_deaths import gateway_pid

LOST = 2  # of the pieces that the first one stored


class Worker:
    """Claims a reply and stores pieces of it, as docs/PROTOCOL.md says."""

    def __init__(self, broker, gateway, prompt_id):
        self.broker = broker
        self.subject = f"tok.{gateway}.{prompt_id}"
        self.nonce = secrets.token_hex(8)
        claim = {"v": 1, "kind": "held", "nonce": self.nonce, "previous": "", "worker": "w",
                 "node": "n", "device": "cpu:0", "boot": secrets.token_hex(8), "deaths": 0,
                 "attempt": 1, "started_at": 1.0, "reason": ""}
        assert broker.put(f"{self.subject}.c", claim) > 0

    def say(self, first, texts):
        """One message for each piece; their sequences."""
        sequences = []
        for i, text in enumerate(texts):
            message = (f'{{"v":1,"nonce":"{self.nonce}","first":{first + i},'
                       f'"pieces":[[{json.dumps(text)},[7]]],"done":false}}')
            sequences.append(self.broker.request(f"{self.subject}.p", message.encode()).json()["seq"])
        return sequences


@pytest.fixture
def still(start):
    """A service whose one worker stands still."""
    service = start(workers=1, slots=4, model="fake:tokens=5,delay_ms=10")
    pid = service.workers()[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    yield service
    os.kill(pid, signal.SIGCONT)


def prompt_in_queue(broker, known):
    return wait_for(lambda: next((s for s in broker.subjects("PROMPTS", "prompt.>")
                                  if s not in known), None), "the prompt")


@pytest.mark.parametrize("same", [True, False])
def test_what_a_crash_lost_is_made_again(still, same):
    said = [f"one.{i} " for i in range(6)]
    with still.broker() as broker:
        known = set(broker.subjects("PROMPTS", "prompt.>"))
        stream = Stream(still, "hello")
        subject = prompt_in_queue(broker, known)
        prompt_id = subject.rpartition(".")[2]
        gateway = broker.request("$JS.API.DIRECT.GET.PROMPTS",
                                 {"last_by_subj": subject}).json()["gateway"]
        sequences = Worker(broker, gateway, prompt_id).say(0, said)
        wait_for(lambda: stream.text == "".join(said), "what the first one said")
        for sequence in sequences[-LOST:]:
            assert broker.api("STREAM.MSG.DELETE.TOKENS", {"seq": sequence})["success"]
        successor = Worker(broker, gateway, prompt_id)
        again = said[-LOST:] if same else [f"two.{i} " for i in range(4, 6)]
        successor.say(len(said) - LOST, again)
        successor.say(len(said), ["three.6 ", "three.7 "])
        if same:
            whole = "".join(said) + "three.6 three.7 "
            wait_for(lambda: stream.text == whole, "what the second one said")
            assert stream.error is None
        else:
            wait_for(lambda: stream.error, "an error")
            assert stream.error["code"] == "reply_diverged"
            assert stream.text == "".join(said), "a splice"


def departures(still):
    return (still.state_dir / "logs" / "gateway-0.log").read_text().count("reader.left")


def test_a_reader_leaves_while_its_reply_is_read_again(still):
    """A hole makes the gateway read the stream; the broker stands still meanwhile, and the reader
    of the reply, which is kept, goes.  What is read then finds nobody."""
    pid = gateway_pid(still, 0)
    born = process_start(pid)
    left = still.status()["broker"]["pid"]
    for _ in range(5):
        with still.broker() as broker:
            known = set(broker.subjects("PROMPTS", "prompt.>"))
            data = json.dumps({"model": "default", "input": "hello", "stream": True}).encode()
            reader = socket.create_connection(("127.0.0.1", still.port), 30)
            reader.sendall(b"POST /v1/responses HTTP/1.1\r\nHost: x\r\n"
                           b"Content-Length: %d\r\n\r\n" % len(data) + data)
            subject = prompt_in_queue(broker, known)
            assert reader.recv(1)
            gateway = broker.request("$JS.API.DIRECT.GET.PROMPTS",
                                     {"last_by_subj": subject}).json()["gateway"]
            worker = Worker(broker, gateway, subject.rpartition(".")[2])
            worker.say(1, ["later "])  # and before it in number, behind it in the stream:
            worker.say(0, ["first "] * 1)
            worker.say(2, ["hole "])
            os.kill(left, signal.SIGSTOP)
            try:
                before = departures(still)
                reader.close()
                wait_for(lambda b=before: departures(still) > b, "its leaving")
            finally:
                os.kill(left, signal.SIGCONT)
    assert process_start(pid) == born and gateway_pid(still, 0) == pid, "the gateway died"
