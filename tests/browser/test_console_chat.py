"""The chat, by clicking and typing."""

import json
import re

import pytest

from console import PHONE, Chat, until
from harness import fake_text, new_key, wait_for


def whole(tag, count):
    return fake_text(tag, count).strip()


def idle(service):
    return all(worker["active"] == 0 for worker in service.workers())


def test_a_reply_streams_and_says_who_made_it(chat, page, fake):
    # All in one moment: words, not all of them yet; that it writes; a button that stops it.  The
    # page looks for it, which misses none.
    page.evaluate(f"""() => new MutationObserver(() => {{
        const said = document.querySelector('.message.assistant .md')?.innerText.length ?? 0;
        window.streamed ||= said > 20 && said < {len(whole("hey", 100))}
            && document.querySelector('.message.assistant .state').innerText.includes('Writing')
            && document.getElementById('send').getAttribute('aria-label') === 'Stop';
    }}).observe(document.body, {{subtree: true, childList: true, characterData: true}})""")
    chat.send("hey tokens=100 delay_ms=50")
    facts = chat.ended().locator(".facts").inner_text()
    assert page.evaluate("window.streamed") is True
    assert chat.text() == whole("hey", 100)
    assert re.fullmatch(r"infer-node1-\d · 100 tokens · [\d.]+ a second · [\d.]+ s", facts), facts
    assert page.get_by_role("button", name="Send", exact=True).is_visible()
    assert page.locator(".chat-head h1").inner_text() == "hey tokens=100 delay_ms=50"


def test_a_follow_up_carries_what_was_said(chat, page):
    chat.ask("one")
    with page.expect_request("**/v1/responses") as sent:
        chat.ask("two")
    body = sent.value.post_data_json
    assert [(turn["role"], turn["content"].split(" ")[0]) for turn in body["input"]] == [
        ("user", "one"), ("assistant", "one.0"), ("user", "two")]
    assert body["background"] is True and body["stream"] is True


def test_stop_frees_the_slot_and_keeps_the_text(chat, page, fake):
    chat.send("stop tokens=9000 delay_ms=20")
    until(page, "document.querySelector('.message.assistant .md').innerText.length > 30")
    page.get_by_role("button", name="Stop", exact=True).click()
    reply = chat.ended()
    assert reply.get_by_text("Stopped.").is_visible()
    assert chat.text().startswith("stop.0 stop.1")
    wait_for(lambda: idle(fake), "a free slot")
    page.reload()
    assert chat.text().startswith("stop.0 stop.1")
    assert page.get_by_role("button", name="Send", exact=True).is_visible()


def test_escape_stops_too(chat, page, fake):
    chat.send("esc tokens=9000 delay_ms=20")
    until(page, "document.querySelector('.message.assistant .md').innerText.length > 10")
    chat.users.first.get_by_role("button", name="Edit message").click()
    page.keyboard.press("Escape")  # leaves the edit
    assert page.locator(".edit").count() == 0
    page.get_by_role("button", name="Settings", exact=True).click()
    page.keyboard.press("Escape")  # closes the dialog
    until(page, "document.querySelectorAll('dialog').length === 0")
    assert page.get_by_role("button", name="Stop", exact=True).is_visible()
    page.locator(".chat-head h1").click()  # the focus is nowhere
    page.keyboard.press("Escape")
    assert chat.ended().get_by_text("Stopped.").is_visible()
    wait_for(lambda: idle(fake), "a free slot")


def test_regenerate_makes_another_version(chat, page):
    chat.ask("again")
    page.get_by_role("button", name="Regenerate reply").click()
    chat.ended()
    reply = chat.replies.last
    assert reply.locator(".versions").inner_text() == "2/2"
    reply.get_by_role("button", name="Earlier version").click()
    assert chat.replies.last.locator(".versions").inner_text() == "1/2"
    assert chat.replies.count() == 1
    page.reload()
    assert chat.replies.last.locator(".versions").inner_text() == "1/2"


def test_an_edited_message_is_a_branch(chat, page):
    chat.ask("first")
    chat.ask("second")
    chat.users.first.get_by_role("button", name="Edit message").click()
    area = page.locator(".edit textarea")
    assert area.input_value() == "first"
    area.fill("other")
    page.locator(".edit").get_by_role("button", name="Send", exact=True).click()
    chat.ended()
    assert chat.users.count() == 1 and chat.text() == whole("other", 20)
    chat.users.first.get_by_role("button", name="Earlier version").click()
    assert [chat.text(0), chat.text(1)] == [whole("first", 20), whole("second", 20)]
    # Leaving an edit changes nothing.
    chat.users.first.get_by_role("button", name="Edit message").click()
    page.keyboard.press("Escape")
    assert page.locator(".edit").count() == 0 and chat.users.count() == 2


