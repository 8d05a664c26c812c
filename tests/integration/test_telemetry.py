"""The telemetry worker on a node whose parts fail: drivers, GPUs, files, disks, scrapers.

It runs alone, with stand-ins for NVIDIA's library and for /sys and /proc, and a broker that is not
there."""

import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_004

from harness import ROOT, WYVERN, free_ports, wait_for

STANDIN = ROOT / "build" / "standin"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PER_GPU = [
    "wyvern_gpu_utilization_ratio", "wyvern_gpu_memory_busy_ratio", "wyvern_gpu_memory_used_bytes",
    "wyvern_gpu_memory_free_bytes", "wyvern_gpu_memory_size_bytes", "wyvern_gpu_power_watts",
    "wyvern_gpu_power_limit_watts", "wyvern_gpu_energy_joules", "wyvern_gpu_temperature_celsius"]
ORIGINAL = ["gpu_utilization", "gpu_memory_utilization", "gpu_memory_used", "gpu_memory_free",
            "gpu_memory_total"]


def gpu_lines(index, uuid, **other):
    """What a healthy GPU answers."""
    figures = {"uuid": uuid, "name": "NVIDIA H200", "util": "71 33",
               "memory": "85899345920 12884901888 73014444032", "power": "312500",
               "limit": "700000", "energy": "98765432", "temperature": "63",
               "clock": "1980 2619", "ecc": "7 2", **other}
    return "".join(f"{index} {name} {value}\n" for name, value in figures.items())


def script(count, *extra, **other):
    lines = "".join(gpu_lines(i, f"GPU-{i:04x}", **other) for i in range(count))
    return "".join(line + "\n" for line in extra) + f"count {count}\n" + lines


