"""What keeps a service from starting: one plain sentence, the mend, a sysexits status, and no
process left.  And the shapes in which it does start."""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from harness import (MODEL, WYVERN, fake_text, free_ports, mentioning, namespaces, run,
                     wait_for)


def refused(tmp_path, *arguments, env=None, timeout=60):
    """Runs an `up` that must not start; its sentence."""
    state = tmp_path / "state"
    settings = ["--state-dir", state, "--port", free_ports(1), "--node-net", "ports",
                "--metrics-port", free_ports(1)]
    done = run("up", *settings, *arguments, env=env, timeout=timeout)
    assert 64 <= done.returncode <= 78, f"status {done.returncode}\n{done.stderr}"
    nobody_is_left(state)
    lines = [line for line in done.stderr.splitlines() if line.startswith("wyvern")]
    assert lines, done.stderr
    assert "Traceback" not in done.stderr and "Assertion" not in done.stderr
    return done.stderr


def nobody_is_left(folder):
    """No process that has to do with it; the last may yet be on its way out."""
    wait_for(lambda: mentioning(str(folder)) == [], f"no process with {folder}", 10)


def test_missing_model(tmp_path):
    said = refused(tmp_path, "--model", tmp_path / "none.gguf")
    assert "none.gguf" in said


@pytest.mark.parametrize("content", [b"", b"hello", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_broken_model(tmp_path, content):
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    assert "broken.gguf" in refused(tmp_path, "--model", path, timeout=60)


def test_cut_off_model(tmp_path, model):
    path = tmp_path / "cut.gguf"
    with open(model, "rb") as whole:
        path.write_bytes(whole.read(3 << 20))
    assert "cut.gguf" in refused(tmp_path, "--model", path, timeout=60)


def test_wrong_fake_model(tmp_path):
    assert "fake" in refused(tmp_path, "--model", "fake:tokens=many")


def test_busy_port(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(tmp_path, "--model", "fake:tokens=1,delay_ms=1", "--port", port)
        assert str(port) in said


def test_busy_metrics_port(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(tmp_path, "--model", "fake:tokens=1,delay_ms=1", "--metrics-port", port)
        assert str(port) in said


def test_state_directory_that_cannot_be(tmp_path):
    (tmp_path / "state").write_text("a file")
    done = run("up", "--state-dir", tmp_path / "state", "--port", free_ports(1), "--model",
               "fake:tokens=1,delay_ms=1")
    assert 64 <= done.returncode <= 78
    assert str(tmp_path / "state") in done.stderr


def test_no_service_at_the_url():
    for verb in (["ask", "hi"], ["status"], ["load"]):
        done = run(verb[0], "--url", f"http://127.0.0.1:{free_ports(1)}", *verb[1:])
        assert done.returncode == 69, (verb, done.returncode, done.stderr)
        assert "127.0.0.1" in done.stderr and done.stdout == ""


def test_a_join_file_that_is_none(tmp_path):
    join = tmp_path / "join.ini"
    join.write_text("[broker]\nurl = nats://127.0.0.1:9\n")
    done = run("node", "--join", join, "--state-dir", tmp_path / "n", timeout=60)
    assert 64 <= done.returncode <= 78 and str(join) in done.stderr


def test_a_node_whose_broker_is_away(start, tmp_path):
    service = start(listen="127.0.0.1")
    text = join_file(service).read_text()
    assert service.stop() == 0
    join = tmp_path / "join.ini"
    join.write_text(text)
    url = service.service_ini()["broker"]["url"]
    done = run("node", "--join", join, "--state-dir", tmp_path / "n", "--metrics-port",
               free_ports(1), timeout=60)
    assert done.returncode == 69, done.stderr
    assert url.rpartition("/")[2] in done.stderr
    nobody_is_left(tmp_path / "n")


def test_too_little_disk(tmp_path):
    (tmp_path / "state").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs",
                              str(tmp_path / "state")], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        said = refused(tmp_path, "--model", "fake:tokens=1,delay_ms=1")
        assert "MiB" in said and str(tmp_path / "state") in said
    finally:
        subprocess.run(["umount", str(tmp_path / "state")], check=True)


can_namespace = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"),
                                   reason="network namespaces need root")


@can_namespace
def test_two_nodes_in_namespaces(start):
    service = start(nodes=2, workers=4, node_net="namespaces", metrics_port=None)
    nodes = service.known_nodes()
    assert len({n["name"] for n in nodes}) == 2
    assert len({n["address"] for n in nodes}) == 2
    assert all(n["metrics_url"].endswith(":8000/metrics") for n in nodes)
    own = namespaces(service.family)
    assert len(own) == 2
    assert service.text("ns tokens=5") == fake_text("ns", 5)
    for node in nodes:
        text = service_metrics(node["metrics_url"])
        assert "system_load_average" in text
    assert service.stop() == 0
    assert not any((pathlib.Path("/run/netns") / name).exists() for name in own)


def service_metrics(url):
    reply = httpx.get(url, trust_env=False)
    assert reply.status_code == 200
    return reply.text


@can_namespace
def test_two_services_side_by_side(start):
    one = start(nodes=2, node_net="namespaces", metrics_port=None)
    two = start(nodes=2, node_net="namespaces", metrics_port=None)
    assert one.text("one tokens=2") == fake_text("one", 2)
    assert two.text("two tokens=2") == fake_text("two", 2)
    assert one.stop() == 0
    assert two.text("still tokens=2") == fake_text("still", 2)


def test_two_nodes_on_ports(start):
    service = start(nodes=2, workers=2, node_net="ports")
    nodes = service.known_nodes()
    assert len({n["name"] for n in nodes}) == 2
    assert len({n["metrics_url"] for n in nodes}) == 2


class Node:
    """A `wyvern node` of another "host" that joins a running service."""

    def __init__(self, folder, join, prefix=(), arguments=()):
        folder.mkdir()
        self.log = folder / "node.log"
        self.state = folder / "state"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*prefix, str(WYVERN), "node", "--join", str(join), "--state-dir",
                 str(self.state), "--workers", "1", *map(str, arguments)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def stop(self):
        self.process.terminate()
        status = self.process.wait(60)
        assert status == 0, self.log.read_text()
        nobody_is_left(self.state)


def join_file(service):
    return wait_for(lambda: next(iter(service.state_dir.glob("join*")), None), "the join file")


def test_a_node_joins_takes_a_share_and_leaves(start, tmp_path):
    service = start(workers=1, slots=2, listen="127.0.0.1", model="fake:tokens=40,delay_ms=10")
    node = Node(tmp_path / "guest", join_file(service),
                arguments=["--metrics-port", free_ports(1), "--node", "guest", "--slots", 2])
    try:
        wait_for(lambda: any(n["name"] == "guest" and any(w["state"] == "ready"
                             for w in n["workers"]) for n in service.status()["nodes"]),
                 "the guest", 60)
        with ThreadPoolExecutor(40) as pool:
            replies = [pool.submit(service.ask, f"j{i}") for i in range(40)]
            wait_for(lambda: any(r.done() and r.result()["wyvern"]["node"] == "guest"
                                 for r in replies), "the guest's first reply")
            node.process.terminate()  # leaves in the middle
            bodies = [r.result() for r in replies]
        for i, body in enumerate(bodies):
            assert body["choices"][0]["message"]["content"] == fake_text(f"j{i}", 40)
            assert body["wyvern"]["attempt"] == 1
        node.stop()
        wait_for(lambda: all(n["name"] != "guest" for n in service.status()["nodes"]),
                 "the guest's leaving")
    finally:
        if node.process.poll() is None:
            node.process.kill()
            node.process.wait()


@can_namespace
def test_a_node_joins_from_another_namespace(start, tmp_path, model):
    """Its own address and port 8000; the model is found by name in its cache, and checked."""
    name = f"wvt{os.getpid() % 10000}"
    outside, inside = (f"10.213.{os.getpid() % 256}.{i}" for i in (1, 2))
    def ip(*words):
        subprocess.run(["ip", *words], check=True)
    ip("netns", "add", name)
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b")
        ip("link", "set", f"{name}b", "netns", name)
        ip("addr", "add", f"{outside}/30", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "addr", "add", f"{inside}/30", "dev", f"{name}b")
        ip("-n", name, "link", "set", f"{name}b", "up")
        ip("-n", name, "link", "set", "lo", "up")
        service = start(workers=1, slots=1, listen=outside, model=model)
        node = Node(tmp_path / "guest", join_file(service), ["ip", "netns", "exec", name],
                    ["--node", "guest", "--address", inside, "--model", MODEL])
        try:
            wait_for(lambda: any(n["name"] == "guest" and any(w["state"] == "ready"
                                 for w in n["workers"]) for n in service.status()["nodes"]),
                     "the guest", 60)
            guest = wait_for(lambda: [n for n in service.status()["nodes"] if n["name"] == "guest"
                                      and n["metrics_url"]], "its metrics' place")[0]
            assert guest["address"] == inside
            assert guest["metrics_url"] == f"http://{inside}:8000/metrics"
            assert "system_load_average" in service_metrics(guest["metrics_url"])

            def takes_a_share():
                with ThreadPoolExecutor(4) as pool:
                    bodies = list(pool.map(lambda i: service.ask(f"Count to {i}.", max_tokens=24),
                                           range(4)))
                return "guest" in {b["wyvern"]["node"] for b in bodies}

            wait_for(takes_a_share, "the guest's share")
            node.stop()
            assert service.stop() == 0, service.logs()
        finally:
            if node.process.poll() is None:
                node.process.kill()
                node.process.wait()
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)
        subprocess.run(["ip", "link", "del", f"{name}a"], check=False, capture_output=True)


def test_a_joining_node_refuses_another_model(start, tmp_path, model):
    service = start(workers=1, slots=1, listen="127.0.0.1", model=model)
    other = tmp_path / MODEL.name
    with open(model, "rb") as whole:
        other.write_bytes(whole.read(1 << 20))
    done = run("node", "--join", join_file(service), "--model", other, "--state-dir",
               tmp_path / "n", "--metrics-port", free_ports(1), timeout=60)
    assert 64 <= done.returncode <= 78
    assert MODEL.name in done.stderr


def test_secrets_are_in_files_that_nobody_else_reads(start):
    service = start(listen="127.0.0.1")
    ini = service.service_ini()
    secrets = [ini[s]["password"] for s in ini.sections() if "password" in ini[s]]
    assert len(set(secrets)) == len(secrets) >= 5
    for pid in service.family:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            line = open(f"/proc/{pid}/cmdline", "rb").read().decode(errors="replace")
            assert not any(secret in line for secret in secrets)
    for path in service.state_dir.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # the broker's files come and go
            if path.is_file() and any(s.encode() in path.read_bytes() for s in secrets):
                assert path.stat().st_mode & 0o077 == 0, path


def test_nothing_listens_beyond_loopback(start):
    service = start()
    pids = {service.process.pid, *service.family}
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    for line in listening.splitlines():
        if any(f"pid={pid}," in line for pid in pids):
            assert line.split()[3].startswith(("127.0.0.1:", "[::1]:")), line


def test_no_terminal_no_control_codes(start):
    service = start()
    assert service.stop() == 0
    assert "\x1b" not in service.log_path.read_text() and "\r" not in service.log_path.read_text()


def test_the_harness_sees_a_process_that_is_left(tmp_path):
    left = subprocess.Popen(["tail", "-f", "/dev/null", str(tmp_path / "x")],
                            stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: left.pid in mentioning(str(tmp_path)), "the process")
    finally:
        left.kill()
        left.wait()
    assert mentioning(str(tmp_path)) == []


def test_each_worker_sees_its_own_gpu_alone(start):
    """Pinned by UUID, whatever the service itself was shown."""
    service = start(nodes=2, workers=4, device="gpu:GPU-aa,gpu:MIG-b/1/0,cpu:0",
                    env={"CUDA_VISIBLE_DEVICES": "1,0"})
    seen = {}
    for worker in service.workers():
        lines = open(f"/proc/{worker['pid']}/environ", "rb").read().decode().split("\0")
        seen.setdefault(worker["device"], []).append(
            [line for line in lines if line.startswith("CUDA_VISIBLE_DEVICES=")])
    assert seen == {"gpu:GPU-aa": [["CUDA_VISIBLE_DEVICES=GPU-aa"]] * 2,
                    "gpu:MIG-b/1/0": [["CUDA_VISIBLE_DEVICES=MIG-b/1/0"]],
                    "cpu:0": [["CUDA_VISIBLE_DEVICES=1,0"]]}
