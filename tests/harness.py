"""Starts real services, waits for conditions, and looks for what they leave behind."""

import configparser
import contextlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai

from broker import Broker, BrokerError

ROOT = pathlib.Path(__file__).resolve().parent.parent
WYVERN = pathlib.Path(os.environ.get("WYVERN_BINARY", ROOT / "build" / "wyvern"))
MODEL = pathlib.Path(os.environ.get(
    "WYVERN_TEST_MODEL", ROOT / "build" / "models" / "SmolLM2-135M-Instruct-Q8_0.gguf"))


# A machine that stands still for seconds is no fault: httpx's own 5 s would say that it is.
httpx._config.DEFAULT_TIMEOUT_CONFIG.__init__(60)


def keeps_freed_memory():
    """Is this wyvern built with ASan?  Its size then says little."""
    return b"__asan_init" in WYVERN.read_bytes()


def wait_for(condition, what, timeout=20, step=0.02):
    """The condition's first true value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(step)


# Below those that the kernel gives to whoever connects somewhere: it would take them meanwhile.
PORTS = range(10000, 32000)
next_port = random.choice(PORTS)  # other runs begin elsewhere


def free_ports(count):
    """The first of `count` ports in a row that are free on loopback now, and that were not given
    to anybody a moment ago."""
    global next_port
    for _ in range(100):
        port = next_port if next_port + count <= PORTS.stop else PORTS.start
        next_port = port + count
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for i in range(count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + i))
            return port
    raise AssertionError("no free ports")


def fake_text(tag, count, start=0):
    """What the fake engine says."""
    return "".join(f"{tag}.{i} " for i in range(start, count))


def process_start(pid):
    """A number that tells this process from a later one with the same pid; None: it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


def kill(pid):
    """SIGKILL, and the death."""
    start = process_start(pid)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: process_start(pid) != start, "the death")


def descendants(pid):
    """{pid: start} of everything below a process."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
    found, frontier = {}, [pid]
    while frontier:
        parent = frontier.pop()
        for child, its_parent in parents.items():
            if its_parent == parent and child not in found:
                start = process_start(child)
                if start is not None:
                    found[child] = start
                    frontier.append(child)
    return found


def mentioning(text):
    """Processes whose command line or environment names something."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    if process_start(int(entry.name)) is not None:
                        found.append(int(entry.name))
    return found


