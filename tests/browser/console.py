"""What tests of the console share."""

import contextlib
import socket
import threading

from harness import wait_for

DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}


def until(page, expression, timeout=30):
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

    def ended(self, nth=-1, timeout=60000):
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


class Line:
    """A TCP relay to a gateway: it can be cut (connections end, new ones are refused), healed, and
    frozen (what is open passes nothing on, and nobody is told).  It does that by itself behind some
    words of the gateway's, so that a reply is cut in its middle however slow the test is."""

    def __init__(self, port):
        self.target = port
        self.pairs = []
        self.listener = None
        self.mark = None  # (words, what is done behind them)
        self.goes_on = threading.Event()
        self.goes_on.set()
        # While the line is cut its port is nobody else's: bound, and not listened at.
        self.place = socket.socket()
        self.place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.place.bind(("127.0.0.1", 0))
        self.port = self.place.getsockname()[1]
        self.heal()
        self.url = f"http://127.0.0.1:{self.port}"

    def heal(self):
        listener = socket.create_server(("127.0.0.1", self.port))
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            pair = {"ends": (near, far), "frozen": False}
            self.pairs.append(pair)
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(pair, a, b), daemon=True).start()

    def _pass(self, pair, a, b):
        before = b""
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                if self.mark and a is pair["ends"][1]:
                    words, act = self.mark
                    at = (before + data).find(words)
                    if at >= 0:
                        self.mark = None
                        end = at + len(words) - len(before)
                        b.sendall(data[:end])
                        data = data[end:]
                        act()
                        self.goes_on.wait()
                    before = (before + data)[-len(words):]
                if not pair["frozen"]:
                    b.sendall(data)
        if not pair["frozen"]:
            Line._end(pair)

    def behind(self, words, act):
        """What the gateway says goes on up to some words; then this is done, once."""
        self.mark = (words.encode(), act)

    def hold(self):
        """What comes next is kept back, until go_on()."""
        self.goes_on.clear()

    def go_on(self):
        self.goes_on.set()

    @staticmethod
    def _end(pair):
        for end in pair["ends"]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def freeze(self):
        for pair in self.pairs:
            pair["frozen"] = True

    def cut(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for pair in self.pairs:
            self._end(pair)
        self.pairs = []

    def close(self):
        self.go_on()
        self.cut()
        self.place.close()
