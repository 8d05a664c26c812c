"""The console when things go wrong: networks, gateways, full queues, silence, hostile replies."""

import json
import os
import re
import signal
import time

import pytest

from console import Chat, Line, until
from harness import Service, fake_text, wait_for


def whole(tag, count):
    return fake_text(tag, count).strip()


def some_text(page, length=30):
    until(page, f"(document.querySelector('.message.assistant:last-of-type .md')?.innerText.length ?? 0) > {length}", 60)


def test_a_reply_in_flight_survives_a_reload(chat, page):
    # A page that begins with an open reply shows Stop at once, and sees that it did.
    page.add_init_script("""new MutationObserver(() => {
        window.stops ||= document.getElementById('send')?.getAttribute('aria-label') === 'Stop';
    }).observe(document, {subtree: true, childList: true, attributes: true})""")
    chat.send("reload tokens=200 delay_ms=50")
    some_text(page)
    page.reload()
    chat.ended()
    assert page.evaluate("window.stops") is True
    assert chat.text() == whole("reload", 200)


def test_a_reload_before_anything_came(watched, start):
    service = start()
    page = watched.open(service)
    chat = Chat(page)
    chat.send("early tokens=5 delay_ms=400")
    page.wait_for_timeout(60)
    page.reload()
    chat.ended()
    assert chat.text() == whole("early", 5)
    with service.broker() as broker:
        wait_for(lambda: broker.count("PROMPTS") == 0, "no prompt that is still to be answered")
        assert list(broker.subjects("REPLIES", "reply.>").values()) == [1]  # never made twice


@pytest.fixture
def line(fake):
    """The way between the browser and the gateway, which can be cut."""
    line = Line(fake.port)
    yield line
    line.close()


def test_the_network_drops(watched, line):
    page = watched.open(line)
    chat = Chat(page)
    line.behind("drop.9 ", line.cut)
    chat.send("drop tokens=120 delay_ms=50")
    chat.replies.last.get_by_text("the reply goes on without it").wait_for()
    page.wait_for_timeout(1500)
    had = len(chat.text())
    line.heal()
    page.evaluate("dispatchEvent(new Event('online'))")
    until(page, f"document.querySelector('.message.assistant .md').innerText.length > {had}")
    chat.ended()
    assert chat.text() == whole("drop", 120)


def test_a_cut_at_every_moment(watched, line):
    page = watched.open(line)
    chat = Chat(page)
    chat.send("often tokens=120 delay_ms=40")
    for _ in range(6):
        page.wait_for_timeout(350)
        line.cut()
        page.wait_for_timeout(100)
        line.heal()
        page.evaluate("dispatchEvent(new Event('online'))")
    chat.ended()
    assert chat.text() == whole("often", 120)


def test_the_network_is_away_when_it_is_sent(watched, line, fake):
    page = watched.open(line)
    chat = Chat(page)
    line.cut()
    chat.send("late")
    chat.replies.last.get_by_text("The service can't be reached.").wait_for()
    line.heal()
    chat.ended()
    assert chat.text() == whole("late", 20)


def test_a_stream_that_died_in_silence(watched, line):
    """No byte comes, and no end: a laptop that slept, a router that forgot us."""
    page = watched.open(line)
    page.clock.install()
    chat = Chat(page)
    line.behind("asleep.9 ", line.freeze)
    chat.send("asleep tokens=80 delay_ms=40")
    page.clock.run_for(3000)
    some_text(page, 10)
    state = chat.replies.last.locator(".state")
    wait_for(lambda: page.clock.run_for(1000) or "Nothing for" in state.inner_text(), "it to say so")
    for _ in range(50):
        page.clock.run_for(1000)
    wait_for(lambda: page.clock.run_for(500) or chat.text() == whole("asleep", 80), "the rest", 40)


def test_the_gateway_is_killed_in_mid_reply(watched, start):
    service = start(model="fake:tokens=80,delay_ms=60")
    page = watched.open(service)
    chat = Chat(page)
    gateway = service.status()["gateways"][0]["pid"]
    chat.send("killed")
    some_text(page)
    os.kill(gateway, signal.SIGKILL)
    chat.ended(timeout=60000)
    assert chat.text() == whole("killed", 80)


