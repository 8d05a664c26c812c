"""notebooks/wyvern.ipynb: it runs from top to bottom against a real service with the small model
and a real Prometheus, shows what it says it shows, and leaves nothing; what is committed is such
a run.
"""

import ast
import base64
import io
import os
import pathlib
import re
import signal
import subprocess
import sys

import matplotlib.font_manager  # makes its list of fonts, once, so that no cell says it does
import matplotlib.image
import nbclient.exceptions
import nbformat
import pytest

import notebook
import prometheus
from harness import WYVERN, free_ports, mentioning, new_key, run_json, wait_for

PROGRAM = prometheus.program()
needs_prometheus = pytest.mark.skipif(
    PROGRAM is None, reason="no prometheus: scripts/deps.sh check"
)
WORKERS = ["infer-node1-0", "infer-node1-1", "infer-node2-0", "infer-node2-1"]
COLOURS = [(0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73), (0xCC, 0x79, 0xA7)]
SECTIONS = [
    "Start a service",
    "Figure 1",
    "Figure 2",
    "Figure 3",
    "A reply as it is made",
    "A reply that survives",
    "A second turn",
    "The end",
]


def text_of(cells):
    """All that they said."""
    parts = []
    for cell in cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            parts.append(output.get("text") or data.get("text/plain", ""))
    return "\n".join(parts)


def section(book, title):
    """The cells below a heading that begins so."""
    found, inside = [], False
    for cell in book.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            inside = cell.source.startswith("## " + title)
        if inside:
            found.append(cell)
    assert found, title
    return found


def pictures(book):
    return [
        base64.b64decode(output.data["image/png"])
        for cell in book.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def pixels_of(picture, colour):
    image = (matplotlib.image.imread(io.BytesIO(picture))[:, :, :3] * 255).round().astype(int)
    return int((abs(image - colour).max(axis=2) <= 2).sum())


def check(book, prompts, workers=WORKERS):
    """What the notebook says about itself, whoever ran it."""
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]
    assert not [o for cell in code for o in cell.outputs if o.get("name") == "stderr"]

    one = text_of(section(book, "Figure 1"))
    for name in (
        "prompter",
        "prompt id",
        "prompt",
        "response",
        "response id",
        "inference worker",
        "response worker",
        "node",
        "device",
        "time",
    ):
        assert re.search(rf"^{name} +\S", one, re.M), name
    prompt_id = re.search(r"^prompt id +([0-9a-f]{32})$", one, re.M)[1]
    assert f"chatcmpl-{prompt_id}" in one

    many = text_of(section(book, "Figure 2"))
    assert f"{prompts} of {prompts}, " in many and "░" not in many
    assert f"{prompts} prompts sent, {prompts} answered, 0 failed, 0 duplicates" in many
    rows = re.findall(r"^(\S+) +(\d+) +(\d+)((?: +[\d.]+){4})$", many, re.M)
    assert [row[0] for row in rows] == workers
    assert sum(int(row[1]) for row in rows) == prompts
    for _, count, tokens, times in rows:
        busy, slot, first, last = map(float, times.split())
        assert int(count) > 0 and int(tokens) > 0
        assert 0 <= first < last and 0 < busy <= slot + 0.02 and busy <= last - first + 0.02

    watched = re.findall(r"^(\S+) +(\d+) +(\d+)%$", text_of(section(book, "Figure 3")), re.M)
    assert [row[0] for row in watched] == workers
    for _, samples, _ in watched:
        assert int(samples) >= 4

    assert len(pictures(book)) == 2
    for picture in pictures(book):  # each worker's colour is in both
        for colour in COLOURS[: len(workers)]:
            assert pixels_of(picture, colour) > 100

    assert len(text_of(section(book, "A reply as it is made"))) > 20
    survived = text_of(section(book, "A reply that survives"))
    behind = int(re.search(r"gone behind event (\d+) of resp_[0-9a-f]{32}", survived)[1])
    first, last = map(
        int, re.search(r"… events (\d+) to (\d+), (?:completed|incomplete);", survived).groups()
    )
    assert first == behind + 1 and last > first + 5
    assert "the pieces of both readers are the whole text" in survived
    second = text_of(section(book, "A second turn"))
    assert re.match(r"(resp_[0-9a-f]{32}) is queued\n\1 is (completed|incomplete)\n *\S", second)


def nobody_left(folder):
    """Who was told to end is not gone in the same moment."""
    wait_for(lambda: not mentioning(str(folder)), f"the end of all that has to do with {folder}", 30)


