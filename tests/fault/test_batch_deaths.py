"""Each line of a batch is answered once, whatever dies or hangs meanwhile."""

import os
import signal
import time

import pytest

from batches import answers, begin, check_chats, client, end, line
from harness import wait_for

LINES, TOKENS = 240, 10


def wait_some(one, batch, least=20):
    wait_for(lambda: one.batches.retrieve(batch.id).request_counts.completed >= least,
             "some answers", 60)


def check_all(one, batch):
    done = end(one, batch, 120)
    assert done.status == "completed", done
    assert (done.request_counts.completed, done.request_counts.failed) == (LINES, 0), \
        answers(one, done.error_file_id)
    check_chats(answers(one, done.output_file_id), range(LINES), TOKENS)


@pytest.fixture
def running(start):
    """A service of two gateways, a batch that the second moves, and a client of the first."""
    service = start(workers=2, slots=4, gateways=2, model=f"fake:tokens={TOKENS},delay_ms=10")
    batch = begin(client(service, gateway=1), [line(i) for i in range(LINES)])
    one = client(service, retries=8)
    wait_some(one, batch)
    return service, batch, one


def test_the_broker_dies(running):
    service, batch, one = running
    old = service.status()["broker"]["pid"]
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: service.status()["broker"]["pid"] not in (0, old), "the broker's return")
    check_all(one, batch)


def test_a_worker_dies(running):
    service, batch, one = running
    os.kill(service.workers()[0]["pid"], signal.SIGKILL)
    check_all(one, batch)


def test_its_gateway_hangs_and_comes_back(running):
    """Cut off for longer than a silence that means gone: another has taken the batch over, and what
    the first still thinks of it must not get into its files."""
    service, batch, one = running
    pid = next(g["pid"] for g in service.status()["gateways"] if g["id"] == "gateway-1")
    log = service.state_dir / "logs" / "gateway-0.log"
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: f"batch.claimed id={batch.id.removeprefix('batch_')}" in log.read_text(),
                 "the other gateway's claim", 30)
    finally:
        os.kill(pid, signal.SIGCONT)
    check_all(one, batch)
    wait_for(lambda: "another gateway has taken it over" in
             (service.state_dir / "logs" / "gateway-1.log").read_text(), "its leaving")


def test_gateways_die_one_after_the_other(running):
    service, batch, one = running
    for name in ("gateway-1", "gateway-0"):
        pid = next(g["pid"] for g in service.status()["gateways"] if g["id"] == name)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: service.ready() and service.ready(service.gateway_url(1)), "both again")
        time.sleep(2)
    check_all(one, batch)