def test_the_worker_is_killed_in_mid_reply(watched, start):
    service = start(model="fake:tokens=150,delay_ms=60")
    page = watched.open(service)
    chat = Chat(page)
    workers = [worker["pid"] for worker in service.workers()]
    chat.send("moved")
    some_text(page)
    for pid in workers:  # both at once: which one is busy would be told later
        os.kill(pid, signal.SIGKILL)
    assert re.search("attempt [23]", chat.ended().inner_text())
    assert chat.text() == whole("moved", 150)


def test_the_service_goes_and_comes_back(watched, tmp_path):
    folder = tmp_path / "first"
    folder.mkdir()
    first = Service(folder, model="fake:tokens=5,delay_ms=5")
    second = None
    try:
        first.wait_ready()
        page = watched.open(first)
        chat = Chat(page)
        chat.ask("before")
        assert first.stop() == 0
        chat.send("between")
        banner = page.locator("#banner")
        banner.get_by_text("can't be reached").wait_for()
        assert page.get_by_text("Service is away").is_visible()
        chat.replies.last.get_by_text("Trying again").wait_for()
        with page.expect_request("**/ready"):
            page.get_by_role("button", name="Try now").click()
        later = tmp_path / "second"
        later.mkdir()
        second = Service(later, model="fake:tokens=5,delay_ms=5", port=first.port)
        second.wait_ready()
        chat.ended()
        assert chat.text() == whole("between", 5)
        banner.wait_for(state="hidden")
        assert second.stop() == 0
    finally:
        first.kill()
        if second:
            second.kill()


def test_a_tab_that_nobody_looks_at_gives_its_stream_back(watched, line):
    page = watched.open(line)
    page.clock.install()
    chat = Chat(page)
    look = """(hidden) => {
        Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
        document.dispatchEvent(new Event('visibilitychange'));
    }"""
    line.behind("tab.19 ", line.hold)  # so that the reply is not over before nobody looks
    chat.send("tab tokens=300 delay_ms=40")
    page.clock.run_for(1000)
    some_text(page, 10)
    page.evaluate(look, True)
    page.clock.run_for(31000)
    page.clock.run_for(200)
    before = chat.text()
    line.go_on()
    time.sleep(0.5)
    page.clock.run_for(500)
    assert chat.text() == before != whole("tab", 300)  # the reply goes on; nobody reads it here
    page.evaluate(look, False)
    wait_for(lambda: page.clock.run_for(500) or chat.text() == whole("tab", 300), "the rest", 40)


def test_a_full_queue_is_waited_for(watched, start):
    service = start(workers=1, slots=1, max_queue=1, model="fake:tokens=9000,delay_ms=40")
    page = watched.open(service)
    held = service.client.post("/v1/responses", json={
        "model": "default", "input": "held", "background": True})
    assert held.status_code == 200
    chat = Chat(page)
    chat.send("waits tokens=3")
    chat.replies.last.get_by_text("Trying again in").wait_for()
    times = """performance.getEntriesByType('resource')
        .filter(({name}) => name.endsWith('/v1/responses')).map(({startTime}) => startTime)"""
    until(page, f"{times}.length >= 2")
    service.client.post(f"/v1/responses/{held.json()['id']}/cancel")
    chat.ended(timeout=60000)
    assert chat.text() == whole("waits", 3)
    times = page.evaluate(times)
    gaps = [b - a for a, b in zip(times, times[1:])]
    assert min(gaps) >= 1900, gaps  # Retry-After: 2


def test_a_waiting_reply_can_be_stopped(watched, start):
    service = start(workers=1, slots=1, max_queue=1, model="fake:tokens=9000,delay_ms=40")
    page = watched.open(service)
    held = service.client.post("/v1/responses", json={
        "model": "default", "input": "held", "background": True}).json()
    chat = Chat(page)
    chat.send("never")
    chat.replies.last.get_by_text("Trying again in").wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    assert chat.ended().get_by_text("Stopped.").is_visible()
    service.client.post(f"/v1/responses/{held['id']}/cancel")
    wait_for(lambda: all(w["active"] == 0 for w in service.workers()), "a free slot")


def test_a_gateway_that_takes_it_and_never_answers(chat, page):
    page.clock.install()
    page.route("**/v1/responses", lambda route: None)
    chat.send("mute tokens=3")
    state = chat.replies.last.locator(".state")
    wait_for(lambda: page.clock.run_for(1000) or "Asking… Nothing for" in state.inner_text(), "it to say so")
    page.unroute("**/v1/responses")
    wait_for(lambda: page.clock.run_for(1000) or chat.text() == whole("mute", 3), "another try", 40)


