"""Prometheus for tests: where it is, and what it answers."""

import json
import os
import pathlib
import re
import shutil

import httpx

from harness import ROOT

DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
OWN_TO_PROMETHEUS = {"up", "scrape_duration_seconds"}


def program(name="prometheus"):
    """Its path, or None."""
    named = os.environ.get(f"WYVERN_TEST_{name.upper()}")
    places = [named, ROOT / ".deps" / "bin" / name, shutil.which(name)]
    return next((str(p) for p in places if p and pathlib.Path(p).exists()), None)


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


class Prometheus:
    def __init__(self, url):
        self.url = url

    def get(self, path, **params):
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=params, trust_env=False, timeout=10)
        body = reply.json()
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expr):
        """[(labels, value)]"""
        data = self.get("query", query=expr)
        assert data["resultType"] == "vector", data
        return [(s["metric"], float(s["value"][1])) for s in data["result"]]

    def oldest(self, name):
        """When the oldest sample of the last ten minutes was taken; None: there is none."""
        data = self.get("query", query=f"{name}[10m]")
        return min((float(s["values"][0][0]) for s in data["result"]), default=None)

    def targets(self):
        """{(job, instance): health}"""
        return {(t["labels"]["job"], t["labels"]["instance"]): t["health"]
                for t in self.get("targets", state="active")["activeTargets"]}
