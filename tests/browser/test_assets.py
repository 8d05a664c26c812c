"""The console's files: how they are served, and how little they are."""

import gzip

import httpx
import pytest

from harness import wait_for

FIRST_VIEW_BYTES = 300 * 1024


def get(service, path, **headers):
    return httpx.get(service.url + path, headers={"accept-encoding": "identity", **headers},
                     trust_env=False, timeout=30)


def raw(service, path, **headers):
    """Status, headers and the body as it came."""
    with httpx.stream("GET", service.url + path, headers=headers, trust_env=False,
                      timeout=30) as reply:
        return reply.status_code, reply.headers, b"".join(reply.iter_raw())


def test_a_browser_gets_the_console_and_curl_gets_text(fake):
    page = get(fake, "/", accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!doctype html>")
    assert get(fake, "/console/").text == page.text
    assert get(fake, "/console/index.html").text == page.text
    text = get(fake, "/", accept="*/*")
    assert text.headers["content-type"].startswith("text/plain")
    assert "POST /v1/responses" in text.text
    for reply in (page, text):
        assert "accept" in reply.headers["vary"].lower()


@pytest.mark.parametrize("name, kind", [
    ("index.html", "text/html; charset=utf-8"), ("app.css", "text/css; charset=utf-8"),
    ("app.js", "text/javascript; charset=utf-8"), ("marked.js", "text/javascript; charset=utf-8"),
    ("icon.svg", "image/svg+xml")])
def test_a_file_packed_and_plain(fake, name, kind):
    path = f"/console/{name}"
    status, headers, plain = raw(fake, path, **{"accept-encoding": "identity"})
    assert (status, headers["content-type"]) == (200, kind)
    assert "content-encoding" not in headers
    status, packed_headers, packed = raw(fake, path, **{"accept-encoding": "gzip"})
    assert packed_headers["content-encoding"] == "gzip" and gzip.decompress(packed) == plain
    assert len(packed) < len(plain)
    # Strong tags: other bytes, another tag.
    assert headers["etag"] != packed_headers["etag"]
    for each, encoding in ((headers, "identity"), (packed_headers, "gzip")):
        assert each["etag"].startswith('"') and each["cache-control"] == "no-cache"
        assert each["x-content-type-options"] == "nosniff"
        assert "accept-encoding" in each["vary"].lower()
        again = raw(fake, path, **{"accept-encoding": encoding, "if-none-match": each["etag"]})
        assert (again[0], again[2]) == (304, b"") and again[1]["etag"] == each["etag"]
    other = raw(fake, path, **{"accept-encoding": "gzip", "if-none-match": '"another"'})
    assert other[0] == 200 and other[2] == packed


def test_the_policy_is_strict(fake):
    policy = get(fake, "/console/").headers["content-security-policy"]
    rules = dict(rule.strip().partition(" ")[::2] for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'", "script-src": "'self'", "style-src": "'self'",
        "img-src": "'self' data:", "connect-src": "'self'", "base-uri": "'none'",
        "form-action": "'none'", "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'", "trusted-types": "'none'"}
    page = get(fake, "/console/").text
    assert "<style" not in page and " style=" not in page and " onclick=" not in page
    assert "//" not in page.replace("<!doctype html>", "")  # nothing from another host


@pytest.mark.parametrize("path", ["/console/nothing.js", "/console/../about.c", "/console/%2e%2e/x",
                                  "/console/app.js/x", "/console"])
def test_there_is_nothing_else(fake, path):
    reply = get(fake, path)
    assert reply.status_code in (400, 404), path
    assert "error" in reply.json()


def test_only_reading(fake):
    reply = httpx.post(fake.url + "/console/app.js", trust_env=False, timeout=30)
    assert reply.status_code == 405 and "GET" in reply.json()["error"]["message"]
    head = httpx.head(fake.url + "/console/app.js", trust_env=False, timeout=30)
    assert head.status_code == 200 and head.content == b""


def test_the_first_view_is_small(fake, chromium):
    context = chromium.new_context()
    page = context.new_page()
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    asked, over, received = set(), set(), []

    def finished(event):
        over.add(event["requestId"])
        received.append(event["encodedDataLength"])

    def shown():
        """The bytes of a view, once all that it asked for has come: this is told behind the page."""
        page.get_by_text("Service is ready").wait_for()
        wait_for(lambda: page.evaluate("1") and len(asked) > 10 and asked <= over, "all files")
        return sum(received)

    network.on("Network.requestWillBeSent", lambda event: asked.add(event["requestId"]))
    network.on("Network.loadingFinished", finished)
    network.on("Network.loadingFailed", lambda event: over.add(event["requestId"]))
    page.goto(fake.url)
    first = shown()
    assert len(received) > 10
    assert first < FIRST_VIEW_BYTES, first
    # Asked for again, it is only confirmed.
    received.clear()
    page.reload()
    assert shown() < first / 4
    context.close()
