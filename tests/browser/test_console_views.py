"""The cluster view and the Load page, by clicking."""

import os
import re
import signal

import pytest

from console import PHONE, Chat, Line, until
from harness import ROOT, run, wait_for

STANDIN = ROOT / "build" / "standin"


def cells(page, row):
    return page.locator(row).locator("th, td").all_inner_texts()


def tile(page, name):
    return page.locator(f".tile:has(.tile-name:text-is('{name}'))")


def test_the_cluster_is_live(watched, start):
    service = start(nodes=2, workers=4, slots=2, model="fake:tokens=40000,delay_ms=20")
    page = watched.open(service, "/#/cluster")
    rows = page.locator("#view-cluster tbody tr")
    until(page, "document.querySelectorAll('#view-cluster tbody tr').length === 4")
    assert page.locator(".node").count() == 2
    workers = tile(page, "Workers").locator(".tile-value")
    wait_for(lambda: workers.inner_text() == "4 / 4", "four that are ready")
    assert rows.first.inner_text().count("Idle") == 1
    replies = [service.client.post("/v1/responses", json={
        "model": "default", "input": f"p{i}", "background": True}).json()["id"] for i in range(12)]
    queue = tile(page, "Queue")
    until(page, "[...document.querySelectorAll('.doing')].every((e) => e.innerText.includes('Writes 2 replies'))")
    wait_for(lambda: queue.inner_text().split() == "Queue 4 waiting; 8 in work".split(), "four waiting")
    rate = tile(page, "Tokens a second").locator(".tile-value")
    wait_for(lambda: 150 < int(rate.inner_text().replace(",", "")) < 550, "about 400 a second")
    busy = page.locator(".chart", has_text="Workers busy")
    assert busy.locator("path.line").count() == 4 and busy.locator(".legend li").count() == 4
    wait_for(lambda: busy.locator(".chart-now").inner_text() in ("98 %", "99 %", "100 %"), "all busy")
    victim = service.workers()[0]
    os.kill(victim["pid"], signal.SIGKILL)
    until(page, "document.querySelectorAll('#view-cluster tbody tr').length === 4", 60)
    for reply in replies:
        service.client.delete(f"/v1/responses/{reply}")
    until(page, "[...document.querySelectorAll('.doing')].filter((e) => e.innerText.includes('Idle')).length === 4", 60)


def test_a_table_that_somebody_is_in_stays_live(watched, start):
    service = start(workers=1, slots=2, model="fake:tokens=4000,delay_ms=20")
    page = watched.open(service, "/#/cluster")
    table = page.get_by_role("region", name="Workers of node1")
    table.get_by_text("Idle").wait_for()
    table.click()
    reply = service.client.post("/v1/responses", json={
        "model": "default", "input": "x", "background": True}).json()["id"]
    table.get_by_text("Writes 1 reply").wait_for()
    assert table.evaluate("(e) => e === document.activeElement")
    service.client.delete(f"/v1/responses/{reply}")
    table.get_by_text("Idle").wait_for()
    assert table.evaluate("(e) => e === document.activeElement")


@pytest.mark.parametrize("most, kind, wanted", [
    (5, "plain", ["0", "2.5", "5"]), (1, "plain", ["0", "0.5", "1"]), (1500, "plain", ["0", "1,000", "2,000"]),
    (0.5, "seconds", ["0 s", "250 ms", "500 ms"]), (0.004, "seconds", ["0 s", "2.5 ms", "5 ms"]),
    (4, "seconds", ["0 s", "2.5 s", "5 s"]), (190, "seconds", ["0 s", "100 s", "200 s"])])
def test_an_axis_says_what_its_lines_are(page, most, kind, wanted):
    ticks = page.evaluate("""async ([most, kind]) => {
        const { LineChart, axisSeconds } = await import('/console/chart.js');
        const chart = new LineChart('x', kind === 'seconds' ? { format: axisSeconds } : {});
        chart.width = 400;
        chart.update([0, 1], [{ name: 'x', values: [0, most] }], '');
        document.body.append(chart.element);
        const ticks = [...chart.element.querySelectorAll('.tick')].slice(0, 3);
        const left = chart.holder.getBoundingClientRect().left;
        const whole = ticks.every((tick) => tick.getBoundingClientRect().left >= left);
        return ticks.map((tick) => (whole ? tick.textContent : `${tick.textContent} is cut`));
    }""", [most, kind])
    assert ticks == wanted