def test_conversations_are_kept_here_and_deleted(chat, page, fake):
    chat.ask("apple")
    page.locator("#new-chat").click()
    assert page.get_by_text("What shall we talk about?").is_visible()
    chat.ask("pear")
    entries = page.locator("#history li")
    assert entries.locator("a").all_inner_texts() == ["pear", "apple"]
    page.reload()
    page.get_by_role("link", name="apple").click()
    until(page, "document.querySelector('.message.user .body').innerText === 'apple'")
    assert chat.text() == whole("apple", 20)
    with page.expect_download() as saved:
        page.get_by_role("button", name="Export conversation").click()
    data = json.loads(saved.value.path().read_text())
    texts = {node["text"].strip() for node in data["conversations"][0]["nodes"].values()}
    assert texts == {"apple", whole("apple", 20)}
    with page.expect_request(lambda request: request.method == "DELETE") as erased:
        page.get_by_role("button", name="Delete conversation").click()
        page.get_by_role("button", name="Delete", exact=True).click()
    assert erased.value.response().status == 200  # nor does the service keep it
    assert entries.locator("a").all_inner_texts() == ["pear"]
    page.get_by_role("button", name="Delete “pear”").click()
    page.get_by_role("button", name="Keep", exact=True).click()
    assert entries.count() == 1


def test_settings_go_with_the_request(chat, page):
    until(page, "document.querySelector('.model').innerText === 'fake'")  # the models are known
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("#setting-model").select_option("fake")
    page.get_by_label("System prompt").fill("You are terse.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Top p").fill("0.9")
    page.locator("#setting-max_tokens").fill("7")
    page.get_by_role("button", name="Done").click()
    page.reload()
    with page.expect_request("**/v1/responses") as sent:
        chat.send("set")
    body = sent.value.post_data_json
    assert (body["temperature"], body["top_p"], body["max_output_tokens"]) == (0.5, 0.9, 7)
    assert body["instructions"] == "You are terse." and body["model"] == "fake"
    assert "longest length" in chat.ended().inner_text()
    assert chat.text() == whole("set", 7)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Temperature").fill("9")
    page.get_by_label("Top p").focus()
    assert page.locator("#setting-temperature-hint").inner_text() == "0 to 2; not kept"
    assert page.get_by_label("Top p").evaluate("(e) => e === document.activeElement")
    reset = page.get_by_role("button", name="Reset")
    reset.click()
    assert page.get_by_label("Temperature").input_value() == ""
    assert page.get_by_label("System prompt").input_value() == ""
    assert page.locator("dialog").count() == 1
    assert reset.evaluate("(e) => e === document.activeElement")  # a keyboard goes on from there
    page.get_by_role("button", name="Done").click()
    with page.expect_request("**/v1/responses") as sent:
        chat.ask("plain")
    assert not {"temperature", "top_p", "max_output_tokens", "instructions"} & set(
        sent.value.post_data_json)


def test_a_setting_between_the_steps_is_kept(page):
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Temperature").fill("0.33")
    page.get_by_label("Top p").fill("0.955")
    longest = page.locator("#setting-max_tokens")
    longest.fill("1.5")
    longest.blur()
    hints = page.locator("dialog .fields .hint")
    assert hints.all_inner_texts() == ["0 to 2", "0.01 to 1", "1 to 1,000,000 tokens; not kept"]
    page.keyboard.press("Escape")
    until(page, "document.querySelectorAll('dialog').length === 0")
    kept = json.loads(page.evaluate("localStorage.getItem('wyvern.settings')"))
    assert (kept["temperature"], kept["top_p"], kept["max_tokens"]) == (0.33, 0.955, None)


def test_settings_typed_and_left_by_escape_are_kept(page):
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("System prompt").focus()
    page.keyboard.type("Be brief.")
    page.keyboard.press("Escape")
    until(page, "document.querySelectorAll('dialog').length === 0")
    page.reload()
    page.get_by_role("button", name="Settings", exact=True).click()
    assert page.get_by_label("System prompt").input_value() == "Be brief."


