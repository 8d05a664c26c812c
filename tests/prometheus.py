"""Prometheus for tests: where it is, and what it answers."""

import os
import pathlib
import shutil

import httpx

from harness import ROOT

DEPLOY = ROOT / "deploy"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))


def program(name="prometheus"):
    """Its path, or None."""
    named = os.environ.get(f"WYVERN_TEST_{name.upper()}")
    places = [named, ROOT / ".deps" / "bin" / name, shutil.which(name)]
    return next((str(p) for p in places if p and pathlib.Path(p).exists()), None)


class Prometheus:
    def __init__(self, url):
        self.url = url

    def get(self, path, **params):
        reply = httpx.get(f"{self.url}/api/v1/{path}", params=params, trust_env=False, timeout=30)
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
        """{(job, instance): health}; no target is there twice."""
        active = self.get("targets", state="active")["activeTargets"]
        found = {(t["labels"]["job"], t["labels"]["instance"]): t["health"] for t in active}
        assert len(found) == len(active), active
        return found