def test_figures_that_are_old_say_so(watched, fake):
    line = Line(fake.port)
    try:
        page = watched.open(line, "/#/cluster")
        page.locator("#view-cluster tbody tr").first.wait_for()
        page.get_by_text("Live, each second.").wait_for()
        line.cut()
        page.get_by_text("No answer for").wait_for()
        line.heal()
        page.get_by_text("Live, each second.").wait_for()
    finally:
        line.close()


def test_gpus_are_drawn(watched, start, tmp_path):
    assert (STANDIN / "libnvidia-ml.so.1").exists(), "the stand-in library is not built"
    script = tmp_path / "gpus"
    script.write_text("count 2\n" + "".join(
        f"{i} uuid GPU-{i}\n{i} name NVIDIA H200\n{i} util {40 + 30 * i} 10\n"
        f"{i} memory 85899345920 21474836480 64424509440\n{i} power 312500\n{i} temperature 63\n"
        for i in range(2)))
    service = start(env={"LD_LIBRARY_PATH": str(STANDIN), "STANDIN_NVML": str(script)})
    gpus = wait_for(lambda: service.client.get("/wyvern/status").json()["nodes"][0]["gpus"], "GPUs")
    assert [(gpu["name"], gpu["index"], gpu["busy"]) for gpu in gpus] == [
        ("NVIDIA H200", 0, 0.4), ("NVIDIA H200", 1, 0.7)]
    assert (gpus[0]["memory_used"], gpus[0]["memory_total"]) == (21474836480, 85899345920)
    assert (gpus[0]["power_w"], gpus[0]["temperature_c"]) == (312.5, 63)
    page = watched.open(service, "/#/cluster")
    use = page.locator(".chart", has_text="GPU use")
    wait_for(lambda: use.locator(".chart-now").inner_text() == "55 %", "the mean")
    until(page, "[...document.querySelectorAll('.chart path.line')].some((p) => p.getAttribute('d').includes('L'))")
    assert use.locator(".legend li").all_inner_texts() == ["node1 gpu0", "node1 gpu1"]
    assert page.locator(".chart", has_text="GPU memory").locator(".chart-now").inner_text() == "25 %"
    facts = page.locator(".device-facts").inner_text()
    assert "gpu1 NVIDIA H200 · 70 % · 20.0 GiB of 80.0 GiB · 313 W · 63 °C" in facts
    script.write_text("count 0\n")
    page.locator(".chart", has_text="CPU use").wait_for()


def test_the_status_says_what_the_host_does(fake):
    def told():
        """Each second anew, unless somebody stands still: then a moment later."""
        status = fake.client.get("/wyvern/status").json()
        node = status["nodes"][0]
        fresh = abs(status["time"] - node["workers"][0]["heard_at"]) < 2
        return fresh and node["host"].get("cpu_busy") is not None and status

    status = wait_for(told, "the host's figures, and a worker that was heard just now")
    host = status["nodes"][0]["host"]
    assert 0 <= host["cpu_busy"] <= 1 and 0 < host["memory_used"] < host["memory_total"]
    worker = status["nodes"][0]["workers"][0]
    assert worker["busy_s"] >= 0 and worker["slot_s"] >= 0 and 0 <= worker["kv_used"] <= 1
    assert len(worker["latency"]["counts"]) == len(status["latency_bounds"]) + 1


def play(page, prompts=None, rounds=None, parallel=None, longest=None):
    if prompts is not None:
        page.locator("#load-prompts").fill("\n".join(prompts))
    for name, value in (("repeat", rounds), ("parallel", parallel), ("longest", longest)):
        if value is not None:
            page.locator(f"#load-{name}").fill(str(value))
    page.get_by_role("button", name="Start").click()


def over(page, timeout=90):
    until(page, "document.getElementById('load-abort').hidden", timeout)
    return page.locator("#load-sentence").inner_text()