def namespaces(pids):
    """Names of the network namespaces that some processes live in."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            inodes.add(os.stat(f"/proc/{pid}/ns/net").st_ino)
    found = set()
    for entry in pathlib.Path("/run/netns").glob("*"):
        with contextlib.suppress(OSError):
            if entry.stat().st_ino in inodes:
                found.add(entry.name)
    return found


def run(*arguments, timeout=60, env=None, check=None, stdin=None):
    """wyvern with arguments, to its end."""
    done = subprocess.run([str(WYVERN), *map(str, arguments)], capture_output=True, text=True,
                          timeout=timeout, env={**os.environ, **(env or {})}, input=stdin or "")
    if check is not None:
        assert done.returncode == check, (
            f"wyvern {' '.join(map(str, arguments))}: status {done.returncode}\n{done.stderr}")
    return done


def run_json(*arguments, timeout=60):
    return json.loads(run(*arguments, timeout=timeout, check=0).stdout)


class Service:
    """A `wyvern up` of its own: free ports, own state directory."""

    def __init__(self, folder, model="fake:tokens=20,delay_ms=5", env=None, **options):
        self.state_dir = pathlib.Path(folder) / "state"
        self.gateways = int(options.get("gateways", 1))
        self.port = options.pop("port", None) or free_ports(self.gateways)
        settings = {"nodes": 1, "workers": 2, "slots": 4, "node_net": "ports", "model": model,
                    "port": self.port, "state_dir": self.state_dir,
                    "metrics_port": free_ports(int(options.get("nodes", 1)))}
        settings.update(options)
        self.nodes = int(settings["nodes"])
        self.metrics_port = settings["metrics_port"]
        self.command = [str(WYVERN), "up"]
        for name, value in settings.items():
            if value is True:
                self.command.append(f"--{name.replace('_', '-')}")
            elif value is not None:
                self.command += [f"--{name.replace('_', '-')}", str(value)]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log_path = pathlib.Path(folder) / "up.log"
        self.family = {}
        self.namespaces = set()
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, env={**os.environ, **(env or {})})
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    # ---- life ----

    def logs(self):
        parts = [self.log_path.read_text(errors="replace")]
        for path in sorted(self.state_dir.glob("logs/*.log")):
            parts.append(f"--- {path.name}\n" + path.read_text(errors="replace")[-3000:])
        return "\n".join(parts)

    def ready(self, url=None):
        if self.process.poll() is not None:
            raise AssertionError(f"up ended with {self.process.returncode}")
        try:
            return httpx.get((url or self.url) + "/ready", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self, timeout=60):
        try:
            wait_for(self.ready, "/ready", timeout)
            for i in range(1, self.gateways):
                wait_for(lambda i=i: self.ready(self.gateway_url(i)), f"/ready of gateway {i}",
                         timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None
        self.family = descendants(self.process.pid)
        self.namespaces = namespaces(self.family)
        return self

    def gateway_url(self, index):
        return f"http://127.0.0.1:{self.port + index}"

    def term(self):
        self.family |= descendants(self.process.pid)
        self.process.send_signal(signal.SIGTERM)

    def stop(self, timeout=60):
        """SIGTERM, the exit status, and nothing left."""
        if self.process.poll() is None:
            self.term()
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"up does not end\n{self.logs()}") from None
        self.check_nothing_left()
        return status

    def check_nothing_left(self):
        def left():
            same = [p for p, start in self.family.items() if process_start(p) == start]
            return same + mentioning(str(self.state_dir))

        wait_for(lambda: not left(), f"no process left, there is {left()}")
        for name in self.namespaces:
            assert not (pathlib.Path("/run/netns") / name).exists(), f"namespace {name} is left"

    def die(self):
        """SIGKILL for all of it, first for who would start the others again; and the deaths."""
        family = {**self.family, **descendants(self.process.pid)}
        self.process.kill()
        self.process.wait()

        def left():
            return [pid for pid, start in family.items() if process_start(pid) == start]

        for pid in left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not left(), "the deaths")

    def kill(self):
        """For a fixture's end when the test failed: nothing may stay, whatever happened."""
        self.client.close()
        family = {**self.family, **descendants(self.process.pid)}
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for pid, start in family.items():
            if process_start(pid) == start:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def __enter__(self):
        """Ready; and who leaves it well has seen it end well, with nothing left behind."""
        try:
            return self.wait_ready(60)
        except BaseException:
            self.kill()
            raise

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                assert self.stop() == 0, self.logs()
        finally:
            self.kill()

    # ---- use ----

    def post(self, content="hello", gateway=0, timeout=60, **fields):
        body = {"model": "default", "messages": [{"role": "user", "content": content}], **fields}
        return httpx.post(self.gateway_url(gateway) + "/v1/chat/completions", json=body,
                          timeout=timeout, trust_env=False)

    def ask(self, content="hello", **fields):
        reply = self.post(content, **fields)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def text(self, content, **fields):
        return self.ask(content, **fields)["choices"][0]["message"]["content"]

    def status(self):
        return run_json("status", "--url", self.url, "--json")

    def workers(self):
        return [w for node in self.status()["nodes"] for w in node["workers"]]

    def known_nodes(self):
        """All nodes with where their metrics are: a service that is ready may yet hear of some."""
        def known():
            nodes = self.status()["nodes"]
            return nodes if len(nodes) >= self.nodes and all(n["metrics_url"] for n in nodes) else None

        return wait_for(known, "all nodes in the status")

    def metrics_urls(self):
        return [node["metrics_url"] for node in self.known_nodes()]

    def service_ini(self):
        parser = configparser.ConfigParser(interpolation=None)
        assert parser.read(self.state_dir / "service.ini"), "no service.ini"
        return parser

    def broker(self, role="setup"):
        ini = self.service_ini()
        return Broker(ini["broker"]["url"], ini[role]["user"], ini[role]["password"])

    def returned_broker(self):
        """A connection to the broker, which is on its way up again after its death."""
        def connected():
            with contextlib.suppress(OSError, BrokerError):
                return self.broker()

        return wait_for(connected, "the broker's return")


