"""API keys: who gets in, whose replies and files are whose, keys that change while it runs."""

import json
import os
import subprocess

import httpx
import openai
import pytest

from harness import WYVERN, run, wait_for


def add_key(path, name):
    return run("key", "add", name, "--keys", path, check=0).stdout.strip()


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A service of two gateways with the keys of ada and bob."""
    from harness import Service

    folder = tmp_path_factory.mktemp("keyed")
    path = folder / "keys"
    keys = {name: add_key(path, name) for name in ("ada", "bob")}
    service = Service(folder, keys=path, gateways=2, model="fake:tokens=5,delay_ms=1",
                      cors="https://page.example")
    service.keys_path, service.keys = path, keys
    with service:
        yield service


def client(service, key, gateway=0):
    return openai.OpenAI(base_url=service.gateway_url(gateway) + "/v1", api_key=key,
                         max_retries=0, http_client=httpx.Client(trust_env=False))


def get(service, path, **headers):
    return httpx.get(service.url + path, headers=headers, trust_env=False)


def test_a_key_opens_all_and_its_absence_little(keyed):
    one = client(keyed, keyed.keys["ada"])
    reply = one.chat.completions.create(model="default",
                                        messages=[{"role": "user", "content": "hey"}])
    assert reply.choices[0].message.content == "hey.0 hey.1 hey.2 hey.3 hey.4 "
    assert reply.model_extra["wyvern"]["prompter"] == "ada"
    with pytest.raises(openai.AuthenticationError) as caught:
        client(keyed, "wv-" + "A" * 43).models.list()
    assert caught.value.status_code == 401
    assert caught.value.code == "invalid_api_key"
    assert caught.value.response.headers["www-authenticate"].startswith("Bearer")
    for path in ("/v1/models", "/wyvern/status", "/v1/files", "/slots"):
        assert get(keyed, path).status_code == 401, path
    for path in ("/health", "/ready", "/metrics", "/sd"):
        assert get(keyed, path).status_code in (200, 503), path
    assert keyed.post("hey").status_code == 401


@pytest.mark.parametrize("headers", [
    lambda key: {"authorization": f"bearer {key}"},
    lambda key: {"api-key": key},
    lambda key: {"x-api-key": key},
])
def test_a_key_may_come_in_three_headers(keyed, headers):
    assert get(keyed, "/v1/models", **headers(keyed.keys["bob"])).status_code == 200


@pytest.mark.parametrize("headers", [
    [("authorization", "Basic YTpi")],
    [("authorization", "Bearer")],
    [("authorization", "KEY")],
    [("authorization", "Bearer KEY"), ("authorization", "Bearer KEY")],
    [("authorization", "Bearer KEY"), ("x-api-key", "KEY")],
])
def test_what_is_no_key_is_refused(keyed, headers):
    headers = [(name, value.replace("KEY", keyed.keys["ada"])) for name, value in headers]
    reply = httpx.get(keyed.url + "/v1/models", headers=headers, trust_env=False)
    assert reply.status_code == 401
    assert keyed.keys["ada"] not in reply.text


def test_another_keys_reply_does_not_exist(keyed):
    ada, bob = (client(keyed, keyed.keys[name]) for name in ("ada", "bob"))
    made = ada.responses.create(model="default", input="mine", store=True)
    assert ada.responses.retrieve(made.id).output_text == "mine.0 mine.1 mine.2 mine.3 mine.4 "
    for call in (bob.responses.retrieve, bob.responses.cancel, bob.responses.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    with pytest.raises(openai.BadRequestError):
        bob.responses.create(model="default", input="go on", previous_response_id=made.id)
    assert ada.responses.retrieve(made.id).id == made.id


def test_keys_change_while_it_runs(keyed):
    key = add_key(keyed.keys_path, "carol")
    for gateway in (0, 1):
        def open_at():
            return httpx.get(keyed.gateway_url(gateway) + "/v1/models", trust_env=False,
                             headers={"authorization": f"Bearer {key}"}).status_code
        wait_for(lambda: open_at() == 200, "the new key")
    run("key", "revoke", "carol", "--keys", keyed.keys_path, check=0)
    wait_for(lambda: open_at() == 401, "the revoked key")
    good = keyed.keys_path.read_text()
    keyed.keys_path.write_text(good + "nonsense\n")
    ada = {"authorization": f"Bearer {keyed.keys['ada']}"}
    wait_for(lambda: get(keyed, "/v1/models", **ada).status_code == 503, "refusal of a bad file")
    keyed.keys_path.write_text(good)
    for gateway in (0, 1):
        wait_for(lambda url=keyed.gateway_url(gateway): httpx.get(
            url + "/v1/models", headers=ada, trust_env=False).status_code == 200,
            "the good file again")


def test_verbs_send_a_key_and_never_show_it(keyed, tmp_path):
    key = keyed.keys["ada"]
    path = tmp_path / "key"
    path.write_text(key + "\n")
    ask = ("ask", "hey", "--url", keyed.url)
    assert run(*ask).returncode == os.EX_NOPERM
    refused = run("status", "--url", keyed.url)
    assert refused.returncode == os.EX_NOPERM and "--key-file" in refused.stderr
    assert run(*ask, "--key-file", path, check=0).stdout.startswith("hey.0 ")
    assert run(*ask, env={"WYVERN_KEY": key}, check=0).stdout.startswith("hey.0 ")
    status = run("status", "--json", "--url", keyed.url, "--key-file", path, check=0)
    assert json.loads(status.stdout)["nodes"]
    report = run("load", "--repeat", 1, "--json", "--quiet", "--url", keyed.url, "--key-file", path,
                 check=0)
    assert json.loads(report.stdout)
    top = run("top", "--once", "--json", "--url", keyed.url, env={"WYVERN_KEY": key}, check=0)
    assert json.loads(top.stdout)
    assert key not in keyed.logs()
    shown = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True)
    assert key not in shown.stdout


def test_up_wants_a_good_file(tmp_path):
    missing = run("up", "--keys", tmp_path / "none", "--state-dir", tmp_path / "s", "--model",
                  "fake:tokens=1")
    assert missing.returncode == os.EX_NOINPUT and "wyvern key add" in missing.stderr
    (tmp_path / "bad").write_text("x\n")
    bad = run("up", "--keys", tmp_path / "bad", "--state-dir", tmp_path / "s", "--model",
              "fake:tokens=1")
    assert bad.returncode == os.EX_CONFIG and "line 1" in bad.stderr


def test_lists_of_keys(tmp_path):
    path = tmp_path / "keys"
    shown = add_key(path, "ada")
    assert shown.startswith("wv-") and len(shown) == 46
    assert path.stat().st_mode & 0o777 == 0o600
    listed = json.loads(run("key", "list", "--json", "--keys", path, check=0).stdout)
    assert [k["name"] for k in listed] == ["ada"]
    assert run("key", "add", "ada", "--keys", path).returncode == os.EX_CANTCREAT
    assert run("key", "revoke", "bob", "--keys", path).returncode == os.EX_NOINPUT
    full = subprocess.run([str(WYVERN), "key", "add", "eve", "--keys", str(path)],
                          stdout=open("/dev/full", "w"), stderr=subprocess.PIPE, text=True)
    assert full.returncode == os.EX_IOERR
    assert "eve" not in path.read_text()


def test_web_pages_of_a_named_origin_may_read(keyed):
    page = {"origin": "https://page.example"}
    asked = httpx.options(keyed.url + "/v1/chat/completions", trust_env=False, headers={
        **page, "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os"})
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == "https://page.example"
    assert "x-stainless-os" in asked.headers["access-control-allow-headers"]
    refused = get(keyed, "/v1/models", **page)  # without a key: the page may read why
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://page.example"
    key = {"authorization": f"Bearer {keyed.keys['ada']}"}
    other = get(keyed, "/v1/models", origin="https://other.example", **key)
    assert other.status_code == 200 and "access-control-allow-origin" not in other.headers
    with httpx.stream("POST", keyed.url + "/v1/chat/completions", trust_env=False,
                      headers={**page, **key},
                      json={"model": "default", "stream": True,
                            "messages": [{"role": "user", "content": "x"}]}) as streamed:
        assert streamed.headers["access-control-allow-origin"] == "https://page.example"
        assert "access-control-allow-credentials" not in streamed.headers
        assert "[DONE]" in streamed.read().decode()
