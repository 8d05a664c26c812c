"""Text that must not stay: pieces that a killed broker brought back, records of a gateway that was
gone before they were made."""

import secrets

import pytest

from harness import fake_text, kill, wait_for
from test_deaths import Endless, broker_pid, responder_pids

TTL_S = 30  # they go seconds after it, not when they are old


def pieces_of(broker, prompt):
    return broker.subjects("TOKENS", f"tok.*.{prompt}.p")


def bring_back(broker, gateway, prompt, count=3):
    """Stores pieces behind the record, as a broker that lost its purges has them."""
    for first in range(count):
        assert broker.put(f"tok.{gateway}.{prompt}.p", {
            "v": 1, "nonce": secrets.token_hex(8), "first": first, "pieces": [[f"secret.{first} ", [7]]],
            "done": False}) > 0


@pytest.mark.parametrize("role", ["broker", "response workers"])
def test_pieces_that_came_back_go_again(start, role):
    """And those of a reply that is being said stay."""
    service = start(workers=1, slots=4, model="fake:tokens=20,delay_ms=5")
    reply = service.ask("ended tokens=5")
    prompt = reply["wyvern"]["prompt_id"]
    running = Endless(service, "running")
    with service.broker() as broker:
        gateway, = {name.split(".")[1] for name in broker.subjects("TOKENS", f"tok.*.{prompt}.c")}
        wait_for(lambda: not pieces_of(broker, prompt), "the purge")
        bring_back(broker, gateway, prompt)
    for pid in [broker_pid(service)] if role == "broker" else responder_pids(service):
        kill(pid)
    with service.returned_broker() as broker:
        wait_for(lambda: not pieces_of(broker, prompt), "the second purge", TTL_S)
        assert pieces_of(broker, running.prompt_id)
    wait_for(service.ready, "the gateway's return")
    running.check_end()


def test_a_record_made_long_after_its_gateway_died_is_forgotten(start):
    """The response workers have looked at what that gateway left, and forgotten it themselves."""
    service = start(workers=1, slots=4, model="fake:tokens=20,delay_ms=5")
    name = service.service_ini()["model"]["name"]
    with service.broker() as broker:
        first = broker.put_prompt(name, "early tokens=3")
        ending = broker.record(first)
        assert ending["text"] == fake_text("early", 3)

        def forgotten(prompt):
            return broker.record(prompt).get("text") is None

        wait_for(lambda: forgotten(first), "the first look", TTL_S)
        late, kept = secrets.token_hex(16), secrets.token_hex(16)
        for prompt, detached in ((late, False), (kept, True)):  # as a worker puts an ending
            broker.subscribe(f"live.*.{prompt}")
            broker.put(f"response.{prompt}", {**ending, "id": prompt, "detached": detached})
            first_record, *_ = broker.messages(lambda got: got, 30)
            assert first_record.json()["text"] == ending["text"]
        wait_for(lambda: forgotten(late), "the second look", TTL_S)
        assert broker.record(kept)["text"] == ending["text"]
