"""Files as OpenAI's client sends, lists, reads and deletes them; hostile forms."""

import os
import socket

import httpx
import openai
import pytest

from harness import Service, run, wait_for

MIB = 1 << 20


@pytest.fixture(scope="module")
def filed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filed")
    keys = {name: run("key", "add", name, "--keys", folder / "keys", check=0).stdout.strip()
            for name in ("ada", "bob")}
    service = Service(folder, keys=folder / "keys", gateways=2, workers=1, file_limit=6,
                      model="fake:tokens=5,delay_ms=1")
    service.keys = keys
    with service:
        yield service


def client(service, name="ada", gateway=0):
    return openai.OpenAI(base_url=service.gateway_url(gateway) + "/v1", api_key=service.keys[name],
                         max_retries=0, http_client=httpx.Client(trust_env=False))


def send(service, content, content_type, name="ada"):
    return httpx.post(service.url + "/v1/files", content=content, trust_env=False, headers={
        "authorization": f"Bearer {service.keys[name]}", "content-type": content_type})


def test_five_megabytes_come_back_as_they_were(filed):
    data = os.urandom(5 * MIB + 12345)
    one, two = client(filed), client(filed, gateway=1)
    made = one.files.create(file=("big ä.jsonl", data), purpose="batch")
    assert made.object == "file" and made.bytes == len(data) and made.purpose == "batch"
    assert made.filename == "big ä.jsonl" and made.status == "processed"
    assert two.files.retrieve(made.id) == made
    assert two.files.content(made.id).read() == data
    gone = two.files.delete(made.id)
    assert gone.deleted and gone.id == made.id
    with filed.broker() as broker:  # nothing stays, but what says that it is gone
        name = f"obj.file.{made.id.removeprefix('file-')}"
        wait_for(lambda: broker.subjects("OBJECTS", f"{name}.>") == {f"{name}.meta": 1},
                 "its chunks to go")
        assert broker.last("OBJECTS", f"{name}.meta").data == b""
    for call in (one.files.retrieve, one.files.content, one.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)


def test_small_files_too(filed):
    one = client(filed)
    for data in (b"x", b"\r\n--\r\n", b"a" * (512 << 10), b"b" * ((512 << 10) + 1)):
        made = one.files.create(file=("f", data), purpose="batch")
        assert one.files.content(made.id).read() == data
        one.files.delete(made.id)


def test_lists_have_an_order_and_pages(filed):
    one = client(filed)
    made = [one.files.create(file=(f"f{i}", b"x"), purpose="batch").id for i in range(5)]
    assert [f.id for f in one.files.list()] == made[::-1]
    assert [f.id for f in one.files.list(order="asc")] == made
    page = one.files.list(order="asc", limit=2)
    assert [f.id for f in page.data] == made[:2] and page.has_more
    page = one.files.list(order="asc", limit=2, after=made[1])
    assert [f.id for f in page.data] == made[2:4]
    assert [f.id for f in one.files.list(limit=2)] == made[::-1]  # the client asks for all pages
    assert [f.id for f in one.files.list(purpose="batch")] == made[::-1]
    assert one.files.list(purpose="batch_output").data == []
    with pytest.raises(openai.BadRequestError) as caught:
        one.files.list(limit=0)
    assert caught.value.param == "limit"
    for file in made:
        one.files.delete(file)


def test_another_keys_file_does_not_exist(filed):
    one, other = client(filed), client(filed, "bob")
    made = one.files.create(file=("mine", b"x"), purpose="batch")
    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    assert made.id not in [f.id for f in other.files.list()]
    assert one.files.content(made.id).read() == b"x"
    one.files.delete(made.id)


def test_ids_that_are_none_are_not_found(filed):
    for path in ("file-*", "file-%3E", "*", "file-" + "A" * 32, "file-" + "a" * 33, "x" * 200):
        for suffix in ("", "/content"):
            reply = httpx.get(f"{filed.url}/v1/files/{path}{suffix}", trust_env=False,
                              headers={"authorization": f"Bearer {filed.keys['ada']}"})
            assert reply.status_code == 404, path


def test_purposes_other_than_batch_are_refused_by_name(filed):
    for purpose in ("fine-tune", "assistants", "vision", "user_data", "batch_output"):
        with pytest.raises(openai.BadRequestError) as caught:
            client(filed).files.create(file=("f", b"x"), purpose=purpose)
        assert caught.value.param == "purpose"