def test_load_plays_105_prompts_and_draws_the_balance(watched, start):
    service = start(nodes=2, workers=4, slots=2, model="fake:tokens=20,delay_ms=10")
    page = watched.open(service, "/#/load")
    erased = []
    page.on("request", lambda request: request.method == "DELETE" and erased.append(request.url))
    assert page.get_by_text("15 × 7 = 105 prompts").is_visible()
    page.get_by_text("Nothing was played yet.").wait_for()
    play(page)
    sentence = over(page)
    assert sentence.startswith("105 of 105 answered ·"), sentence
    rows = [cells(page, f"#view-load tbody tr:nth-child({i})") for i in range(1, 5)]
    assert [row[0] for row in rows] == [f"infer-node{n}-{i}" for n in (1, 2) for i in (0, 1)]
    counts = [int(row[2]) for row in rows]
    assert sum(counts) == 105
    # As the workers count themselves, who tell it a moment later.
    wait_for(lambda: [worker["prompts"] for worker in service.workers()] == counts, f"{counts} to be told")
    assert min(counts) >= 1, counts
    assert [int(row[4].replace(",", "")) for row in rows] == [20 * count for count in counts]
    foot = cells(page, "#view-load tfoot tr")
    assert foot[2] == "105" and foot[4] == "2,100"
    lanes = page.locator(".lanes svg")
    assert lanes.locator("rect.bar").count() == 105
    assert lanes.locator("path.area").count() == 4
    assert lanes.locator(".lane-name").all_text_contents() == [row[0] for row in rows]
    assert "an even share is 26.3" in page.locator("#load-verdict").inner_text()
    # The service need not keep them.
    wait_for(lambda: page.evaluate("1") and len(erased) == 105, "all erased")


def test_load_of_one_prompt(watched, start):
    """Where the first look at the workers fails: their slots are known a second later."""
    service = start(workers=2, slots=4, model="fake:tokens=60,delay_ms=40")
    page = watched.open(service, "/#/load")
    looks, seen = [], []
    page.route("**/wyvern/status", lambda route: (looks.append(1), route.abort() if len(looks) == 1 else route.continue_()))
    page.on("requestfinished", lambda request: request.url.endswith("/wyvern/status") and seen.append(1))

    def after_the_look(route):
        """It does not hear that its prompt was answered before it has seen the workers."""
        if seen or route.request.method != "GET":
            route.continue_()
        else:
            route.fulfill(json={"status": "in_progress"})

    page.route("**/v1/responses/*", after_the_look)
    page.locator("#load-prompts").fill("one")
    page.locator("#load-repeat").fill("1")
    assert page.locator("#load-count").inner_text() == "1 × 1 = 1 prompt"
    play(page, longest=1000)
    assert over(page).startswith("1 of 1 answered ·")
    assert page.locator("#load-verdict").inner_text().startswith("0 to 1 prompt a worker")
    rows = sorted((cells(page, f"#view-load tbody tr:nth-child({i})") for i in (1, 2)), key=lambda row: row[2])
    assert rows[0][2:8] == ["0", "0 %", "0", "–", "–", "–"]
    assert rows[1][2] == "1" and rows[1][4] == "60"
    # Of four slots one, from its start to its end.
    started, ended = (float(text.removesuffix("ms").removesuffix("s")) / (1000 if "ms" in text else 1)
                      for text in rows[1][6:8])
    assert int(rows[1][8].removesuffix(" %")) == pytest.approx(25 * (ended - started) / ended, abs=3)
    ticks = page.locator(".lanes .tick").all_text_contents()
    assert any(tick.startswith("1 prompt, ") for tick in ticks), ticks
    axis = [tick for tick in ticks if re.fullmatch(r"[\d.]+ s", tick)]
    assert axis[0] == "0 s" and len(set(axis)) == len(axis) >= 2, axis


def test_load_ends_with_the_page(watched, start):
    """A browser may keep the page and show it again: it does not go on with what was taken back."""
    service = start(workers=1, slots=2, model="fake:tokens=4000,delay_ms=20")
    page = watched.open(service, "/#/load")
    play(page, ["long"], 6)
    wait_for(lambda: service.status()["queue"]["in_flight"] == 2, "work")
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    assert "aborted" in over(page)
    wait_for(lambda: service.status()["queue"] == {"waiting": 0, "in_flight": 0, "limit": 1024},
             "nothing left", 30)


