"""What all measures share: the report, and services that are stopped."""

import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from harness import Service, run_json  # noqa: E402


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def shown(value):
    """Three digits, or all of a large number."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


class Report:
    def __init__(self):
        self.rows = []

    def add(self, measure, value, unit, aim, note="", least=False, samples=None):
        """aim None: told, not judged."""
        verdict = None if aim is None else (value >= aim if least else value <= aim)
        self.rows.append({"measure": measure, "value": value, "unit": unit, "aim": aim,
                          "aim_is": "least" if least else "most", "met": verdict, "note": note,
                          "samples": samples if samples is not None else [value]})
        word = {None: "", True: "met", False: "MISSED"}[verdict]
        say(f"{measure}: {shown(value)} {unit} {word} {note}".rstrip())

    def table(self):
        lines = ["| measure | measured | aim | | how |", "|---|---|---|---|---|"]
        for row in self.rows:
            sign = "≥" if row["aim_is"] == "least" else "≤"
            aim = "" if row["aim"] is None else f"{sign} {row['aim']:g}"
            word = {None: "", True: "met", False: "**missed**"}[row["met"]]
            unit = "" if row["unit"] in ("", "%") else " " + row["unit"]
            percent = " %" if row["unit"] == "%" else ""
            lines.append(f"| {row['measure']} | {shown(row['value'])}{percent}{unit} | "
                         f"{aim}{percent if aim else ''}{unit if aim else ''} | {word} | "
                         f"{row['note']} |")
        return "\n".join(lines)


@contextlib.contextmanager
def service(**options):
    with tempfile.TemporaryDirectory(prefix="wyvern-bench-") as folder:
        up = Service(folder, **options)
        try:
            yield up.wait_ready(180)
            up.stop(120)
        finally:
            up.kill()


def load(up, *arguments, timeout=3600):
    return run_json("load", "--quiet", "--url", up.url, "--json", *arguments, timeout=timeout)


def prompts_file(up, lines):
    path = up.state_dir / "bench-prompts.txt"
    path.write_text("".join(line + "\n" for line in lines))
    return path