def test_stop_before_the_gateway_answers(chat, page):
    page.clock.install()
    page.route("**/v1/responses", lambda route: None)
    chat.send("mute")
    page.get_by_role("button", name="Stop", exact=True).click()
    chat.replies.last.get_by_text("Stopping…").wait_for()
    stopped = chat.replies.last.get_by_text("Stopped.")
    wait_for(lambda: page.clock.run_for(1000) or stopped.is_visible(), "its end", 40)
    assert page.get_by_role("button", name="Send", exact=True).is_visible()


def test_silence_is_told(chat, page):
    page.evaluate("""() => new MutationObserver(() => {
        window.told ||= document.querySelector('.message.assistant .state')?.innerText.includes('Nothing for');
    }).observe(document.body, {subtree: true, childList: true, characterData: true})""")
    chat.send("silent tokens=2 delay_ms=7500")
    chat.ended()
    assert page.evaluate("window.told") is True
    assert chat.text() == whole("silent", 2)


# ---- hostile replies ----

HOSTILE = ["<script>alert(1)</script>", "<svg/onload>", "<iframe/src>", "[x](javascript:alert(1))",
           "[x](data:text/html,<script>alert(1)</script>)", "![p](https://evil.example/p.png)",
           "</div></article>", "<https://evil.example/>"]


@pytest.mark.parametrize("tag", HOSTILE)
def test_html_from_the_model_is_text(chat, page, tag):
    """The fake engine repeats the first word of a prompt: this is a real reply full of it."""
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    chat.ask(f"{tag} tokens=30 delay_ms=5")
    body = chat.replies.last.locator(".md")
    assert body.locator("script, img, svg, iframe, style, form, object").count() == 0
    for href in body.locator("a").evaluate_all("list => list.map((a) => a.href)"):
        assert href.startswith("https://")
    assert body.locator("a:not([rel~=noopener])").count() == 0
    if "evil" not in tag:
        assert tag in body.inner_text()
    assert not asked


def answer_with(page, text, size=40):
    """The service answers this, in pieces."""
    events, response = [], {"id": "resp_" + "0" * 32, "status": "in_progress"}

    def add(kind, **more):
        data = {"type": kind, "sequence_number": len(events), **more}
        events.append(f"event: {kind}\ndata: {json.dumps(data)}\n\n")

    add("response.created", response=response)
    for at in range(0, len(text), size):
        add("response.output_text.delta", delta=text[at:at + size])
    add("response.completed", response={**response, "status": "completed"})
    page.route("**/v1/responses", lambda route: route.fulfill(
        status=200, content_type="text/event-stream", body="".join(events)))


MARKDOWN = """# Title

Some **bold**, *slanted*, ~~gone~~ and `code <b>`; a [link](https://example.org/a?b=1&c=2 "t"),
<https://example.org/auto>, AT&amp;T &copy; &bogus; and <b>raw</b><br>html.

| a | b |
|:--|--:|
| 1 | `x` |
| 2 | **y** |

1. one
2. two
   - inner
     - innermost
- [x] done
- [ ] open

> quoted
>
> ```js
> nested()
> ```

```python
print("<script>")
```

---

last line
with a break
"""


def test_markdown(chat, page):
    answer_with(page, MARKDOWN, 7)
    chat.send("show")
    chat.ended()
    body = chat.replies.last.locator(".md")
    count = lambda selector: body.locator(selector).count()
    assert body.locator("h3").inner_text() == "Title"
    assert count("strong") == 2 and count("em") == 1 and count("del") == 1
    assert count("table tbody tr") == 2 and count("ol > li") == 2 and count("ol ul ul > li") == 1
    assert count("blockquote figure.code") == 1 and count("figure.code") == 2 and count("hr") == 1
    text = body.inner_text()
    assert "AT&T © &bogus;" in text and "<b>raw</b>" in text and "☑ done" in text
    assert "code <b>" in text and 'print("<script>")' in text
    assert body.locator("a").first.get_attribute("href") == "https://example.org/a?b=1&c=2"
    assert body.locator("p").last.inner_text() == "last line\nwith a break"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    body.get_by_role("button", name="Copy code").last.click()
    wait_for(lambda: page.evaluate("navigator.clipboard.readText()").strip() == 'print("<script>")', "the copy")


