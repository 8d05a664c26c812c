"""A few lines of the NATS protocol, enough to look at a broker and to see what it refuses.

Blocking, one thread.  https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

import json
import re
import secrets
import socket
import time
from dataclasses import dataclass

ANSWER_S = 20  # a broker's that is there


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
        self.sock = socket.create_connection((host, int(port)), timeout=ANSWER_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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

    def publish(self, subject, data=b"", reply="", headers=None):
        head = ""
        if headers:
            head = "NATS/1.0\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        sizes = f"{len(head)} {len(head) + len(data)}" if head else f"{len(data)}"
        line = f"{'HPUB' if head else 'PUB'} {subject} {reply} {sizes}".replace("  ", " ")
        self._send(line.encode() + b"\r\n" + head.encode() + data + b"\r\n")

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
                self.sock.settimeout(ANSWER_S)

    def request(self, subject, payload=None, timeout=ANSWER_S, headers=None):
        inbox = f"{self.prefix}.{time.monotonic_ns()}"
        sid = self.subscribe(inbox)
        if not isinstance(payload, bytes):
            payload = b"" if payload is None else json.dumps(payload).encode()
        self.publish(subject, payload, inbox, headers)
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

    def put(self, subject, payload, expect=None):
        """Stores a message; the sequence, or the broker's error code as a negative number."""
        headers = {} if expect is None else {"Nats-Expected-Last-Subject-Sequence": expect}
        answer = self.request(subject, payload, headers=headers).json()
        return -answer["error"]["err_code"] if "error" in answer else answer["seq"]

    def last(self, stream, subject):
        """The latest message of a subject (wildcards may be in it), or None."""
        answer = self.request(f"$JS.API.DIRECT.GET.{stream}", {"last_by_subj": subject})
        return None if answer.headers.get("status", "").startswith("404") else answer

    def stored(self, stream, subject):
        """All messages of a subject, oldest first (at most 1000)."""
        inbox = f"{self.prefix}.{time.monotonic_ns()}"
        sid = self.subscribe(inbox)
        ask = {"batch": 1000, "seq": 1, "next_by_subj": subject}
        self.publish(f"$JS.API.DIRECT.GET.{stream}", json.dumps(ask).encode(), inbox)
        got = self.messages(lambda m: m and m[-1].headers.get("status", "")[:3] in ("204", "404"), 30)
        self.unsubscribe(sid)
        return got[:-1]

    # ---- the service's own messages ----

    def put_prompt(self, model, content="hello", lane="main", prompt_id=None, gateway="0" * 16,
                   **fields):
        """A prompt as a gateway puts it; its id."""
        prompt_id = prompt_id or secrets.token_hex(16)
        token = "".join(c if re.match(r"[A-Za-z0-9_-]", c) else "".join(
            f"={b:02X}" for b in c.encode()) for c in model)
        message = {"v": 1, "id": prompt_id, "gateway": gateway, "prompter": "test", "model": model,
                   "detached": False, "params": {}, **fields}
        if "task" not in fields:
            message.setdefault("messages", [{"role": "user", "content": content}])
        sequence = self.put(f"prompt.{token}.{lane}.{prompt_id}", message, expect=0)
        if sequence < 0:
            raise BrokerError(f"the prompt was refused: {sequence}")
        return prompt_id

    def gateway_tag(self, pid):
        """The tag of a gateway's process, as its claims and presence have it."""
        sid = self.subscribe("state.gateway.>")
        heard = self.messages(lambda got: any(m.json()["pid"] == pid for m in got
                                              if m.subject.startswith("state.")), 30)
        self.unsubscribe(sid)
        return next(m.json()["boot"] for m in heard if m.json()["pid"] == pid)

    def record(self, prompt_id, timeout=60):
        """How a prompt ended."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.last("REPLIES", f"reply.*.{prompt_id}")
            if found is not None:
                return found.json()
            if time.monotonic() > deadline:
                raise BrokerError(f"no record of {prompt_id} after {timeout} s")
            time.sleep(0.02)

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
