"""Every example of docs/API.md, in curl and in Python, as it stands there, against a service with
the small model: it ends well and says something, and nothing it says is an error but where errors
are shown."""

import os
import re
import subprocess
import sys

import pytest

from harness import ROOT, WYVERN

PAGE = ROOT / "docs" / "API.md"
ADDRESS = "127.0.0.1:8080"


def examples():
    """(heading, language, text) of each block that can be run."""
    heading, language, lines = "", None, []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if language is None and line.startswith("#"):
            heading = line.strip("# ")
        elif language is None and line.startswith("```"):
            language, lines = line[3:].strip(), []
        elif line == "```":
            if language in ("sh", "python"):
                yield heading, language, "\n".join(lines) + "\n"
            language = None
        else:
            lines.append(line)


EXAMPLES = list(examples())
IDS = [f"{re.sub('[^a-z]+', '-', heading.lower())}-{language}" for heading, language, _ in EXAMPLES]


def test_each_endpoint_has_one_of_each():
    assert len(set(IDS)) == len(IDS)
    for heading in ("chat-completions", "completions", "responses", "embeddings", "models", "files",
                    "batches", "json-schemas", "idempotency-key", "errors", "keys"):
        assert {f"{heading}-sh", f"{heading}-python"} <= set(IDS)


@pytest.mark.parametrize("heading,language,text", EXAMPLES, ids=IDS)
def test_example(real, tmp_path, heading, language, text):
    assert ADDRESS in text
    text = text.replace(ADDRESS, f"127.0.0.1:{real.port}")
    command = (["bash", "-euc", text] if language == "sh" else [sys.executable, "-c", text])
    env = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
           "PATH": f"{WYVERN.parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, cwd=tmp_path,
                          env=env, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.strip(), "it says nothing"
    if heading == "Errors":
        assert re.search("error|param|400", done.stdout)
    else:
        assert '"error":{' not in done.stdout.replace(" ", ""), done.stdout
