"""Clients that leave while the broker is asked about what they wanted: each kind of request that is
a visit of the gateway's.  Run under ASan this is about memory, too."""

import json
import os
import signal
import socket
import time

import httpx

from harness import openai_client, process_start, wait_for
from test_deaths import gateway_pid

LINE = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/completions",
                   "body": {"model": "default", "prompt": "hi"}}).encode()
FORM = (b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
        b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n%s\r\n--b--\r\n')


def stored(service):
    """The files of which there is a part.  (What is left of a deleted one, its emptied meta, is
    none.)"""
    with service.broker() as broker:
        names = broker.subjects("OBJECTS", "obj.file.>")
    return {name.split(".")[2] for name in names if not name.endswith(".meta")}


def test_they_leave_while_the_broker_is_asked(start):
    service = start(workers=1, slots=4)
    client = openai_client(service)
    kept = client.files.create(file=("in.jsonl", LINE), purpose="batch")
    spare = client.files.create(file=("spare", b"may go"), purpose="batch")
    batch = client.batches.create(input_file_id=kept.id, endpoint="/v1/completions",
                                  completion_window="1h")
    made = client.responses.create(model="default", input="made tokens=3")
    running = client.responses.create(model="default", input="r tokens=100000 delay_ms=10",
                                      background=True)
    wait_for(lambda: client.batches.retrieve(batch.id).status == "completed", "the batch", 60)
    chat = {"model": "default", "messages": [{"role": "user", "content": "hi"}]}
    keyed = "Content-Type: application/json\r\nIdempotency-Key: left\r\n"
    requests = [
        ("POST", "/v1/files", "Content-Type: multipart/form-data; boundary=b\r\n", FORM % LINE),
        # of three chunks, of which two are put at once
        ("POST", "/v1/files", "Content-Type: multipart/form-data; boundary=b\r\n",
         FORM % (b"x" * (3 << 19))),
        ("GET", "/v1/files", "", b""),
        ("GET", f"/v1/files/{kept.id}", "", b""),
        ("GET", f"/v1/files/{kept.id}/content", "", b""),
        ("DELETE", f"/v1/files/{spare.id}", "", b""),
        ("GET", "/v1/batches", "", b""),
        ("GET", f"/v1/batches/{batch.id}", "", b""),
        ("POST", f"/v1/batches/{batch.id}/cancel", "", b""),
        ("GET", f"/v1/responses/{made.id}", "", b""),
        ("GET", f"/v1/responses/{made.id}?stream=true", "", b""),
        ("GET", f"/v1/responses/{made.id}/input_items", "", b""),
        ("GET", f"/v1/responses/{running.id}", "", b""),
        ("GET", f"/v1/responses/{running.id}?stream=true", "", b""),
        ("POST", "/v1/chat/completions", keyed, json.dumps(chat).encode()),
        ("POST", "/v1/responses", "", json.dumps(
            {"model": "default", "input": "next", "previous_response_id": made.id}).encode()),
    ]
    gateway, broker = gateway_pid(service, 0), service.status()["broker"]["pid"]
    born = process_start(gateway)
    for left_before in (True, False):
        os.kill(broker, signal.SIGSTOP)
        try:
            raws = []
            for method, path, headers, body in requests:
                raw = socket.create_connection(("127.0.0.1", service.port))
                raw.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}"
                            f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                raws.append(raw)
            if not left_before:
                time.sleep(0.3)  # they are asked about; now the broker comes as they go
                os.kill(broker, signal.SIGCONT)
            for raw in raws:
                raw.close()
            # so that the gateway has noticed that all have left
            assert httpx.get(f"{service.url}/health", trust_env=False, timeout=60).is_success
        finally:
            os.kill(broker, signal.SIGCONT)
        wait_for(lambda: httpx.get(f"{service.url}/v1/files", trust_env=False,
                                   timeout=60).is_success, "the broker again", 60)
    # No file is there in part: what came through is whole, the rest was taken back.
    assert client.files.content(kept.id).read() == LINE
    wait_for(lambda: stored(service) == {file.id.removeprefix("file-") for file in
                                         client.files.list()}, "no file in part", 60)
    assert client.batches.retrieve(batch.id).status == "completed"
    assert client.responses.retrieve(made.id).output_text == "made.0 made.1 made.2 "
    assert client.responses.cancel(running.id).status == "cancelled"
    assert process_start(gateway) == born, "the gateway died"