@pytest.fixture
def room(tmp_path, monkeypatch):
    """A folder for all that a run writes; at the end no process has to do with it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    for name in ("WYVERN_URL", "WYVERN_KEY", "WYVERN_PROMETHEUS_URL"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    try:
        nobody_left(tmp_path)
    finally:
        for pid in mentioning(str(tmp_path)):
            os.kill(pid, signal.SIGTERM)


def settings(model, **more):
    """Small, and apart from all others."""
    return {
        "WYVERN_BINARY": WYVERN,
        "WYVERN_MODEL": model,
        "WYVERN_NODE_NET": "ports",
        "WYVERN_METRICS_PORT": 0,
        "WYVERN_PROMETHEUS_PROGRAM": PROGRAM,
        "WYVERN_NOTEBOOK_REPEATS": 1,
        "WYVERN_NOTEBOOK_TOKENS": 32,
        **more,
    }


@needs_prometheus
def test_it_runs(room, model):
    book = notebook.execute(notebook.read(), **settings(model))
    check(book, prompts=15)
    assert "Prometheus  http://127.0.0.1:" in text_of(section(book, "Start a service"))
    assert "wyvern up ended with status 0" in text_of(section(book, "The end"))
    assert not list(room.glob("wyvern-*"))


GPUS = """count 2
driver 535.54.03
0 uuid GPU-aaaa
0 name Stand-in
0 util 71 33
0 memory 85899345920 12884901888 73014444032
1 uuid GPU-bbbb
1 name Stand-in
1 util 64 30
1 memory 85899345920 12884901888 73014444032
"""


@needs_prometheus
def test_it_joins_a_service_with_keys_and_gpus(room, start):
    """It is another's: it is asked with a key, and goes on.  GPUs, where there are any, are in
    Figure 3."""
    key = new_key(room / "keys", "ann")
    port = free_ports(1)
    (room / "gpus").write_text(GPUS)
    env = {
        "LD_LIBRARY_PATH": str(notebook.ROOT / "build" / "standin"),
        "STANDIN_NVML": str(room / "gpus"),
    }
    service = start(
        model="fake:tokens=40,delay_ms=20",
        nodes=2,
        workers=4,
        keys=room / "keys",
        prometheus=True,
        prometheus_port=port,
        prometheus_program=PROGRAM,
        scrape_interval=1,
        device="cpu:0,cpu:1",
        env=env,
    )
    wait_for(
        lambda: "ready    after" in service.log_path.read_text(), "Prometheus, which sees it", 60
    )
    book = notebook.execute(
        notebook.read(),
        WYVERN_URL=service.url + "/",
        WYVERN_KEY=key,
        WYVERN_PROMETHEUS_URL=f"http://127.0.0.1:{port}",
        WYVERN_NOTEBOOK_REPEATS=4,
        WYVERN_NOTEBOOK_TOKENS=60,
    )
    check(book, prompts=60)
    heights = [matplotlib.image.imread(io.BytesIO(picture)).shape[0] for picture in pictures(book)]
    assert heights[1] > 950  # with two panels more than without GPUs
    assert re.search(r"^prompter +ann/ann$", text_of(section(book, "Figure 1")), re.M)
    assert "was not started here: it goes on" in text_of(section(book, "The end"))
    wait_for(service.ready, "it to be ready still")
    assert service.stop() == 0


def run_beginning(client, cells):
    """Executes the first cells, as somebody does who stops there."""
    for index, cell in enumerate(client.nb.cells[:cells]):
        client.execute_cell(cell, index)


def beginning(book):
    """How many cells there are before Figure 1."""
    return next(i for i, cell in enumerate(book.cells) if cell.source.startswith("## Figure 1"))


@needs_prometheus
def test_the_service_ends_with_the_notebook(room):
    """However that ends: here its kernel is killed."""
    book = notebook.read()
    client = notebook.client(book)
    with notebook.environment(**settings("fake:tokens=5")), client.setup_kernel():
        run_beginning(client, beginning(book))
        assert mentioning(str(room))
        os.kill(client.km.provisioner.pid, signal.SIGKILL)
        nobody_left(room)


def test_what_is_missing_is_said(room):
    """No program, or one that can't start: the cell fails with a sentence that says why."""
    for env, sentence in (
        ({"WYVERN_BINARY": "/nowhere/wyvern"}, "No such file or directory: '/nowhere/wyvern'"),
        ({"WYVERN_PROMETHEUS_PROGRAM": "/nowhere/it"}, "names /nowhere/it"),
    ):
        book = notebook.read()
        client = notebook.client(book)
        with notebook.environment(**{**settings("fake:tokens=5"), **env}), client.setup_kernel():
            with pytest.raises(nbclient.exceptions.CellExecutionError, match=re.escape(sentence)):
                run_beginning(client, beginning(book))


def test_without_prometheus(room, fake):
    """Figures 1 and 2 are there; the third says what it needs."""
    book = notebook.read()
    nowhere = f"http://127.0.0.1:{free_ports(1)}"
    with pytest.raises(
        nbclient.exceptions.CellExecutionError,
        match=f"there is no Prometheus at {nowhere}: start the service with --prometheus",
    ):
        notebook.execute(
            book,
            WYVERN_URL=fake.url,
            WYVERN_PROMETHEUS_URL=nowhere,
            WYVERN_NOTEBOOK_REPEATS=1,
            WYVERN_NOTEBOOK_TOKENS=5,
        )
    assert "15 prompts sent, 15 answered" in text_of(section(book, "Figure 2"))


