"""What tests of the console share."""

from harness import wait_for

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


def until(page, expression, timeout=20):
    """Waits for an expression in the page.  (Playwright's own way needs eval, which the page's
    policy forbids.)"""
    return wait_for(lambda: page.evaluate(expression), expression, timeout)


class Chat:
    """What a person does in a chat."""

    def __init__(self, page):
        self.page = page
        self.replies = page.locator(".message.assistant")
        self.users = page.locator(".message.user")
        self.composer = page.locator("#prompt")

    def send(self, text):
        self.composer.fill(text)
        self.composer.press("Enter")

    def ended(self, nth=-1, timeout=30000):
        """Waits for a reply's end."""
        reply = self.replies.nth(nth)
        reply.get_by_role("button", name="Regenerate reply").wait_for(timeout=timeout)
        return reply

    def text(self, nth=-1):
        return " ".join(self.replies.nth(nth).locator(".md").inner_text().split())

    def ask(self, text):
        self.send(text)
        self.ended()
        return self.text()
