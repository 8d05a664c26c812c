"""The broker's disk space runs out: clear errors, no hang, and service again once there is room."""

import json

from harness import Stream, fake_text, wait_for


def bound(service, stream, max_bytes):
    """Changes how many bytes a stream may hold; returns the bound from before."""
    with service.broker() as broker:
        config = broker.api(f"STREAM.INFO.{stream}")["config"]
        before = config["max_bytes"]
        config["max_bytes"] = max_bytes
        answer = broker.api(f"STREAM.UPDATE.{stream}", config)
        assert "error" not in answer, json.dumps(answer)
    return before


def test_no_room_for_pieces(start):
    service = start(workers=1, slots=2, model="fake:tokens=20000,delay_ms=10")
    stream = Stream(service, "s0")
    stream.wait_text()
    before = bound(service, "TOKENS", 1)
    stream.join(60)
    assert stream.error["code"] == "storage_full", stream.error
    assert fake_text("s0", 20000).startswith(stream.text)
    # New prompts are refused at once, and say when to come back.
    refused = wait_for(lambda: (lambda r: r if r.status_code == 503 else None)(
        service.post("late tokens=1")), "the refusal")
    assert refused.json()["error"]["code"] == "storage_full"
    assert "retry-after" in refused.headers
    bound(service, "TOKENS", before)
    wait_for(lambda: service.post("again tokens=2").status_code == 200, "service again")
    assert service.text("again tokens=2") == fake_text("again", 2)
