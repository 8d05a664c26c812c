"""A few lines of the NATS protocol, enough to look at a broker and to see what it refuses.

Blocking, one thread.  https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

import json
import re
import socket
import time
from dataclasses import dataclass


@dataclass
class Message:
    subject: str
    reply: str
    headers: dict
    data: bytes

    def json(self):
        return json.loads(self.data)

    @property
    def stored_subject(self):
        return self.headers.get("Nats-Subject", self.subject)


class BrokerError(Exception):
    pass


class Broker:
    def __init__(self, url, user=None, password=None):
        host, port = re.fullmatch(r"nats://([^:]+):(\d+)", url).groups()
        self.sock = socket.create_connection((host, int(port)), timeout=5)
        self.rest = b""
        self.errors = []
        self.inbox = []
        self.next_sid = 1
        self.prefix = f"_INBOX_{user or 'test'}"
        self._line()  # INFO
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True,
                   "lang": "test", "version": "0", "protocol": 1}
        if user is not None:
            options.update(user=user, **{"pass": password})
        self._send(f"CONNECT {json.dumps(options)}\r\n".encode())
        self.flush()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _send(self, data):
        self.sock.sendall(data)

    def _fill(self):
        data = self.sock.recv(65536)
        if not data:
            raise BrokerError("the broker closed the connection: " + "; ".join(self.errors))
        self.rest += data

    def _line(self):
        while b"\r\n" not in self.rest:
            self._fill()
        line, self.rest = self.rest.split(b"\r\n", 1)
        return line.decode()

    def _take(self, count):
        while len(self.rest) < count + 2:
            self._fill()
        data, self.rest = self.rest[:count], self.rest[count + 2:]
        return data

    def _read(self):
        """One protocol line: messages go to the inbox, errors to errors.  Returns its verb."""
        line = self._line()
        verb, _, rest = line.partition(" ")
        if verb == "PING":
            self._send(b"PONG\r\n")
        elif verb == "-ERR":
            self.errors.append(rest.strip("'"))
        elif verb in ("MSG", "HMSG"):
            words = rest.split(" ")
            sizes = 2 if verb == "HMSG" else 1
            reply = words[2] if len(words) == 3 + sizes else ""
            body = self._take(int(words[-1]))
            headers = {}
            if verb == "HMSG":
                head, body = body[:int(words[-2])], body[int(words[-2]):]
                first, *lines = head.decode().rstrip("\r\n").split("\r\n")
                headers["status"] = first.removeprefix("NATS/1.0").strip()
                headers.update(pair.split(": ", 1) for pair in lines if ": " in pair)
            self.inbox.append(Message(words[0], reply, headers, body))
        return verb

    def flush(self):
        """Waits until the broker has seen everything sent so far."""
        self._send(b"PING\r\n")
        while self._read() != "PONG":
            pass

    def subscribe(self, subject):
        sid = self.next_sid
        self.next_sid += 1
        self._send(f"SUB {subject} {sid}\r\n".encode())
        return sid

    def unsubscribe(self, sid):
        self._send(f"UNSUB {sid}\r\n".encode())

    def publish(self, subject, data=b"", reply=""):
        head = f"PUB {subject} {reply} {len(data)}".replace("  ", " ")
        self._send(head.encode() + b"\r\n" + data + b"\r\n")

    def messages(self, done, timeout=10):
        """Collects messages until done(list) or the time is over; returns what came."""
        got = []
        deadline = time.monotonic() + timeout
        while True:
            got += self.inbox
            self.inbox = []
            if done(got):
                return got
            left = deadline - time.monotonic()
            if left <= 0:
                return got
            self.sock.settimeout(left)
            try:
                self._read()
            except TimeoutError:
                return got
            finally:
                self.sock.settimeout(5)

    def request(self, subject, payload=None, timeout=5):
        inbox = f"{self.prefix}.{time.monotonic_ns()}"
        sid = self.subscribe(inbox)
        data = b"" if payload is None else json.dumps(payload).encode()
        self.publish(subject, data, inbox)
        got = self.messages(lambda m: any(x.subject == inbox for x in m), timeout)
        self.unsubscribe(sid)
        for message in got:
            if message.subject == inbox:
                return message
        raise BrokerError(f"no answer to {subject}: {self.errors}")

    # ---- JetStream ----

    def api(self, name, payload=None):
        answer = self.request(f"$JS.API.{name}", payload).json()
        if "error" in answer:
            raise BrokerError(f"{name}: {answer['error']}")
        return answer

    def subjects(self, stream, pattern):
        """Subject → number of messages stored under it."""
        info = self.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern})
        return info["state"].get("subjects") or {}

    def count(self, stream):
        return self.api(f"STREAM.INFO.{stream}")["state"]["messages"]

    def refuses(self, verb, subject):
        """Does the broker refuse this user to publish to ("pub") or hear ("sub") a subject?"""
        self.errors.clear()
        if verb == "pub":
            self.publish(subject, b"{}")
        else:
            self.unsubscribe(self.subscribe(subject))
        self.flush()
        return any("permissions violation" in e.lower() for e in self.errors)
