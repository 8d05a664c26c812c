"""What a page of another origin can do to a service that allows it nothing: not even start a reply."""

import http.server
import threading

import pytest

TRY = """async (url) => {
    const body = JSON.stringify({model: 'default', messages: [{role: 'user', content: 'x tokens=1'}]});
    const reply = await fetch(url, {method: 'POST', mode: 'no-cors', body});  // as text/plain
    return reply.type;
}"""


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def foreign():
    """The port of a site on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def counts(service):
    """Prompts accepted, and refused to foreign pages."""
    text = service.client.get("/metrics").text
    return [int(float(line.split()[-1])) for name in (
        "wyvern_prompts_accepted_total", 'wyvern_prompts_refused_total{reason="foreign_origin"}')
        for line in text.splitlines() if line.startswith(name)]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_it_starts_nothing(chromium, fake, foreign, host):
    """From another site, and from another port of the same."""
    accepted, refused = counts(fake)
    context = chromium.new_context()
    try:
        page = context.new_page()
        page.goto(f"http://{host}:{foreign}/")
        assert page.evaluate(TRY, fake.url + "/v1/chat/completions") == "opaque"
    finally:
        context.close()
    assert counts(fake) == [accepted, refused + 1]
