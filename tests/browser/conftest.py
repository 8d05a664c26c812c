"""A headless Chromium that looks at the console, and sees that it keeps to its own house rules."""

import contextlib
import os

import pytest
from playwright.sync_api import sync_playwright

from console import DESKTOP, Chat

CHROMIUM = os.environ.get("WYVERN_TEST_CHROMIUM", "/usr/bin/chromium")

# Before anything of the page runs: what the policy forbids.
WATCH = """
window.violations = [];
document.addEventListener('securitypolicyviolation',
    (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest.fixture(scope="session")
def chromium():
    assert os.path.exists(CHROMIUM), f"no {CHROMIUM}: scripts/deps.sh check installs it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """Pages of one test: what went wrong on them, and whom they spoke to."""

    def __init__(self, chromium):
        self.chromium = chromium
        self.contexts, self.pages, self.errors, self.requests = [], [], [], []

    def open(self, service, path="/", **options):
        options.setdefault("viewport", DESKTOP)
        context = self.chromium.new_context(**options)
        context.set_default_timeout(30000)
        context.add_init_script(WATCH)
        self.contexts.append(context)
        return self.page(context, service, path)

    def page(self, context, service, path="/"):
        page = context.new_page()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        self.pages.append(page)
        self.url = service.url
        page.goto(service.url + path)
        page.wait_for_selector("#prompt", state="attached")
        return page

    def check(self):
        for page in self.pages:
            if not page.is_closed():
                self.errors += page.evaluate("window.violations")
        assert not self.errors, self.errors
        foreign = [url for url in self.requests
                   if not url.startswith((self.url + "/", "data:", "blob:"))]
        assert not foreign, foreign

    def close(self):
        for context in self.contexts:
            with contextlib.suppress(Exception):
                context.close()


@pytest.fixture
def watched(chromium):
    watched = Watched(chromium)
    try:
        yield watched
        watched.check()
    finally:
        watched.close()


@pytest.fixture
def page(watched, fake):
    return watched.open(fake)


@pytest.fixture
def chat(page):
    return Chat(page)
