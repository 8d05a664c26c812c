"""wyvern in a pseudo-terminal: keys in, what it wrote out."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios

from harness import WYVERN, wait_for

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Pty:
    """A program with a terminal of its own."""

    def __init__(self, *command, columns=80, lines=40, env=None, stdin=None):
        self.master, self.slave = pty.openpty()  # the slave stays open: else the terminal would end
        self.size(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.raw = b""
        environment = {**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})}
        if "NO_COLOR" not in (env or {}):
            environment.pop("NO_COLOR", None)

        def own_terminal():
            os.setsid()
            fcntl.ioctl(1, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [str(part) for part in command], stdin=self.slave if stdin is None else stdin,
            stdout=self.slave, stderr=self.slave, env=environment, preexec_fn=own_terminal)

    def size(self, columns, lines):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def keys(self, text):
        os.write(self.master, text.encode())

    def line(self, text):
        self.keys(text + "\r")

    def read(self):
        """All it wrote so far, as it is."""
        while select.select([self.master], [], [], 0)[0]:
            self.raw += os.read(self.master, 65536)
        return self.raw.decode("utf-8", "replace")

    def text(self):
        """The same without escape sequences."""
        return ESCAPE.sub("", self.read()).replace("\r", "")

    def wait(self, what, timeout=30, after=0):
        """Until it wrote this (a text, or a pattern); where that ends in text()."""
        pattern = what if isinstance(what, re.Pattern) else re.compile(re.escape(what))

        def there():
            found = pattern.search(self.text(), after)
            if found:
                return found.end()
            assert self.process.poll() is None, f"it ended: {self.text()[-2000:]}"
            return None

        try:
            return wait_for(there, f"{pattern.pattern!r}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; there is\n{self.text()[-3000:]}") from None

    def ended(self, timeout=30):
        """Its status; it is read meanwhile, and the terminal must be as it was."""
        def gone():
            self.read()
            return self.process.poll() is not None

        wait_for(gone, "its end", timeout)
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


READY = re.compile(r"\n> $")  # the prompt, and nothing typed behind it
COMPOSED = re.compile(r"(?:^|\n)(?:> |… )[^\n]*$")  # the last line is one that can be typed into


class Chat(Pty):
    """wyvern chat, with a state directory of its own."""

    def __init__(self, url, folder, *options, **kinds):
        self.folder = folder
        super().__init__(WYVERN, "chat", "--url", url, "--state-dir", folder, *options, **kinds)
        self.at = self.wait("> ")

    def answer(self, question, timeout=30):
        """What came between the question and the next prompt."""
        self.wait(COMPOSED, timeout)  # else the prompt that is yet to come would be taken for the next
        begin = len(self.text())
        self.line(question)
        wanted = "".join(question[:16].split())  # a longer one is drawn anew where the line ends
        wait_for(lambda: wanted in "".join(self.text()[begin:].split()), f"the echo of {question!r}")
        end = self.wait(READY, timeout, begin)
        return self.text()[begin:end]

    def enter(self, word, timeout=30):
        """Sends what is typed already; until a word of the reply came, and the next prompt."""
        begin = len(self.text())
        self.line("")
        self.wait(READY, timeout, self.wait(word, timeout, begin))
