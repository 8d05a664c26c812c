"""Commands in the documents: each `wyvern …` of README.md and docs/ is one that the program takes,
with its options and their values; what docs/COMING-FROM.md says of calls is so; what README.md
tells people to run, runs."""

import os
import re
import shlex
import subprocess
import sys

import httpx
import pytest

from harness import ROOT, WYVERN, run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMING_FROM = ROOT / "docs" / "COMING-FROM.md"
UNKNOWN = "--there-is-no-such-option"
# Written with a place to fill in, or as a form and no command.
FORMS = ("VERB", "…", "...", "[")


def blocks(text, language="sh"):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def joined(block):
    """Its lines, those that end with a backslash with the next."""
    return block.replace("\\\n", " ").splitlines()


def commands(path):
    """Every wyvern command of a page: in blocks for a shell, and between backticks."""
    text = path.read_text(encoding="utf-8")
    found = [line for block in blocks(text) for line in joined(block)]
    found += re.findall(
        r"`((?:[A-Z_]+=\S+ )*(?:build/)?wyvern [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S)
    )
    for line in found:
        match = re.search(
            r"(?:^|[|&;(] *|\$\()(?:[A-Z_]+=\S+ )*(?:srun [^|;]*?)?(?:build/)?wyvern +(.*)",
            line.strip(),
        )
        if match and not any(form in match[1] for form in FORMS):
            yield shell_words(match[1])


def shell_words(text):
    """Up to what belongs to the shell."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = []
    for word in lexer:
        if set(word) <= set("|&;()<>"):
            break
        words.append(word)
    return words


COMMANDS = sorted(
    {(path.name, *words) for path in PAGES if path.name != "CLI.md" for words in commands(path)}
)


def test_commands_are_found():
    assert len(COMMANDS) > 60
    assert ("README.md", "ask", "Why is the sky blue?") in COMMANDS
    assert ("COMING-FROM.md", "up", "--context", "4096", "--slots", "8") in COMMANDS


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_program_takes_it(command):
    """The parser goes from left to right: an option that does not exist, put behind, is the only
    fault."""
    page, verb, *words = command
    if verb == "help":
        assert run(verb, *words).returncode == 0
        return
    done = run(verb, *words, UNKNOWN)
    assert done.returncode == 64
    expected = [f"wyvern: there is no option {UNKNOWN};"]
    if words and words[-1].startswith("--"):
        expected.append(f"wyvern: {words[-1]} needs a value ")  # named in a sentence, without one
    assert done.stderr.startswith(tuple(expected)), done.stderr


def test_a_wrong_one_is_seen():
    for words in (["up", "--slots", "many"], ["up", "--slot", "8"], ["down"]):
        assert f"no option {UNKNOWN}" not in run(*words, UNKNOWN).stderr


# ---- docs/COMING-FROM.md ----


def rows():
    """The cells of every table row of the page."""
    for line in COMING_FROM.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith(("| there |", "| call |")):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def ticked(cell):
    return re.findall(r"`([^`]+)`", cell)


def post(service, path, body):
    return httpx.post(service.url + path, json=body, trust_env=False, timeout=60)


def test_paths_are_there_or_not_as_it_says(fake):
    """Every path of the page's left column."""
    seen = {True: 0, False: 0}
    for there, here, *_ in rows():
        for path in ticked(there):
            if not re.fullmatch(r"/[\w/-]+", path):
                continue
            replies = [httpx.get(fake.url + path, trust_env=False), post(fake, path, {})]
            missing = all(reply.status_code == 404 for reply in replies)
            assert missing == here.startswith("404"), path
            seen[missing] += 1
    assert min(seen.values()) > 5


def test_fields_are_ignored_or_refused_as_it_says(fake):
    seen = {200: 0, 400: 0}
    for there, here, *_ in rows():
        status = 200 if here.startswith("ignored") else 400 if here.startswith("refused") else None
        for field in ticked(there) if status else []:
            name = field.split(":")[0].strip('"')
            value = (
                [{"type": "function"}] if name == "tools" else {"a": 1} if "json" in name else 1.5
            )
            body = {
                "model": "default",
                "max_tokens": 3,
                "messages": [{"role": "user", "content": "Hi"}],
            }
            if name == "repetition_penalty":
                continue  # by the real model, below
            reply = post(fake, "/v1/chat/completions", {**body, name: value})
            assert reply.status_code == status, f"{name}: {reply.text}"
            if status == 400:
                assert reply.json()["error"]["param"] == name
            seen[status] += 1
    assert seen[200] > 10 and seen[400] > 2


def test_a_decoder_model_says_which_penalty(real):
    body = {"model": "default", "max_tokens": 3, "messages": [{"role": "user", "content": "Hi"}]}
    assert post(real, "/v1/chat/completions", {**body, "repeat_penalty": 1.1}).status_code == 200
    refused = post(real, "/v1/chat/completions", {**body, "repetition_penalty": 1.1})
    assert refused.status_code == 400, refused.text


