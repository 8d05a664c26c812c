"""What dashboards, rules and alerts ask for, read from their files."""

import json
import re

OWN_TO_PROMETHEUS = {"up", "scrape_duration_seconds"}


def panels(path):
    """(title, type, unit, queries) of every panel of a dashboard that asks for data."""
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
        if panel["type"] != "row":
            yield (panel["title"], panel["type"], panel["fieldConfig"]["defaults"]["unit"],
                   [target["expr"] for target in panel["targets"]])


def filled(expr, interval="15s", span="60s"):
    """A query as Grafana sends it: every variable set to its "All"."""
    for name, value in {"$__rate_interval": interval, "$__range": span, "$job": ".+",
                        "$instance": ".+", "$model": ".+", "$worker": ".+"}.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, f"a variable is left in {expr}"
    return expr


def metric_names(expr):
    """The metrics that a query names; recording rules too."""
    text = re.sub(r'\{[^}]*\}|\[[^]]*\]|"[^"]*"', "", expr)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
    words = re.findall(r"[a-zA-Z_:][\w:]*(?!\s*\()\b", text)
    return {w for w in words if "_" in w and not re.search(rf"\b{w}\s*\(", text) or w == "up"}


def family(name, known):
    """The family that a sample's name belongs to, among known ones; None."""
    for candidate in (name, re.sub(r"_(bucket|sum|count)$", "", name)):
        if candidate in known:
            return candidate
    return None


def rule_expressions(text):
    """The queries of a file of rules."""
    for folded, plain in re.findall(r"^ +expr: (?:>-\n((?: {10,}.*\n)+)|(.*)\n)", text, re.M):
        yield folded or plain