def openai_client(service, gateway=0, key="none"):
    """OpenAI's own client, at one gateway, with an API key."""
    return openai.OpenAI(base_url=service.gateway_url(gateway) + "/v1", api_key=key, max_retries=0,
                         timeout=60, http_client=httpx.Client(trust_env=False))


def new_key(path, name):
    """A new API key, by the verb, in a file of keys."""
    return run("key", "add", name, "--keys", path, check=0).stdout.strip()


def sse_events(lines):
    """(name, data) of each server-sent event in an iterable of lines; comments are left out."""
    name, data = None, None
    for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data = line[5:].strip()
        elif line == "" and data is not None:
            yield name, data
            name, data = None, None


class House:
    """A service in which two people, ann and bob, have API keys; a client of theirs for each
    gateway."""

    def __init__(self, folder, **options):
        self.key_file = folder / "keys"
        self.keys = {name: new_key(self.key_file, name) for name in ("ann", "bob")}
        self.service = Service(folder, keys=self.key_file, **options)
        gateways = range(self.service.gateways)
        self.ann = [openai_client(self.service, i, self.keys["ann"]) for i in gateways]
        self.bob = [openai_client(self.service, i, self.keys["bob"]) for i in gateways]

    def http(self, gateway=0, who="ann"):
        return httpx.Client(base_url=self.service.gateway_url(gateway), trust_env=False, timeout=60,
                            headers={"authorization": f"Bearer {self.keys[who]}"})

    def status(self):
        with self.http() as http:
            return http.get("/wyvern/status").json()

    def active(self):
        """Slots that are busy."""
        return sum(w["active"] for node in self.status()["nodes"] for w in node["workers"])

    def events(self, response_id, after=-1, gateway=0):
        """Raw (name, data) of a resumed stream, to its end."""
        with self.http(gateway) as http, http.stream(
                "GET", f"/v1/responses/{response_id}",
                params={"stream": "true", "starting_after": after}) as reply:
            assert reply.status_code == 200, reply.read()
            return list(sse_events(reply.iter_lines()))


class Stream:
    """A streamed reply, read in a thread of its own."""

    def __init__(self, service, content, gateway=0, **fields):
        self.url = service.gateway_url(gateway) + "/v1/chat/completions"
        self.body = {"model": "default", "messages": [{"role": "user", "content": content}],
                     "stream": True, **fields}
        self.chunks = []
        self.error = None  # an error event, or the status and body of a refusal
        self.done = False  # saw [DONE]
        self.pool = ThreadPoolExecutor(1)
        self.future = self.pool.submit(self._read)

    def _read(self):
        with httpx.stream("POST", self.url, json=self.body, timeout=120,
                          trust_env=False) as reply:
            if reply.status_code != 200:
                reply.read()
                self.error = {"status": reply.status_code, **reply.json()["error"]}
                return
            for line in reply.iter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    self.done = True
                    return
                chunk = json.loads(data)
                if "error" in chunk:
                    self.error = chunk["error"]
                else:
                    self.chunks.append(chunk)

    @property
    def text(self):
        return "".join(c["choices"][0]["delta"].get("content") or ""
                       for c in list(self.chunks) if c["choices"])

    @property
    def prompt_id(self):
        return self.chunks[0]["id"].removeprefix("chatcmpl-")

    @property
    def details(self):
        """The wyvern object of the last chunk."""
        return next(c["wyvern"] for c in reversed(self.chunks) if "wyvern" in c)

    def wait_text(self, length=1, timeout=30):
        wait_for(lambda: len(self.text) >= length or self.future.done(), "the first words", timeout)
        return self

    def join(self, timeout=120):
        self.future.result(timeout)
        self.pool.shutdown()
        return self


def many(service, prompts, parallel=None, **fields):
    """Posts all prompts at once; their HTTP replies in the prompts' order."""
    with ThreadPoolExecutor(parallel or len(prompts)) as pool:
        return list(pool.map(lambda p: service.post(p, **fields), prompts))