# ---- deploy/slurm/notebook.sbatch, without Slurm ----

STANDINS = {
    # Of srun: what is behind its options, here; scancel ends that.
    "srun": """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
echo $$ >"$ROOM/step"
exec "$@"
""",
    "scancel": """#!/bin/bash
pkill -TERM -P "$(cat "$ROOM/step")"
kill -TERM "$(cat "$ROOM/step")"
""",
    "jupyter": """#!/bin/bash
echo "$WYVERN_URL $WYVERN_PROMETHEUS_URL $*" >"$ROOM/jupyter-has"
exec sleep 600
""",
}


@needs_prometheus
def test_the_job_of_a_compute_node(room):
    """A service over both nodes, Jupyter told where it is; after TERM, as Slurm sends it, nothing
    is left."""
    (room / "bin").mkdir()
    for name, text in STANDINS.items():
        (room / "bin" / name).write_text(text)
        (room / "bin" / name).chmod(0o755)
    port, watch = free_ports(1), free_ports(1)
    env = {
        **os.environ,
        **{name: str(value) for name, value in settings("fake:tokens=5").items()},
        "PATH": f"{room / 'bin'}:{os.environ['PATH']}",
        "JUPYTER": str(room / "bin" / "jupyter"),
        "ROOM": str(room),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "2",
        "SLURMD_NODENAME": "pinoak0043",
        "WYVERN_WORKERS": "1",
        "WYVERN_PORT": str(port),
        "WYVERN_PROMETHEUS_PORT": str(watch),
    }
    log = room / "job.out"
    with open(log, "w") as out:
        job = subprocess.Popen(
            ["bash", notebook.ROOT / "deploy" / "slurm" / "notebook.sbatch"],
            cwd=room,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        has = wait_for(
            lambda: job.poll() is not None
            or (room / "jupyter-has").exists()
            and (room / "jupyter-has").read_text(),
            "Jupyter",
            60,
        )
        assert job.poll() is None, log.read_text()
        assert has.split()[:3] == [url, f"http://127.0.0.1:{watch}", "lab"]
        wait_for(
            lambda: len(
                [
                    w
                    for node in run_json("status", "--url", url, "--json")["nodes"]
                    for w in node["workers"]
                    if w["state"] == "ready"
                ]
            )
            == 2,
            "both nodes",
            60,
        )
        for piece in ("pinoak0043", f"8080:localhost:{port}", f"9090:localhost:{watch}"):
            wait_for(lambda piece=piece: piece in log.read_text(), piece)
        assert (room / "wyvern-notebook-4711.ini").stat().st_mode & 0o777 == 0o600
    finally:
        job.terminate()
        status = job.wait(60)
    assert status == 0, log.read_text()
    nobody_left(room)
    assert not list(room.glob("*.ini")) and not list(room.glob("tmp.*"))


# ---- what is committed ----


def test_the_committed_one_is_a_whole_run():
    book = notebook.read()
    nbformat.validate(book)
    check(book, prompts=105)
    assert "wyvern up ended with status 0" in text_of(book.cells)
    for title in SECTIONS:
        section(book, title)


def test_the_committed_one_is_small_and_says_nothing_of_a_machine():
    assert notebook.NOTEBOOK.stat().st_size < 450_000  # base64 of the pictures included
    assert sum(map(len, pictures(notebook.read()))) <= 300_000
    text = re.sub(
        r'"image/png": ".*?"', "", notebook.NOTEBOOK.read_text(encoding="utf-8"), flags=re.S
    )
    assert "image/png" not in text
    assert not re.findall(r"(?:/home|/root|/work|/tmp|/opt|/Users)\b", text)


def test_it_needs_plain_client_libraries_only():
    source = "\n".join(cell.source for cell in notebook.read().cells if cell.cell_type == "code")
    tree = compile(source, "notebook", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {
        node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    assert names - set(sys.stdlib_module_names) == {"IPython", "matplotlib", "openai", "requests"}


def test_it_is_a_tutorial():
    """Words before code, cells that fit a screen, links that lead somewhere."""
    book = notebook.read()
    assert book.cells[0].cell_type == book.cells[-1].cell_type == "markdown"
    for before, cell in zip(book.cells, book.cells[1:], strict=False):
        assert cell.source.strip()
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 65
        elif before.cell_type == "markdown":
            assert cell.source.startswith("## ") or before.source.startswith("The workers")
        for target in re.findall(r"\]\(([^)#]+)\)", cell.source):
            assert (pathlib.Path(notebook.NOTEBOOK).parent / target).exists(), target
