"""What Prometheus sees: the original's seven metrics, by name, labels and unit, in both formats,
judged by the parsers that its people use."""

import os
import shutil
import subprocess

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_004

from harness import ROOT, wait_for

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
GPU = ["gpu_utilization", "gpu_memory_utilization", "gpu_memory_used", "gpu_memory_free",
       "gpu_memory_total"]
DEFAULT_BUCKETS = [.005, .01, .025, .05, .075, .1, .25, .5, .75, 1.0, 2.5, 5.0, 7.5, 10.0]


def get(url, accept=None):
    reply = httpx.get(url, headers={"accept": accept} if accept else {}, trust_env=False)
    assert reply.status_code == 200
    return reply


def families(url):
    return {f.name: f for f in parse_004(get(url).text)}


@pytest.fixture(scope="module")
def urls(fake):
    return [*fake.metrics_urls(), fake.url + "/metrics"]


def test_the_seven(fake):
    url, = fake.metrics_urls()
    text = get(url).text
    for name in GPU:  # without a GPU the family is declared and has no series
        assert f"# TYPE {name} gauge" in text
    found = families(url)
    load, = found["system_load_average"].samples
    assert load.labels == {} and found["system_load_average"].type == "gauge"
    wait_for(lambda: abs(families(url)["system_load_average"].samples[0].value
                         - os.getloadavg()[0]) < 1, "the load as it is")
    assert found["request_latency_seconds"].type == "histogram"
    for name in GPU:
        for sample in found.get(name, type("none", (), {"samples": []})).samples:
            assert set(sample.labels) == {"hostname", "gpu_index", "uuid"}


GPUS = """count 2
0 uuid GPU-aaaa
0 util 71 33
0 memory 85899345920 12884901888 73014444032
1 uuid GPU-bbbb
1 util 5 0
1 memory 85899345920 1048576 85898297344
"""


def test_gpus(start, tmp_path):
    """The stand-in for NVIDIA's library says what two GPUs do; one of them goes away."""
    standin = ROOT / "build" / "standin"
    if not (standin / "libnvidia-ml.so.1").exists():
        pytest.skip("the stand-in library is not built")
    script = tmp_path / "gpus"
    script.write_text(GPUS)
    service = start(env={"LD_LIBRARY_PATH": str(standin), "STANDIN_NVML": str(script)})
    url, = service.metrics_urls()
    wait_for(lambda: len(families(url)["gpu_utilization"].samples) == 2, "two GPUs")
    found = families(url)
    seen = {name: {s.labels["uuid"]: s.value for s in found[name].samples} for name in GPU}
    assert seen == {
        "gpu_utilization": {"GPU-aaaa": 71, "GPU-bbbb": 5},
        "gpu_memory_utilization": {"GPU-aaaa": 33, "GPU-bbbb": 0},
        "gpu_memory_used": {"GPU-aaaa": 12288, "GPU-bbbb": 1},
        "gpu_memory_free": {"GPU-aaaa": 69632, "GPU-bbbb": 81919},
        "gpu_memory_total": {"GPU-aaaa": 81920, "GPU-bbbb": 81920}}
    labels = found["gpu_utilization"].samples[0].labels
    assert set(labels) == {"hostname", "gpu_index", "uuid"} and labels["gpu_index"] in "01"
    script.write_text(GPUS.replace("count 2", "count 1"))
    wait_for(lambda: len(families(url)["gpu_utilization"].samples) == 1, "one GPU")


def latency(url):
    samples = families(url)["request_latency_seconds"].samples
    count = [s.value for s in samples if s.name.endswith("_count")]
    total = [s.value for s in samples if s.name.endswith("_sum")]
    bounds = [s.labels["le"] for s in samples if s.name.endswith("_bucket")]
    return (count or [0])[0], (total or [0])[0], bounds


def test_latency_is_that_of_requests(fake):
    url, = fake.metrics_urls()
    count, total, _ = latency(url)
    fake.text("slow tokens=5 delay_ms=100")
    wait_for(lambda: latency(url)[0] == count + 1, "the request in the histogram")
    _, later, bounds = latency(url)
    assert 0.4 <= later - total <= 30
    assert [float(b) for b in bounds] == [*DEFAULT_BUCKETS, float("inf")]


def test_idle_polling_is_not_a_request(fake):
    url, = fake.metrics_urls()
    before = latency(url)[0]
    refreshed = families(url)
    wait_for(lambda: families(url) != refreshed or True, "a scrape")
    assert latency(url)[0] == before


def test_text_004(urls):
    for url in urls:
        reply = get(url)
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert list(parse_004(reply.text))
        assert ":" not in "".join(f.name for f in parse_004(reply.text))


def test_openmetrics(urls):
    for url in urls:
        reply = get(url, OPENMETRICS)
        assert reply.headers["content-type"] == OPENMETRICS
        assert reply.text.endswith("# EOF\n")
        assert list(parse_openmetrics(reply.text))


def test_gzip(urls):
    for url in urls:
        packed = get(url)  # httpx asks for it by itself
        assert packed.headers["content-encoding"] == "gzip"
        assert packed.headers["vary"] == "Accept, Accept-Encoding"
        plain = httpx.get(url, headers={"accept-encoding": "identity"}, trust_env=False)
        assert "content-encoding" not in plain.headers
        assert ({f.name for f in parse_004(packed.text)} == {f.name for f in parse_004(plain.text)})


def test_promtool(urls):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool")
    for url in urls:
        done = subprocess.run([promtool, "check", "metrics"], input=get(url).text, text=True,
                              capture_output=True)
        # A gauge that ends in _total is the original's name: known, and allowed by name.
        faults = [line for line in (done.stdout + done.stderr).splitlines()
                  if line.strip() and not line.startswith("gpu_memory_total")]
        assert faults == [], faults


def test_two_nodes_have_their_own(start):
    service = start(nodes=2, workers=2)
    one, two = service.metrics_urls()
    assert one != two
    body = service.ask("where tokens=2")
    nodes = {n["name"]: n["metrics_url"] for n in service.known_nodes()}
    served = nodes[body["wyvern"]["node"]]
    other = two if served == one else one
    wait_for(lambda: latency(served)[0] == 1, "the request on its node")
    assert latency(other)[0] == 0