BROKEN = ["**never closed and `neither", "```python\nno end", "| a | b\n|--|--\n| 1", "[x](", "> " * 300 + "deep",
          "- " * 300 + "deep", "*" * 5000, "[" * 3000, "\u202eright to left\u202c", "\x07\x1b[31m", "#" * 50]


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_broken_markdown(chat, page, text):
    answer_with(page, text + "\n\nThe end.", 11)
    chat.send("broken")
    chat.ended()
    assert "The end." in chat.text()


def test_right_to_left(chat, page):
    answer_with(page, "שלום עולם, זה מבחן.\n\nHello world.\n\n```\ncode\n```\n\n- אחת\n\n+ one\n\n> שתיים\n")
    chat.send("rtl")
    chat.ended()
    body = chat.replies.last.locator(".md")
    box, first = body.bounding_box(), body.locator("p").first
    left = first.evaluate("""(p) => { const r = document.createRange(); r.selectNodeContents(p);
        return r.getBoundingClientRect().left }""")
    assert left > box["x"] + box["width"] / 2  # begins at the right
    second = body.locator("p").nth(1).evaluate("""(p) => { const r = document.createRange();
        r.selectNodeContents(p); return r.getBoundingClientRect().left }""")
    assert second < box["x"] + 5
    way = "(list) => list.map((e) => getComputedStyle(e).direction)"
    assert body.locator("ul").evaluate_all(way) == ["rtl", "ltr"]  # its dots are where its words begin
    assert body.locator("blockquote").evaluate_all(way) == ["rtl"]


def test_a_huge_table(chat, page):
    rows = "".join(f"| {i} | {'x' * 20} | {'y' * 20} |\n" for i in range(800))
    answer_with(page, "| n | a | b |\n|--|--|--|\n" + rows, 400)
    chat.send("table")
    chat.ended()
    assert chat.replies.last.locator("tbody tr").count() == 800
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280


FRAMES = """() => {
    window.gaps = [];
    let last = performance.now();
    const step = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(step); };
    requestAnimationFrame(step);
}"""


def test_a_hundred_thousand_characters_stay_fluid(chat, page):
    """Of one paragraph, from the real stream: the page answers and draws while it comes.  How fast is
    not asked here: a busy machine is no fault of the page's."""
    chat.send("fluid tokens=10000 delay_ms=1")
    some_text(page, 20000)
    page.evaluate(FRAMES)
    chat.composer.press_sequentially("typed meanwhile")
    assert chat.composer.input_value() == "typed meanwhile"
    until(page, "window.gaps.length > 0")  # and it draws
    chat.ended(timeout=90000)
    text = chat.text()
    assert len(text) > 100000 and text == whole("fluid", 10000)


# Answers when the test says so: window.answer().
MUTE_STORE = """
const open = IDBFactory.prototype.open;
IDBFactory.prototype.open = function (...args) {
    const request = open.apply(this, args);
    const said = new Promise((resolve) => { window.answer = resolve; });
    return {
        get result() { return request.result; },
        set onupgradeneeded(fn) { request.onupgradeneeded = fn; },
        set onerror(fn) { request.onerror = fn; },
        set onsuccess(fn) { request.onsuccess = () => said.then(fn); },
    };
};
"""


def test_a_browser_that_is_slow_to_open_its_store(watched, fake):
    """The page goes on without, and shows what is kept when that comes; nothing is lost."""
    page = watched.open(fake)
    Chat(page).ask("kept tokens=2")
    mute = page.context.new_page()
    mute.add_init_script(MUTE_STORE)
    mute.goto(fake.url + "/")
    mute.get_by_text("This browser keeps no conversations for this page.").wait_for(timeout=30000)
    chat = Chat(mute)
    chat.ask("made tokens=2")
    titles = mute.locator("#history")
    assert "made" in titles.inner_text() and "kept" not in titles.inner_text()
    mute.evaluate("window.answer()")
    until(mute, "document.getElementById('history').innerText.includes('kept')")
    assert "made" in titles.inner_text()
    mute.close()
    page.reload()
    until(page, "document.getElementById('history').innerText.includes('made')")