def test_load_without_a_key(watched, start, tmp_path):
    path = tmp_path / "keys"
    run("key", "add", "ada", "--keys", path, check=0)
    service = start(keys=path)
    page = watched.open(service, "/#/load")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    play(page, ["x"], 1)
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    wait_for(lambda: "waiting for a key" in page.locator("#load-sentence").inner_text(), "it to say so")
    page.get_by_role("button", name="Abort").click()
    over(page)


def test_load_keeps_to_its_bound(watched, start):
    """The replies themselves say when they were made: what workers tell of their slots is told later."""
    service = start(workers=2, slots=8, model="fake:tokens=10,delay_ms=30")
    page = watched.open(service, "/#/load")
    replies = set()

    def keep(route):
        replies.add(route.request.url)
        if route.request.method == "DELETE":
            route.fulfill(json={})
        else:
            route.continue_()

    page.route("**/v1/responses/*", keep)
    play(page, ["a", "b", "c"], 8, parallel=3)
    assert over(page).startswith("24 of 24 answered")
    made = [service.client.get(url).json()["wyvern"] for url in replies]
    assert len(made) == 24
    together = [sum(other["started_at"] <= one["started_at"] < other["finished_at"] for other in made)
                for one in made]
    assert max(together) <= 3, together


def test_load_counts_errors(watched, start):
    service = start(model="fake:tokens=5,delay_ms=5")
    page = watched.open(service, "/#/load")
    play(page, ["good", "bad error_at=2"], 5)
    assert over(page).startswith("5 of 10 answered, 5 failed")
    assert re.match(r"5 × .{5}", page.locator(".faults li").inner_text())


def test_load_waits_where_the_queue_is_full(watched, start):
    service = start(workers=1, slots=2, max_queue=4, model="fake:tokens=5,delay_ms=20")
    page = watched.open(service, "/#/load")
    worker, = service.workers()
    os.kill(worker["pid"], signal.SIGSTOP)  # else it may answer as fast as a slow browser asks
    try:
        play(page, ["full"], 12, parallel=12)
        page.locator("#load-sentence", has_text="the service said “later”").wait_for()
    finally:
        os.kill(worker["pid"], signal.SIGCONT)
    sentence = over(page)
    assert sentence.startswith("12 of 12 answered, the service said “later”"), sentence


def test_load_aborts_and_leaves_nothing(watched, start):
    service = start(workers=2, slots=2, model="fake:tokens=4000,delay_ms=20")
    page = watched.open(service, "/#/load")
    play(page, ["long"], 20)
    wait_for(lambda: service.status()["queue"]["waiting"] >= 10, "a queue")
    page.get_by_role("button", name="Abort").click()
    assert "aborted" in over(page)
    wait_for(lambda: service.status()["queue"] == {"waiting": 0, "in_flight": 0, "limit": 1024},
             "nothing left", 30)
    wait_for(lambda: all(worker["active"] == 0 for worker in service.workers()), "free slots")


def test_load_refuses_what_makes_no_sense(watched, fake):
    page = watched.open(fake, "/#/load")
    start = page.get_by_role("button", name="Start")
    page.locator("#load-prompts").fill("  \n ")
    assert start.is_disabled()
    page.locator("#load-prompts").fill("x\n" * 100)
    page.locator("#load-repeat").fill("99")
    assert start.is_disabled() and page.get_by_text("9,900 prompts are too many").is_visible()


def test_views_have_addresses(watched, fake):
    page = watched.open(fake, "/#/load")
    page.get_by_role("link", name="Cluster").click()
    wait_for(lambda: page.title() == "Cluster · wyvern", "the title")
    assert page.evaluate("location.hash") == "#/cluster"
    page.go_back()
    page.get_by_role("heading", name="Load", exact=True).wait_for()
    page.goto(fake.url + "/#/chat/nothing")
    page.get_by_text("What shall we talk about?").wait_for()


def test_on_a_phone(watched, fake):
    page = watched.open(fake, "/#/load", viewport=PHONE, is_mobile=True, has_touch=True)
    play(page, ["small"], 6)
    over(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.locator(".lanes svg").bounding_box()["width"] <= PHONE["width"]