def test_settings_of_two_tabs_go_together(watched, fake):
    one = watched.open(fake)
    two = watched.page(watched.contexts[0], fake)

    def put(page, label, value):
        page.get_by_role("button", name="Settings", exact=True).click()
        page.get_by_label(label).fill(value)
        page.get_by_role("button", name="Done").click()

    def seen(page, label):
        page.get_by_role("button", name="Settings", exact=True).click()
        value = page.get_by_label(label).input_value()
        page.keyboard.press("Escape")
        until(page, "document.querySelectorAll('dialog').length === 0")
        return value

    put(one, "Temperature", "0.5")
    wait_for(lambda: seen(two, "Temperature") == "0.5", "the other tab to have heard")
    put(two, "System prompt", "Both.")
    kept = json.loads(one.evaluate("localStorage.getItem('wyvern.settings')"))
    assert (kept["temperature"], kept["system"]) == (0.5, "Both.")


def test_delete_all_leaves_nothing_here_nor_at_the_service(chat, page, fake):
    chat.ask("one")
    page.locator("#new-chat").click()
    chat.send("two tokens=9000 delay_ms=50")
    until(page, "document.querySelector('.message.assistant .md').innerText.length > 10")
    erased = []
    page.on("response", lambda response: response.request.method == "DELETE" and erased.append(response.status))
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_role("button", name="Delete all").click()
    page.locator("dialog").get_by_role("button", name="Delete all").click()
    page.get_by_text("What shall we talk about?").wait_for()
    assert page.locator("#history li").count() == 0 and "/chat/" not in page.evaluate("location.hash")
    wait_for(lambda: page.evaluate("1") and erased == [200, 200], "both replies to be forgotten")
    wait_for(lambda: idle(fake), "a free slot")
    page.reload()
    page.get_by_text("None yet.").wait_for()
    assert page.locator("#history li").count() == 0


def test_an_edit_outlives_what_another_tab_does(watched, fake):
    one = watched.open(fake)
    first = Chat(one)
    first.ask("shared")
    two = watched.page(watched.contexts[0], fake, one.url.removeprefix(fake.url))
    first.users.first.get_by_role("button", name="Edit message").click()
    area = one.locator(".edit textarea")
    area.fill("half a thou")
    Chat(two).ended()
    Chat(two).ask("more")
    one.evaluate("""() => new Promise((done) => {
        const tabs = new BroadcastChannel('wyvern');  // what came before this was heard as well
        tabs.onmessage = () => done();
        new BroadcastChannel('wyvern').postMessage({});
    })""")
    area.press_sequentially("ght tokens=3")
    assert area.input_value() == "half a thought tokens=3"
    one.keyboard.press("Escape")
    until(one, "document.querySelectorAll('.message.assistant .facts').length === 2")
    wait_for(lambda: first.text() == whole("more", 20), "the other tab's reply")
    first.users.first.get_by_role("button", name="Edit message").click()
    area.fill("again tokens=3")
    one.locator(".edit").get_by_role("button", name="Send", exact=True).click()
    first.ended()
    wait_for(lambda: first.text() == whole("again", 3), "the whole reply")
    assert first.replies.count() == 1


def test_another_tab_deletes_what_is_on_the_screen(watched, fake):
    one = watched.open(fake)
    Chat(one).ask("gone")
    two = watched.page(watched.contexts[0], fake)
    one.get_by_role("link", name="Cluster").click()
    two.get_by_role("button", name="Delete “gone”").click()
    two.get_by_role("button", name="Delete", exact=True).click()
    until(one, "document.querySelectorAll('#history li').length === 0")
    one.get_by_role("heading", name="Cluster", exact=True).wait_for()  # it stays where it was
    one.get_by_role("link", name="Chat").click()
    one.get_by_text("What shall we talk about?").wait_for()
    assert one.evaluate("location.hash") in ("#/cluster", "#/chat")


def test_back_from_another_view(chat, page):
    chat.ask("kept")
    address = page.evaluate("location.href")
    page.get_by_role("link", name="Cluster").click()
    page.get_by_role("heading", name="Cluster", exact=True).wait_for()
    page.get_by_role("link", name="Chat").click()
    page.locator("#view-chat").wait_for()
    assert chat.users.count() == 1 and page.evaluate("location.href") == address
    page.get_by_role("link", name="Load").click()
    page.get_by_role("heading", name="Load", exact=True).wait_for()
    page.locator("#new-chat").click()
    page.locator("#view-chat").wait_for()
    assert chat.users.count() == 0
    until(page, "document.activeElement.id === 'prompt'")


