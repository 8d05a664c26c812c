"""Each line of a batch is answered once, whatever dies or hangs meanwhile."""

import os
import signal
import time

import pytest

from batches import answers, begin, check_chats, client, end, line
from harness import fake_text, kill, wait_for
from test_deaths import broker_pid, gateway_pid

LINES, TOKENS = 240, 10
SLOW_TOKENS = 400  # of 20 ms: longer than a gateway may be silent
SLOW_TEXT = fake_text("slow", SLOW_TOKENS)


def wait_some(one, batch, least=20):
    wait_for(lambda: one.batches.retrieve(batch.id).request_counts.completed >= least,
             "some answers", 60)


def check_all(one, batch, *slow):
    done = end(one, batch, 120)
    assert done.status == "completed", done
    assert (done.request_counts.completed, done.request_counts.failed) == (LINES + len(slow), 0), \
        answers(one, done.error_file_id)
    found = answers(one, done.output_file_id)
    check_chats({name: found.pop(name) for name in [f"request-{i}" for i in range(LINES)]},
                range(LINES), TOKENS)
    assert [found.pop(name)["response"]["body"]["choices"][0]["message"]["content"]
            for name in slow] == [SLOW_TEXT] * len(slow)
    assert not found


def begun(start, *more):
    """A service of two gateways, a batch that the second moves, and a client of the first."""
    service = start(workers=2, slots=4, gateways=2, model=f"fake:tokens={TOKENS},delay_ms=10")
    batch = begin(client(service, gateway=1), [*more, *(line(i) for i in range(LINES))])
    one = client(service, retries=8)
    wait_some(one, batch)
    return service, batch, one


@pytest.fixture
def running(start):
    return begun(start)


def test_the_broker_dies(running):
    service, batch, one = running
    old = broker_pid(service)
    kill(old)
    broker_pid(service, old)
    check_all(one, batch)


def test_a_worker_dies(running):
    service, batch, one = running
    os.kill(service.workers()[0]["pid"], signal.SIGKILL)
    check_all(one, batch)


def test_its_gateway_hangs_and_comes_back(start):
    """Cut off for longer than a silence that means gone: another has taken the batch over, and what
    the first still thinks of it must not get into its files."""
    slow = line("slow")  # it ends when the gateway is gone: so the batch is not over before
    slow["body"]["messages"][0]["content"] = f"slow tokens={SLOW_TOKENS} delay_ms=20"
    service, batch, one = begun(start, slow)
    pid = gateway_pid(service, 1)
    log = service.state_dir / "logs" / "gateway-0.log"
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: f"batch.claimed id={batch.id.removeprefix('batch_')}" in log.read_text(),
                 "the other gateway's claim", 30)
    finally:
        os.kill(pid, signal.SIGCONT)
    check_all(one, batch, "request-slow")
    wait_for(lambda: "another gateway has taken it over" in
             (service.state_dir / "logs" / "gateway-1.log").read_text(), "its leaving")


def test_gateways_die_one_after_the_other(running):
    service, batch, one = running
    for index in (1, 0):
        kill(gateway_pid(service, index))
        wait_for(lambda: service.ready() and service.ready(service.gateway_url(1)), "both again")
        time.sleep(2)
    check_all(one, batch)
