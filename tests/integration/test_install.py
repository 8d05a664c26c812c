"""What the option table becomes: man pages, completion for bash and zsh; and an installed wyvern."""

import os
import re
import shutil
import subprocess

import pytest

from harness import ROOT, WYVERN, run
from ptys import Pty

VERBS = ["up", "ask", "chat", "load", "batch", "top", "status", "doctor", "key", "generate",
         "convert", "node", "gateway", "infer", "respond", "telemetry"]


def need(program):
    if shutil.which(program) is None:
        pytest.skip(f"no {program}: scripts/deps.sh check")


# ---- man pages ----

def test_man_pages(tmp_path):
    need("mandoc")
    overview = run("help", "--man", check=0).stdout
    pages = {"wyvern": overview, **{f"wyvern-{v}": run("help", "--man", v, check=0).stdout
                                    for v in VERBS}}
    for name, text in pages.items():
        (tmp_path / f"{name}.1").write_text(text)
    lint = subprocess.run(["mandoc", "-T", "lint", *sorted(tmp_path.glob("*.1"))],
                          capture_output=True, text=True, check=False)
    assert lint.returncode == 0 and lint.stdout == "", lint.stdout
    for verb in VERBS:
        assert re.search(rf"^\\fBwyvern\\-{verb}\\fR\(1\)$", overview, re.M), verb
        shown = subprocess.run(["mandoc", "-T", "utf8", "-O", "width=78", tmp_path / f"wyvern-{verb}.1"],
                               capture_output=True, text=True, check=True).stdout
        shown = re.sub(".\b", "", shown)
        assert f"wyvern-{verb} - " in shown and "SYNOPSIS" in shown and "EXIT STATUS" in shown
        for option in set(re.findall(r"^  (--[a-z-]+)", run(verb, "--help").stdout, re.M)):
            assert re.search(rf"^ +(-\w, )?{option}\b", shown, re.M), (verb, option)
        assert max(map(len, shown.splitlines())) <= 80
    assert run("help", "--man", "no-such").returncode == 64
    assert run("help", "--completion", "fish").returncode == 64
    assert run("help", "--nonsense").returncode == 64


# ---- bash ----