def test_a_list_that_changes_keeps_the_focus(chat, page):
    chat.ask("older")
    page.locator("#new-chat").click()
    chat.send("newer tokens=30 delay_ms=50")
    active = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
    page.get_by_role("link", name="older").focus()
    chat.ended()  # the list is made anew with each change
    assert page.evaluate(active) == "older"
    page.get_by_role("button", name="Delete “newer").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Delete", exact=True).click()
    until(page, "document.querySelectorAll('#history li').length === 1")
    assert page.evaluate("document.activeElement !== document.body")


def test_copied_twice(chat, page):
    chat.ask("twice")
    page.clock.install()
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 60)  # a tick is not over before it was seen
    button = chat.replies.last.get_by_role("button", name="Copy reply")
    drawn = button.locator("path")
    before = drawn.get_attribute("d")
    for _ in range(2):
        button.click()
        wait_for(lambda: drawn.get_attribute("d") != before, "a tick")
    wait_for(lambda: page.clock.run_for(3000) or drawn.get_attribute("d") == before, "the tick's end")


def test_a_page_that_begins_with_another_view(watched, fake):
    page = watched.open(fake, "/#/cluster")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")  # it was hidden, and is back
    page.get_by_role("link", name="Chat").click()
    page.get_by_text("What shall we talk about?").wait_for()
    assert Chat(page).ask("first") == whole("first", 20)


def test_an_error_says_what_is_wrong_and_can_be_tried_again(chat):
    chat.send("bad tokens=10 error_at=3")
    fault = chat.ended().locator(".fault")
    assert fault.is_visible() and len(fault.inner_text()) > 10
    assert chat.text() == whole("bad", 3)


def test_two_tabs_show_the_same(watched, fake):
    one = watched.open(fake)
    first = Chat(one)
    first.ask("shared")
    two = watched.page(watched.contexts[0], fake, one.url.removeprefix(fake.url))
    second = Chat(two)
    second.ended()
    assert second.text() == whole("shared", 20)
    second.ask("more")
    until(one, "document.querySelectorAll('.message.assistant .facts').length === 2")
    wait_for(lambda: first.text() == whole("more", 20), "the other tab's reply")


@pytest.fixture
def locked(start, tmp_path):
    """A service that asks for keys, and one."""
    key = new_key(tmp_path / "keys", "ada")
    return start(keys=tmp_path / "keys", model="fake:tokens=5,delay_ms=1"), key


def test_a_key_is_asked_for(watched, locked):
    service, key = locked
    page = watched.open(service)
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("This service asks for a key").wait_for()
    dialog.get_by_label("API key").fill("wv-wrong")
    dialog.get_by_role("button", name="Use this key").click()
    dialog.get_by_text("This key is not known here.").wait_for()  # and asked for again
    dialog.get_by_label("API key").fill(key)
    dialog.get_by_role("button", name="Use this key").click()
    dialog.wait_for(state="hidden")
    chat = Chat(page)
    assert chat.ask("mine") == whole("mine", 5)
    assert page.evaluate("JSON.stringify(localStorage)").find(key) < 0
    page.reload()
    assert chat.ask("still") == whole("still", 5)


def test_a_key_is_not_asked_for_again_and_again(watched, locked):
    service, key = locked
    page = watched.open(service, "/#/cluster")
    refusals = []
    page.on("response", lambda response: response.status == 401 and refusals.append(response.url))
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    page.keyboard.press("Escape")
    asked = len(refusals)
    wait_for(lambda: page.evaluate("1") and len(refusals) >= asked + 2, "the view to ask, in vain")
    assert not dialog.is_visible()
    page.get_by_role("link", name="Chat").click()
    chat = Chat(page)
    chat.send("now")
    dialog.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    chat.ended()
    assert chat.text() == whole("now", 5)


def test_a_key_given_while_the_models_are_asked_for(watched, locked):
    """The answer to the question without the key comes after the key."""
    service, key = locked
    page = watched.open(service)
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    held, answers = [], []
    page.route("**/v1/models", lambda route: route.continue_() if held else held.append(route))
    page.on("response", lambda response: response.url.endswith("/v1/models")
            and answers.append(response.status))
    page.reload()
    wait_for(lambda: page.evaluate("1") and held, "the question")
    chat = Chat(page)
    chat.send("mine")
    dialog.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    chat.ended()
    assert answers == []
    held[0].continue_()
    wait_for(lambda: page.evaluate("1") and answers == [401, 200], "the models")