def test_a_file_over_the_limit_is_refused(filed):
    with pytest.raises(openai.APIStatusError) as caught:
        client(filed).files.create(file=("f", b"x" * (6 * MIB + 1)), purpose="batch")
    assert caught.value.status_code == 413
    try:  # much more: the server need not read it all
        client(filed).files.create(file=("f", b"x" * (12 * MIB)), purpose="batch")
        raise AssertionError("accepted")
    except openai.APIStatusError as error:
        assert error.status_code == 413
    except openai.APIConnectionError:
        pass
    chat = httpx.post(filed.url + "/v1/chat/completions", content=b"x" * (2 * MIB),
                      trust_env=False, headers={"authorization": f"Bearer {filed.keys['ada']}"})
    assert chat.status_code == 413  # other paths keep their own limit


def test_without_a_key_no_body_is_taken_in(filed):
    with socket.create_connection(("127.0.0.1", filed.port)) as raw:
        raw.settimeout(60)
        raw.sendall(b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; "
                    b"boundary=b\r\nContent-Length: 5000000\r\n\r\n")
        answer = b""
        while part := raw.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 401 ") and b"invalid_api_key" in answer
    filed.keys["eve"] = "wv-" + "e" * 43
    with pytest.raises(openai.AuthenticationError):
        client(filed, "eve").files.create(file=("f", b"x"), purpose="batch")


PART = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
FILE = PART % (b"file", b'; filename="f"', b"x")
PURPOSE = PART % (b"purpose", b"", b"batch")
FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize("content, content_type, status", [
    (b"{}", "application/json", 415),
    (PURPOSE + FILE + b"--b--", "multipart/form-data", 400),
    (PURPOSE + FILE + b"--b--", "multipart/mixed; boundary=b", 415),
    (PURPOSE + FILE + b"--b", FORM, 400),
    (PURPOSE + FILE, FORM, 400),
    (FILE + b"--b--", FORM, 400),
    (PURPOSE + b"--b--", FORM, 400),
    (PURPOSE + FILE + FILE + b"--b--", FORM, 400),
    (PURPOSE + PURPOSE + FILE + b"--b--", FORM, 400),
    (PURPOSE + PART % (b"file", b'; filename="f"', b"") + b"--b--", FORM, 400),
    (PURPOSE + PART % (b"file", b'; filename="\xff"', b"x") + b"--b--", FORM, 400),
    (PURPOSE + PART % (b"file", b'; filename="a\0b"', b"x") + b"--b--", FORM, 400),
    (PART % (b"x", b"", b"y") * 17 + PURPOSE + FILE + b"--b--", FORM, 400),
    (PURPOSE + FILE + b"--b--", "multipart/form-data; boundary=" + "b" * 71, 400),
])
def test_broken_forms_are_refused(filed, content, content_type, status):
    reply = send(filed, content, content_type)
    assert reply.status_code == status
    assert reply.json()["error"]["type"] == "invalid_request_error"


def test_an_upload_broken_off_leaves_nothing(filed):
    one = client(filed)

    def chunks():
        with filed.broker() as broker:
            return [name for name in broker.subjects("OBJECTS", "obj.file.>")
                    if not name.endswith(".meta")]

    def nothing_left():
        """What was put is taken back; or all of it was kept, and goes by its id."""
        for file in one.files.list():
            one.files.delete(file.id)
        return not chunks()

    wait_for(lambda: not chunks(), "earlier files to go")
    form = PURPOSE + PART % (b"file", b'; filename="f"', b"x" * (4 * MIB)) + b"--b--"
    head = (f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {filed.keys['ada']}\r\n"
            f"Content-Type: {FORM}\r\nContent-Length: {len(form)}\r\n\r\n").encode()
    for cut in (len(form) // 2, len(form)):
        with socket.create_connection(("127.0.0.1", filed.port)) as raw:
            raw.sendall(head + form[:cut])
            if cut == len(form):
                wait_for(chunks, "its first chunk")
    assert one.models.list().data
    wait_for(nothing_left, "nothing left")


def test_a_slow_reader_costs_no_memory(filed):
    one = client(filed)
    data = os.urandom(6 * MIB)
    made = one.files.create(file=("f", data), purpose="batch")
    pid = wait_for(lambda: [g["pid"] for g in httpx.get(
        filed.url + "/wyvern/status", trust_env=False,
        headers={"authorization": f"Bearer {filed.keys['ada']}"}).json()["gateways"]
        if g["url"].endswith(str(filed.port))], "the gateway in the status")[0]

    def resident():
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    raws = []
    for _ in range(16):
        raw = socket.create_connection(("127.0.0.1", filed.port))
        raw.sendall((f"GET /v1/files/{made.id}/content HTTP/1.1\r\nHost: x\r\n"
                     f"Authorization: Bearer {filed.keys['ada']}\r\n\r\n").encode())
        raws.append(raw)
    for raw in raws:
        raw.recv(1)  # it has begun
    assert resident() - before < 32 * MIB  # and not 96
    for raw in raws:
        raw.close()
    assert one.files.content(made.id).read() == data
    one.files.delete(made.id)
