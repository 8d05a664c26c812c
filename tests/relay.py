"""A gateway behind a relay to the broker, which knows where the broker's messages begin and end: it
can be cut, and single messages can be held back, dropped and let go, so that what must happen in
one moment happens in it.

https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading

import httpx

from harness import WYVERN, free_ports, wait_for

SIZED = {b"PUB", b"HPUB", b"MSG", b"HMSG"}


class Frame:
    """One protocol line with its payload; headers count as payload."""

    def __init__(self, line, data):
        words = line.split()
        self.verb = words[0].decode().upper() if words else ""
        self.data = data
        self.raw = line + b"\r\n" + (data + b"\r\n" if data is not None else b"")
        self.subject = self.reply = ""
        if data is not None:
            sizes = 2 if self.verb[0] == "H" else 1
            names = [w.decode() for w in words[1:-sizes]]
            if self.verb in ("MSG", "HMSG"):
                del names[1]  # the subscription's number
            self.subject = names[0]
            self.reply = names[1] if len(names) > 1 else ""


class Hold:
    """What matches is kept back, as often as `times` says, after `skip` that go through."""

    def __init__(self, match, skip=0, times=1):
        self.match, self.skip, self.times = match, skip, times
        self.held = []  # (frame, send)
        self.seen = 0  # how many matched, held or not

    def takes(self, frame, send):
        if frame.data is None or not self.match(frame):
            return False
        self.seen += 1
        if self.times == 0:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        self.held.append((frame, send))
        return True

    def wait(self, count=1, timeout=20):
        wait_for(lambda: len(self.held) >= count, "the message to hold", timeout)
        return self

    def release(self):
        """What is held goes on its way; further ones are not held."""
        self.times = 0
        for frame, send in self.held:
            send(frame.raw)
        self.held = []


def about(subject, text=b""):
    """Matches messages by their subject, and what is in them."""
    return lambda frame: re.fullmatch(subject, frame.subject) and text in frame.data


class Relay:
    def __init__(self, url):
        host, port = re.fullmatch(r"nats://([^:]+):(\d+)", url).groups()
        self.target = (host, int(port))
        self.lock = threading.Lock()
        self.holds = {"up": [], "down": []}
        self.pairs = []
        self.listener = None
        self.port = 0
        self.heal()
        self.url = f"nats://127.0.0.1:{self.port}"

    # ---- holding ----

    def hold_up(self, match, **fields):
        """Of what the gateway sends."""
        return self._hold("up", Hold(match, **fields))

    def hold_down(self, match, **fields):
        """Of what the broker sends."""
        return self._hold("down", Hold(match, **fields))

    def watch(self, match):
        """Counts what the gateway sends, and holds nothing."""
        return self._hold("up", Hold(match, times=0))

    def hold_answers(self, match, **fields):
        """Of the broker's answers to what the gateway asks for."""
        inboxes = set()

        def asked(frame):
            if match(frame):
                inboxes.add(frame.reply)
            return False

        self._hold("up", Hold(asked))
        return self.hold_down(lambda frame: frame.subject in inboxes, **fields)

    def _hold(self, side, hold):
        with self.lock:
            self.holds[side].append(hold)
        return hold

    # ---- the connection ----

    def heal(self):
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self.listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self):
        """The connection ends, and a new one is refused."""
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for near, far in self.pairs:
            self._end(near, far)
        self.pairs = []

    @staticmethod
    def _end(*ends):
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener):
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(self.target)
            except OSError:
                return
            self.pairs.append((near, far))
            for side, a, b in (("up", near, far), ("down", far, near)):
                threading.Thread(target=self._pass, args=(side, a, b), daemon=True).start()

    def _pass(self, side, source, sink):
        lock = threading.Lock()

        def send(raw):
            with lock, contextlib.suppress(OSError):
                sink.sendall(raw)

        stream = source.makefile("rb")
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline():
                words = line.split()
                sized = bool(words) and words[0].upper() in SIZED
                data = stream.read(int(words[-1]) + 2)[:-2] if sized else None
                frame = Frame(line.rstrip(b"\r\n"), data)
                with self.lock:
                    holds = list(self.holds[side])
                if not any(hold.takes(frame, send) for hold in holds):
                    send(frame.raw)
        self._end(source, sink)


class FarGateway:
    """A gateway of a running service, behind a relay."""

    def __init__(self, service, folder, **options):
        ini = service.service_ini()
        self.relay = Relay(ini["broker"]["url"])
        ini["broker"]["url"] = self.relay.url
        folder.mkdir()
        with open(folder / "join.ini", "w") as file:
            ini.write(file)
        self.port = free_ports(1)
        self.log_path = folder / "gateway.log"
        command = [str(WYVERN), "gateway", "--join", folder / "join.ini", "--name", "far",
                   "--state-dir", folder, "--port", self.port]
        for name, value in options.items():
            command += [f"--{name.replace('_', '-')}", value]
        with open(self.log_path, "wb") as log:
            # Freed memory is overwritten, so that what still uses it falls.
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "MALLOC_PERTURB_": "165"})

    def gateway_url(self, _=0):
        return f"http://127.0.0.1:{self.port}"

    def log(self):
        return self.log_path.read_text(errors="replace")

    def ready(self):
        try:
            return httpx.get(self.gateway_url() + "/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self):
        wait_for(self.ready, f"/ready of {self.log()}")
        return self

    def lives(self):
        return self.process.poll() is None

    def stop(self, timeout=60):
        """SIGTERM, and the exit status."""
        if self.lives():
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the gateway does not end\n{self.log()}") from None

    def kill(self):
        if self.lives():
            self.process.kill()
        self.process.wait()
        self.relay.cut()