def test_a_key_given_over_the_settings(watched, locked):
    service, key = locked
    page = watched.open(service)
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")  # not now
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("#setting-key").fill("wv-wrong")
    page.keyboard.press("Enter")
    page.get_by_text("This key is not known here.").wait_for()  # asked again, though it was declined
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")
    until(page, "document.querySelectorAll('dialog').length === 1")
    assert page.locator("#setting-key").input_value() == key
    page.get_by_role("button", name="Done").click()
    assert Chat(page).ask("mine") == whole("mine", 5)


def test_a_conversation_is_printed_whole(chat, page):
    chat.ask("print tokens=2000 delay_ms=0")
    page.emulate_media(media="print")
    assert not page.locator("#side").is_visible() and not chat.composer.is_visible()
    cut = page.locator(".transcript").evaluate("(e) => e.scrollHeight - e.clientHeight")
    assert cut <= 0 and page.evaluate("document.documentElement.scrollHeight") > 1000


@pytest.mark.model
def test_the_real_model_answers(watched, real):
    page = watched.open(real)
    chat = Chat(page)
    page.get_by_role("button", name="Settings", exact=True).click()
    page.get_by_label("Temperature").fill("0")
    page.locator("#setting-max_tokens").fill("48")
    page.get_by_role("button", name="Done").click()
    answer = chat.ask("What is the capital of France?")
    assert "Paris" in answer


# ---- phone and keyboard ----

def test_on_a_phone(watched, fake):
    page = watched.open(fake, viewport=PHONE, has_touch=True, is_mobile=True)
    chat = Chat(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    chat.composer.fill("phone")
    page.get_by_role("button", name="Send", exact=True).tap()
    chat.ended()
    assert chat.text() == whole("phone", 20)
    assert not page.locator("#side").is_visible()
    page.get_by_role("button", name="Menu", exact=True).tap()
    page.get_by_role("link", name="Cluster").tap()
    page.get_by_role("heading", name="Cluster").wait_for()
    page.locator("#side").wait_for(state="hidden")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_role("button", name="Menu", exact=True).tap()
    until(page, "document.activeElement.id === 'side-close'")
    page.keyboard.press("Escape")
    until(page, "!document.getElementById('side').classList.contains('open')")
    page.locator("#side").wait_for(state="hidden")
    assert page.evaluate("document.activeElement.id") == "menu"
    page.get_by_role("button", name="Menu", exact=True).tap()
    page.get_by_role("link", name="Chat").tap()
    page.locator("#view-chat").wait_for()
    assert page.locator("#topbar-title").inner_text() == "phone"


def test_by_keyboard_alone(chat, page):
    for _ in range(30):  # from the composer, where the page begins, back to the first
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.id") == "skip":
            break
    assert page.get_by_role("link", name="Skip to content").is_visible()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.keyboard.type("keys")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two lines")
    page.keyboard.press("Enter")
    chat.ended()
    assert chat.text() == whole("keys", 20)
    assert chat.users.last.locator(".body").inner_text() == "keys\ntwo lines"
    assert page.evaluate("document.activeElement.id") == "prompt"
    seen = []
    for _ in range(12):  # back over the reply's and the message's tools
        page.keyboard.press("Shift+Tab")
        seen.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    for name in ("Regenerate reply", "Copy reply", "Edit message", "Copy message"):
        assert name in seen, seen


def test_a_screen_reader_hears_parts_and_the_end(chat, page):
    page.evaluate("""() => {
        window.heard = [];
        new MutationObserver(() => window.heard.push(document.getElementById('announce').textContent))
            .observe(document.getElementById('announce'), {childList: true, characterData: true, subtree: true});
    }""")
    chat.send("heard tokens=100 delay_ms=20")
    chat.ended()
    heard = page.evaluate("window.heard")
    assert 2 <= len(heard) <= 8, heard
    assert heard[0].startswith("Sent") and heard[-1].strip() == "Reply finished."


def test_colours_follow_the_system_and_the_choice(watched, fake):
    page = watched.open(fake, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    button = page.locator("#theme")
    button.click()
    light = page.evaluate(background)
    assert light != dark and button.get_attribute("aria-label") == "Colours: light"
    page.reload()
    assert page.evaluate(background) == light
    button.click()
    assert page.evaluate(background) == dark
    button.click()
    assert button.get_attribute("aria-label") == "Colours: as the system"
