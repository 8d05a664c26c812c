"""axe-core over every view and state, light and dark, desktop and phone."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from console import DESKTOP, PHONE, Chat, until

WORTH_A_LOOK = {"resultTypes": ["violations"], "runOnly": [
    "wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


def check(page):
    found = Axe().run(page, options=WORTH_A_LOOK).response["violations"]
    assert not found, "\n".join(
        f"{rule['id']}: {rule['help']}\n  " + "\n  ".join(node["html"][:200] + " " + node.get("failureSummary", "")
                                                      for node in rule["nodes"][:4]) for rule in found)


@pytest.fixture(params=["light-desktop", "dark-desktop", "light-phone", "dark-phone"])
def view(request, watched, fake):
    """axe is injected as a script: the page's policy, which forbids that, is set aside here."""
    scheme, size = request.param.split("-")
    return watched.open(fake, color_scheme=scheme, viewport=DESKTOP if size == "desktop" else PHONE,
                        bypass_csp=True, reduced_motion="reduce")


def test_chat_empty(view):
    check(view)


def test_chat_with_replies_and_an_error(view):
    chat = Chat(view)
    chat.ask("**bold**")
    chat.send("bad error_at=2")
    chat.ended()
    chat.users.first.get_by_role("button", name="Edit message").click()
    check(view)


def test_chat_busy(view):
    chat = Chat(view)
    chat.send("busy tokens=4000 delay_ms=50")
    until(view, "document.querySelector('.message.assistant .md')?.innerText.length > 20")
    check(view)
    view.keyboard.press("Escape")
    chat.ended()


def test_code_and_tables(view):
    view.route("**/v1/responses", lambda route: route.fulfill(
        status=200, content_type="text/event-stream",
        body='data: {"type":"response.output_text.delta","sequence_number":0,"delta":'
             '"# Big\\n\\n[a](https://example.org) `c`\\n\\n| a | b |\\n|--|--|\\n| 1 | 2 |\\n\\n'
             '```js\\nx\\n```\\n\\n> quote\\n"}\n\n'
             'data: {"type":"response.completed","sequence_number":1,"response":{"status":"completed"}}\n\n'))
    chat = Chat(view)
    chat.send("show")
    chat.ended()
    assert view.locator("figure.code").count() == 1
    check(view)


def test_settings(view):
    view.evaluate("document.getElementById('settings-open').click()")
    view.get_by_role("dialog").wait_for()
    check(view)


def test_the_drawer(view):
    if view.viewport_size["width"] > 800:  # there it is no drawer
        assert view.locator("#side").is_visible() and not view.locator("#menu").is_visible()
        return
    view.get_by_role("button", name="Menu", exact=True).click()
    until(view, "document.getAnimations().length === 0")
    check(view)


def test_the_service_is_away(view):
    view.route("**/*", lambda route: route.abort())
    Chat(view).send("anybody?")
    view.locator("#banner").wait_for()
    check(view)


def test_cluster(view):
    view.evaluate("location.hash = '#/cluster'")
    until(view, "document.querySelectorAll('#view-cluster tbody tr').length > 0")
    until(view, "[...document.querySelectorAll('.chart path.line')].some((p) => p.getAttribute('d').includes('L'))")
    check(view)


def test_load(view):
    view.evaluate("location.hash = '#/load'")
    view.locator("#view-load").wait_for()
    check(view)
    view.locator("#load-prompts").fill("a\nbad error_at=1")
    view.locator("#load-repeat").fill("3")
    view.get_by_role("button", name="Start").click()
    until(view, "document.getElementById('load-abort').hidden", 60)
    check(view)