class Exporter:
    def __init__(self, folder, *options, gpus=None):
        self.folder = folder
        self.port = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.script = folder / "gpus"
        self.sysfs = folder / "sys"
        self.procfs = folder / "proc"
        self.log_path = folder / "telemetry.log"
        self.state = folder / "state"
        self.state.mkdir()
        (folder / "join.ini").write_text(
            f"[broker]\nurl = nats://127.0.0.1:{free_ports(1)}\n"
            "[model]\nname = m\nfile = fake:tokens=1\nsha256 =\n"
            "[telemetry]\nuser = telemetry\npassword = none\n")
        env = {**os.environ, "WYVERN_SYSFS": str(self.sysfs)}
        if gpus is not None:
            self.script.write_text(gpus)
            env.update(LD_LIBRARY_PATH=str(STANDIN), STANDIN_NVML=str(self.script))
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [str(WYVERN), "telemetry", "--join", str(folder / "join.ini"), "--node", "n1",
                 "--state-dir", str(self.state), "--metrics-port", str(self.port),
                 *map(str, options)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        try:
            wait_for(self.answers, "the exporter", 30)
        except AssertionError:
            self.process.kill()
            raise AssertionError(self.log()) from None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def answers(self):
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(self.url + "/health", trust_env=False).status_code == 200
        return False

    def scrape(self, accept=None, timeout=30):
        reply = httpx.get(self.url + "/metrics", headers={"accept": accept} if accept else {},
                          trust_env=False, timeout=timeout)
        assert reply.status_code == 200
        return reply

    def families(self):
        return {f.name: f for f in parse_004(self.scrape().text)}

    def values(self, name, label="uuid"):
        """{label's value: figure} of a family; {} when it has no series."""
        family = self.families().get(name)
        return {s.labels.get(label, ""): s.value for s in family.samples} if family else {}

    def wait(self, name, expected, label="uuid", timeout=30):
        def seen():
            return self.values(name, label) == expected
        try:
            wait_for(seen, f"{name} = {expected}", timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.values(name, label)}\n{self.log()}") from None

    def gpus(self, text):
        """The stand-in's script, never half of it."""
        new = self.script.with_suffix(".new")
        new.write_text(text)
        new.replace(self.script)

    def wait_success(self, **wanted):
        """Until these collectors have read, each in a thread of its own, as well as told here."""
        def seen():
            told = self.values("wyvern_collector_success", "collector")
            return wanted.items() <= told.items() and told

        return wait_for(seen, f"collectors: {wanted}")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def exporter(tmp_path):
    """exporter(options, gpus=SCRIPT); its clean end is part of each test."""
    if not (STANDIN / "libnvidia-ml.so.1").exists():
        pytest.skip("the stand-in library is not built")
    started = []

    def launch(*options, **more):
        folder = tmp_path / f"exporter{len(started)}"
        folder.mkdir()
        started.append(Exporter(folder, *options, **more))
        return started[-1]

    try:
        yield launch
        for one in started:
            assert one.stop() == 0, one.log()
    finally:
        for one in started:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()


def put(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


# ---- NVIDIA ----


def test_figures_of_gpus(exporter):
    one = exporter(gpus=script(8, "driver 575.57.08"))
    wait_for(lambda: len(one.values("wyvern_gpu_up")) == 8, "eight GPUs")
    found = one.families()
    for name in PER_GPU:
        assert len(found[name].samples) == 8, name
        assert all(set(s.labels) == {"gpu_index", "uuid"} for s in found[name].samples)
    for name in [*ORIGINAL, "wyvern_gpu_up"]:
        assert all(set(s.labels) == {"hostname", "gpu_index", "uuid"} for s in found[name].samples)
    first = {name: next(s.value for s in found[name].samples if s.labels["uuid"] == "GPU-0000")
             for name in PER_GPU}
    assert list(first.values()) == pytest.approx(
        [.71, .33, 12884901888, 73014444032, 85899345920, 312.5, 700, 98765.432, 63])
    assert found["wyvern_gpu_energy_joules"].type == "counter"
    clocks = {s.labels["clock"]: s.value for s in found["wyvern_gpu_clock_hertz"].samples}
    assert clocks == {"sm": 1980e6, "memory": 2619e6}
    errors = {s.labels["severity"]: s.value for s in found["wyvern_gpu_ecc_errors"].samples}
    assert errors == {"corrected": 7, "uncorrected": 2}
    info = found["wyvern_gpu_info"].samples[0]
    assert info.value == 1 and info.labels == {
        "gpu_index": "0", "uuid": "GPU-0000", "name": "NVIDIA H200", "vendor": "nvidia",
        "driver": "575.57.08"}
    success = one.wait_success(nvml=1, host=1, network=1, disk=1)
    assert set(success) == {"nvml", "host", "network", "disk"}
    assert set(one.values("wyvern_collector_duration_seconds", "collector")) == set(success)
    assert one.values("wyvern_build_info", "role") == {"telemetry": 1}
    assert one.values("wyvern_broker_connected") == {"": 0}


def test_gpu_is_lost_and_comes_back(exporter):
    one = exporter(gpus=script(2))
    one.wait("wyvern_gpu_up", {"GPU-0000": 1, "GPU-0001": 1})
    one.gpus("xid 1 1 79\n1 handle 15\n" + script(2))
    one.wait("wyvern_gpu_up", {"GPU-0000": 1, "GPU-0001": 0})
    for name in [*PER_GPU, *ORIGINAL, "wyvern_gpu_info"]:
        assert set(one.values(name)) == {"GPU-0000"}, name
    one.gpus("xid 1 1 79\n" + script(2))
    one.wait("wyvern_gpu_up", {"GPU-0000": 1, "GPU-0001": 1})
    assert set(one.values("wyvern_gpu_power_watts")) == {"GPU-0000", "GPU-0001"}


def test_errors_by_number(exporter):
    one = exporter(gpus=script(2))
    one.wait("wyvern_gpu_up", {"GPU-0000": 1, "GPU-0001": 1})
    assert one.values("wyvern_gpu_xid_errors") == {}
    one.gpus("xid 1 1 79\nxid 2 1 31\nxid 3 1 31\n" + script(2))
    one.wait("wyvern_gpu_xid_errors", {"79": 1, "31": 2}, "xid")


def test_driver_goes(exporter):
    """While the driver is gone its GPUs are down, and what it last said is not told again."""
    one = exporter(gpus=script(2))
    one.wait("wyvern_gpu_up", {"GPU-0000": 1, "GPU-0001": 1})
    one.gpus("init 18\ncount_code 18\n")
    one.wait("wyvern_gpu_up", {"GPU-0000": 0, "GPU-0001": 0})
    for name in [*PER_GPU, *ORIGINAL]:
        assert one.values(name) == {}, name
    one.wait_success(nvml=0, host=1)
    one.gpus(script(2))
    one.wait("wyvern_gpu_up", {"GPU-0000": 1, "GPU-0001": 1}, timeout=60)  # looked for ever more seldom
    one.wait_success(nvml=1)
    assert one.log().count("collector.failed collector=nvml") == 1  # told once, not each second
    assert one.log().count("collector.works collector=nvml") == 1


@pytest.mark.parametrize("code, there", [(9, False), (18, True), (4, True), (999, True)])
def test_driver_that_never_started(exporter, code, there):
    """No driver is normal; one that refuses is a fault."""
    one = exporter(gpus=f"init {code}\n")
    wait_for(lambda: "collector=nvml" in one.log(), "a word on the driver")
    success = one.values("wyvern_collector_success", "collector")
    assert success.get("nvml") == (0 if there else None)
    assert one.values("wyvern_gpu_up") == {}


def test_driver_that_hangs(exporter):
    """A driver that does not answer for long stops neither scrapes nor the other collectors."""
    one = exporter(gpus=script(2))
    one.wait("wyvern_gpu_up", {"GPU-0000": 1, "GPU-0001": 1})
    one.gpus("hang 100000\n" + script(2))
    wait_for(lambda: one.values("wyvern_collector_success", "collector")["nvml"] == 0,
             "the driver counted as failed")
    assert one.values("wyvern_gpu_up") == {"GPU-0000": 0, "GPU-0001": 0}
    assert one.values("wyvern_gpu_power_watts") == {}
    one.wait_success(host=1, network=1)
    before = one.values("wyvern_node_cpu_seconds", "mode")
    wait_for(lambda: one.values("wyvern_node_cpu_seconds", "mode") != before, "the host's poll")
    begin = time.monotonic()
    assert one.stop() == 0  # although the driver still hangs
    assert time.monotonic() - begin < 20  # it hangs for 100 s


def test_absurd_answers_are_not_shown(exporter):
    most = "4294967295"
    huge = "18446744073709551615"
    one = exporter(gpus=script(
        1, util=f"{most} {most}", memory="100 101 0", power=most, limit=most, energy=huge,
        temperature=most, clock=f"{most} {most}", ecc=f"{huge} {huge}", name='evil"\\{}\x01'))
    one.wait("wyvern_gpu_up", {"GPU-0000": 1})
    found = one.families()
    for name in [*PER_GPU, *ORIGINAL, "wyvern_gpu_clock_hertz", "wyvern_gpu_ecc_errors"]:
        assert found[name].samples == [], name
    assert found["wyvern_gpu_info"].samples[0].labels["name"] == 'evil"\\{}?'


def test_mig_has_no_utilization(exporter):
    one = exporter(gpus=script(1).replace("0 util 71 33\n", "0 util_code 3\n"))
    one.wait("wyvern_gpu_memory_used_bytes", {"GPU-0000": 12884901888})
    assert one.values("wyvern_gpu_utilization_ratio") == {} == one.values("gpu_utilization")
    assert one.values("wyvern_gpu_up") == {"GPU-0000": 1}


def test_number_of_gpus_changes(exporter):
    one = exporter(gpus=script(1))
    for count in (3, 0, 2):
        one.gpus(script(count))
        one.wait("wyvern_gpu_up", {f"GPU-{i:04x}": 1 for i in range(count)})
    one.gpus(script(2).replace("count 2", "count 4294967295"))
    wait_for(lambda: len(one.values("wyvern_gpu_up")) == 64, "as many as we hold")


# ---- AMD, host, jobs ----


CARD = {"vendor": "0x1002\n", "device": "0x740f\n", "unique_id": "5af3b7d1e2c40961\n",
        "gpu_busy_percent": "42\n", "mem_info_vram_total": "68702699520\n",
        "mem_info_vram_used": "10485760\n", "hwmon/hwmon3/power1_average": "41500000\n",
        "hwmon/hwmon3/temp1_input": "39500\n"}


def test_amd(exporter, tmp_path):
    one = exporter()
    assert "amdgpu" not in one.values("wyvern_collector_success", "collector")
    card = one.sysfs / "class" / "drm" / "card0" / "device"
    put(card, {k: v for k, v in CARD.items() if k != "vendor"})
    put(card, {"vendor": CARD["vendor"]})
    uuid = "GPU-5af3b7d1e2c40961"
    one.wait("wyvern_gpu_up", {uuid: 1})
    assert one.values("gpu_utilization") == {uuid: 42}
    assert one.values("wyvern_gpu_power_watts") == {uuid: 41.5}
    assert one.values("wyvern_gpu_temperature_celsius") == {uuid: 39.5}
    assert one.values("wyvern_gpu_info", "vendor") == {"amd": 1}
    one.wait_success(amdgpu=1)
    put(card, {"gpu_busy_percent": "what\n"})
    one.wait("wyvern_gpu_utilization_ratio", {})
    assert one.values("wyvern_gpu_memory_used_bytes") == {uuid: 10485760}
    # the whole card goes, in the midst of being read as often as not
    for _ in range(5):
        shutil.rmtree(one.sysfs / "class")
        put(card, CARD)
    shutil.rmtree(one.sysfs / "class")
    one.wait("wyvern_gpu_up", {uuid: 0})
    one.wait_success(amdgpu=0)
    assert one.values("wyvern_gpu_power_watts") == {}


def test_host(exporter):
    one = exporter()
    one.wait_success(host=1, network=1, disk=1)
    assert set(one.values("wyvern_node_cpu_seconds", "mode")) == {
        "user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"}
    size, = one.values("wyvern_node_memory_size_bytes").values()
    assert size == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < one.values("wyvern_node_memory_available_bytes")[""] <= size
    found = one.families()  # both names in one scrape: it changes
    assert [s.value for s in found["wyvern_node_load1"].samples] == [
        s.value for s in found["system_load_average"].samples] != []
    assert one.values("wyvern_node_load5") and one.values("wyvern_node_load15")

    def devices(way):
        return set(one.values(f"wyvern_node_network_{way}_bytes", "device"))

    # Others may make some just now.
    wait_for(lambda: devices("receive") >= set(os.listdir("/sys/class/net")) - {"bonding_masters"}, "all devices")
    wait_for(lambda: devices("transmit") == devices("receive"), "both ways of each")
    free = shutil.disk_usage(one.state)
    assert one.values("wyvern_node_disk_size_bytes", "path") == {"state": free.total}
    assert 0 < one.values("wyvern_node_disk_free_bytes", "path")["state"] <= free.total


def test_host_without_its_files(exporter, tmp_path):
    """What can't be read is missing, is said, and the rest is there."""
    proc = tmp_path / "proc"
    put(proc, {"loadavg": "0.50 0.25 0.10 1/2 3\n", "meminfo": "MemTotal: 100 kB\n",
               "stat": "garbage\n"})
    one = exporter("--procfs", proc)
    one.wait("system_load_average", {"": 0.5})
    assert one.values("wyvern_node_cpu_seconds", "mode") == {}
    assert one.values("wyvern_node_memory_size_bytes") == {"": 102400}
    assert one.values("wyvern_node_memory_available_bytes") == {}
    assert one.values("wyvern_node_network_receive_bytes", "device") == {}
    one.wait_success(host=0, network=0, disk=1)
    shutil.rmtree(proc)
    one.wait("system_load_average", {})


def test_jobs(exporter, tmp_path):
    jobs = tmp_path / "jobs"
    one = exporter("--job-mapping", jobs, gpus=script(2))
    one.wait("wyvern_gpu_up", {"GPU-0000": 1, "GPU-0001": 1})
    one.wait_success(jobs=0)
    put(jobs, {"0": "4711\n", "1": "4711\n4712_3\nevil\"} 1\n", "7": "1\n", "README": "2\n"})
    wait_for(lambda: one.values("wyvern_gpu_job_info", "hpc_job") == {"4711": 1, "4712_3": 1},
             "the jobs")
    samples = one.families()["wyvern_gpu_job_info"].samples
    assert sorted((s.labels["gpu_index"], s.labels["uuid"], s.labels["hpc_job"]) for s in samples) == [
        ("0", "GPU-0000", "4711"), ("1", "GPU-0001", "4711"), ("1", "GPU-0001", "4712_3")]
    (jobs / "1").unlink()
    one.wait("wyvern_gpu_job_info", {"4711": 1}, "hpc_job")


# ---- what scrapers see and do ----


def test_judges(exporter, tmp_path):
    """promtool and both of prometheus_client's parsers, with eight GPUs, errors and jobs."""
    jobs = tmp_path / "jobs"
    put(jobs, {"3": "4711\n"})
    one = exporter("--job-mapping", jobs, gpus=script(8, "xid 1 1 79"))
    wait_for(lambda: one.values("wyvern_gpu_job_info"), "the job")
    wait_for(lambda: one.values("wyvern_gpu_xid_errors"), "the error")
    text = one.scrape().text
    assert list(parse_004(text))
    reply = one.scrape(OPENMETRICS)
    assert reply.headers["content-type"] == OPENMETRICS and reply.text.endswith("# EOF\n")
    names = {f.name for f in parse_openmetrics(reply.text)}
    assert names == {f.name for f in parse_004(text)}
    for line in text.splitlines():  # each family has its help and type, each sample its family
        assert re.match(r"# (HELP|TYPE) \w+ .+|\w+(\{.*\})? \S+$", line), line
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool")
    done = subprocess.run([promtool, "check", "metrics"], input=text, text=True,
                          capture_output=True)
    faults = [line for line in (done.stdout + done.stderr).splitlines()
              if line.strip() and not line.startswith("gpu_memory_total")]
    assert faults == [], faults


def raw(url, headers):
    """Status line and headers, and the body as it came."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        lines = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        connection.sendall(f"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n"
                           .encode())
        data = b""
        while chunk := connection.recv(65536):
            data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    return head.decode().lower(), body


def test_gzip(exporter):
    one = exporter(gpus=script(8))
    wait_for(lambda: len(one.values("wyvern_gpu_up")) == 8, "eight GPUs")
    head, body = raw(one.url, {"Accept-Encoding": "gzip, deflate", "Accept": OPENMETRICS})
    assert "content-encoding: gzip" in head and "vary: accept, accept-encoding" in head
    text = gzip.decompress(body).decode()
    assert text.endswith("# EOF\n") and list(parse_openmetrics(text))
    assert len(body) < len(text) / 4
    for headers in ({}, {"Accept-Encoding": "identity"}, {"Accept-Encoding": "gzip;q=0"}):
        head, body = raw(one.url, headers)
        assert "content-encoding" not in head
        assert list(parse_004(body.decode()))


def test_two_hundred_scrapers_at_once(exporter):
    one = exporter(gpus=script(8))
    wait_for(lambda: len(one.values("wyvern_gpu_up")) == 8, "eight GPUs")
    with ThreadPoolExecutor(50) as pool:
        connections = [socket.create_connection(("127.0.0.1", one.port), 60) for _ in range(200)]
        for connection in connections:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

        def body(connection):
            with connection:
                data = b""
                while chunk := connection.recv(65536):
                    data += chunk
            return data

        for data in pool.map(body, connections):
            head, _, text = data.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            assert text.count(b"\nwyvern_gpu_up{") == 8
    one.gpus(script(1))  # and the poll went on
    one.wait("wyvern_gpu_up", {"GPU-0000": 1})


def test_scrapers_that_never_read(exporter):
    one = exporter(gpus=script(8))
    wait_for(lambda: len(one.values("wyvern_gpu_up")) == 8, "eight GPUs")
    greedy = []
    try:
        for _ in range(20):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", one.port))
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):  # pipelined, and no answer is ever read
                connection.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
            greedy.append(connection)
        for count in (3, 5):
            one.gpus(script(count))
            one.wait("wyvern_gpu_up", {f"GPU-{i:04x}": 1 for i in range(count)})
        memory = int(re.search(r"VmRSS:\s+(\d+)",
                               open(f"/proc/{one.process.pid}/status").read()).group(1))
        assert memory < 200 << 10, f"{memory} KiB"
    finally:
        for connection in greedy:
            connection.close()
    wait_for(one.answers, "an answer to who does read")


def test_only_metrics_and_health(exporter):
    one = exporter()
    assert json.loads(httpx.get(one.url + "/health", trust_env=False, timeout=30).text) == {"status": "ok"}
    assert httpx.get(one.url + "/other", trust_env=False, timeout=30).status_code == 404
    reply = httpx.post(one.url + "/metrics", trust_env=False, timeout=30)
    assert reply.status_code == 405 and reply.headers["allow"] == "GET, HEAD"
    reply = httpx.head(one.url + "/metrics", trust_env=False, timeout=30)
    assert reply.status_code == 200 and reply.text == ""