COMPLETE = """
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
compopt() { :; }
_wyvern
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """What bash offers for these words, of which the last is not whole."""
    script = tmp_path_factory.mktemp("bash") / "wyvern"
    script.write_text(run("help", "--completion", "bash", check=0).stdout)
    subprocess.run(["bash", "-n", script], check=True)

    def complete(*words, cwd=None):
        done = subprocess.run(["bash", "-c", COMPLETE, "complete", script,
                               *words], capture_output=True, text=True, check=True, cwd=cwd)
        assert done.stderr == ""
        return sorted(done.stdout.split())

    return complete


def test_bash_completion(bash, tmp_path):
    assert bash("wyvern", "") == sorted([*VERBS, "help", "--help", "--version"])
    assert bash("wyvern", "sta") == ["status"]
    assert bash("wyvern", "ask", "--temp") == ["--temperature"]
    assert bash("wyvern", "batch", "--o") == ["--ordered", "--output"]
    assert bash("wyvern", "chat", "--workers") == []
    assert "--help" in bash("wyvern", "infer", "--")
    assert bash("wyvern", "up", "--log-level", "") == ["debug", "error", "info", "warn"]
    assert bash("wyvern", "up", "--log-level", "=", "w") == ["warn"]  # as bash splits --x=w
    assert bash("wyvern", "up", "--log-level", "=") == ["debug", "error", "info", "warn"]
    assert bash("wyvern", "up", "--node-net", "n") == ["namespaces"]
    assert bash("wyvern", "key", "") == ["add", "list", "revoke"]
    assert bash("wyvern", "help", "do") == ["doctor"]
    assert bash("wyvern", "ask", "--max-tokens", "") == []
    assert bash("wyvern", "no-such", "") == []
    (tmp_path / "lines.jsonl").write_text("")
    (tmp_path / "folder").mkdir()
    assert bash("wyvern", "batch", "li", cwd=tmp_path) == ["lines.jsonl"]
    assert bash("wyvern", "batch", "x", "-o", "li", cwd=tmp_path) == ["lines.jsonl"]
    assert bash("wyvern", "up", "--state-dir", "", cwd=tmp_path) == ["folder"]


def test_bash_completion_knows_every_option(bash):
    for verb in VERBS:
        told = set(re.findall(r"^  (--[a-z-]+)", run(verb, "--help").stdout, re.M))
        assert set(bash("wyvern", verb, "--")) == told, verb


def test_bash_completion_is_clean(tmp_path):
    need("shellcheck")
    script = tmp_path / "wyvern"
    script.write_text(run("help", "--completion", "bash", check=0).stdout)
    done = subprocess.run(["shellcheck", "-s", "bash", script], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stdout


# ---- zsh ----

def test_zsh_completion(tmp_path):
    need("zsh")
    script = tmp_path / "_wyvern"
    script.write_text(run("help", "--completion", "zsh", check=0).stdout)
    subprocess.run(["zsh", "-n", script], check=True)
    (tmp_path / "lines.jsonl").write_text("")
    seen = Pty("zsh", "-f", "-i", columns=100,
               env={"PS1": "%% ", "HOME": str(tmp_path), "PATH": f"{WYVERN.parent}:{os.environ['PATH']}"})
    try:
        seen.line(f"cd {tmp_path}; fpath=({tmp_path} $fpath); autoload -U compinit; compinit -u -D")
        count = 0

        def emptied():
            """Without what was typed; where its last words end.  No Ctrl-C: a completion that is not
            over yet would take it for itself."""
            nonlocal count
            count += 1
            seen.line(f"\x15print -r emp''tied {count}")
            return seen.wait(f"emptied {count}\n")

        def completes(typed, wanted):
            at = emptied()
            seen.keys(typed + "\t")
            seen.wait(wanted, after=at)

        completes("wyvern stat", "wyvern status ")
        completes("wyvern ask --temper", "--temperature=")
        completes("wyvern up --log-level=wa", "--log-level=warn")
        completes("wyvern key rev", "wyvern key revoke ")
        completes("wyvern batch li", "lines.jsonl")
        completes("wyvern batch --", re.compile(r"(?s)--ordered .*answers in the order"))
        completes("wyvern ", re.compile(r"(?s)batch +-- +Answer the lines.*chat +-- "))
    finally:
        seen.close()


# ---- installed ----

def test_make_install(tmp_path):
    """Below DESTDIR alone; what is there runs, with libraries and broker of its own."""
    root = tmp_path / "root"
    install = subprocess.run([ROOT / "scripts" / "install.sh", WYVERN.parent, "/usr"],
                             env={**os.environ, "DESTDIR": str(root)}, capture_output=True,
                             text=True, check=False)
    assert install.returncode == 0, install.stderr
    assert [path.name for path in root.iterdir()] == ["usr"]
    files = {str(path.relative_to(root / "usr")) for path in root.rglob("*") if path.is_file()}
    assert {"bin/wyvern", "share/man/man1/wyvern.1", "share/zsh/site-functions/_wyvern",
            "share/bash-completion/completions/wyvern", "share/wyvern/deploy/prometheus/rules.yml",
            *(f"share/man/man1/wyvern-{verb}.1" for verb in VERBS)} <= files
    program = root / "usr" / "bin" / "wyvern"
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run([program, "--version"], env=clean, capture_output=True, text=True,
                          check=True)
    assert done.stdout.startswith("wyvern ")
    libraries = subprocess.run(["ldd", program], env=clean, capture_output=True, text=True,
                               check=True).stdout
    assert "not found" not in libraries and str(ROOT / ".deps") not in libraries
    port = subprocess.run([program, "doctor", "--model", "fake:tokens=1", "--port", "0"], env=clean,
                          capture_output=True, text=True, check=False).stdout
    if (root / "usr" / "lib" / "wyvern" / "nats-server").exists():
        assert "lib/wyvern/nats-server" in port
    again = subprocess.run([ROOT / "scripts" / "install.sh", WYVERN.parent, "relative"],
                           capture_output=True, check=False)
    assert again.returncode == 64