def test_metrics_are_named_as_it_says():
    known = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "METRICS.md").read_text(), re.M))
    named = {
        name for _, here, *_ in rows() for name in ticked(here) if re.fullmatch(r"wyvern_\w+", name)
    }
    assert len(named) > 5 and named <= known


# ---- README.md ----

ADDRESS = "127.0.0.1:8080"
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Verbs that ask a service and end; what they are given to read, and what ends chat.
ASKING = ("ask", "status", "load", "top", "chat", "batch")


def asking():
    """README's commands for a service that is there: (name, shell text)."""
    for block in blocks(README):
        for line in joined(block):
            line = line.strip()
            if re.match(
                rf"(?:.*\| *)?build/wyvern (?:{'|'.join(ASKING)})\b", line
            ) or line.startswith("curl "):
                yield line


@pytest.mark.parametrize("line", list(asking()))
def test_readme_asks(real, tmp_path, line):
    """As it stands there, in a folder with a text and a batch; chat is told one thing."""
    (tmp_path / "build").symlink_to(WYVERN.parent)
    (tmp_path / "notes.txt").write_text("Two dragons met.\n")
    (tmp_path / "in.jsonl").write_text('{"prompt": "Hi"}\n{"prompt": "Ho"}\n')
    line = line.replace(ADDRESS, f"127.0.0.1:{real.port}")
    if "wyvern top" in line:
        line = line.replace("wyvern top", "wyvern top --once")
    env = {
        **os.environ,
        "WYVERN_URL": real.url,
        "no_proxy": "127.0.0.1",
        "NO_PROXY": "127.0.0.1",
        "WYVERN_MAX_TOKENS": "12",
        "WYVERN_MIN_TOKENS": "4",
        "WYVERN_REPEAT": "1",
    }
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=170,
        cwd=tmp_path,
        env=env,
        input="Hello\n" if "wyvern chat" in line else "",
    )
    assert done.returncode == 0, done.stderr
    if "wyvern batch" in line:
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    else:
        assert done.stdout.strip(), done.stderr
    if (
        "num_beams" in line
    ):  # for Blenderbot, which test_blenderbot_service.py asks; others refuse it by name
        assert '"param":"num_beams"' in done.stdout
    else:
        assert '"error":' not in done.stdout.replace(" ", "")


ALONE = [
    line.split("#")[0].strip()
    for block in blocks(README)
    for line in joined(block)
    if re.match(r"build/wyvern (generate|convert model|key)", line)
]


@pytest.mark.parametrize("line", ALONE)
def test_readme_without_a_service(model, tmp_path, line):
    """With the small model under each name that README uses."""
    (tmp_path / "build").symlink_to(WYVERN.parent)
    (tmp_path / "path" / "to").mkdir(parents=True)
    for name in ("path/to/model.gguf", "model-f16.gguf"):
        (tmp_path / name).symlink_to(model)
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=170,
        cwd=tmp_path,
        env={**os.environ, "WYVERN_MAX_TOKENS": "5"},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or (tmp_path / "model-q8_0.gguf").stat().st_size > 1e8


def test_readme_has_some_of_each():
    assert len(ALONE) == 3 and len(list(asking())) >= 8


PYTHON = blocks(README, "python")


@pytest.mark.parametrize("index", range(len(PYTHON)))
def test_readme_in_python(real, index):
    text = PYTHON[index].replace(ADDRESS, f"127.0.0.1:{real.port}")
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) > 10


def test_readme_ups_start(start, tmp_path):
    """Each `up` of README with its flags, and the fake engine: it gets ready, and ends well."""
    for path in (tmp_path / "keys", tmp_path / "model.gguf"):
        path.touch()
    seen = 0
    for page, verb, *words in COMMANDS:
        if page != "README.md" or verb != "up":
            continue
        flags = {}
        for word in words:
            if word.startswith("--"):
                name = word[2:].replace("-", "_")
                flags[name] = True
            else:
                flags[name] = word
        if {"prometheus", "grafana"} & set(flags) or flags.get("model") == "blenderbot.gguf":
            continue  # test_prometheus.py, test_blenderbot_service.py
        flags.pop("model", None)
        if flags.get("listen"):
            flags["listen"] = "127.0.0.1"
        if "keys" in flags:
            flags["keys"] = tmp_path / "keys"
        if "host" in flags:
            flags["host"] = "127.0.0.1"
        flags.pop("port", None)
        service = start(**flags)
        assert service.stop() == 0
        seen += 1
    assert seen >= 4


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        for block in blocks(text):
            for line in block.splitlines():
                for name in re.findall(r"^(?:[A-Z_]+=\S+ )*make +([a-z]+)", line):
                    assert name in targets, f"{path.name}: make {name}"
        for name in re.findall(r"`make ([a-z]+)[^`]*`", text):
            assert name in targets, f"{path.name}: make {name}"


def test_the_first_two_commands_of_readme():
    """make demo and make up: scripts/demo.sh looks itself at what happened; here that README
    begins with them."""
    first = [
        line.split("#")[0].strip() for block in blocks(README)[:2] for line in block.splitlines()
    ]
    assert first[0] == "make demo"
    assert "make up" in first
