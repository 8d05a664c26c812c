#!/usr/bin/env python3
"""Are dashboards, rules and alerts as they must be?  The rules of Grafana's dashboard-linter, and ours:
each metric named is described in docs/METRICS.md, each alert has a runbook in docs/OPERATIONS.md.

Usage: dashboards.py [ROOT].  One line per fault; exit status 1 if there is any.
"""

import json
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
import promql  # noqa: E402

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"short", "s", "bytes", "mbytes", "Bps", "percent", "percentunit", "celsius", "watt", "joule",
         "hertz", "reqps"}
COUNTER = re.compile(r"\b\w+_(?:total|bucket|sum|count)\b")
FIGURES = re.compile(r"\b(?:rate|increase)\((\w+)(?:\{[^}]*\})?\[([^]]+)\]\)")


def check_variables(board):
    variables = {v["name"]: v for v in board["templating"]["list"]}
    if variables.get("datasource", {}).get("query") != "prometheus":
        yield "no variable datasource of type prometheus"
    for name in ("job", "instance"):
        variable = variables.get(name)
        if not variable:
            yield f"no variable {name}"
        elif not (variable["multi"] and variable["includeAll"] and variable["allValue"] == ".+"
                  and variable["datasource"] == SOURCE and variable["label"] == name.title()):
            yield f"variable {name} is not a multiple one with All"


def check_query(target):
    expr = target["expr"]
    for selector in re.findall(r"\{([^}]*)\}", expr):
        if 'job=~"$job"' not in selector or 'instance=~"$instance"' not in selector:
            yield f"does not select by job and instance: {expr}"
    under = FIGURES.findall(expr)
    for name, span in under:
        if span not in ("$__rate_interval", "$__range"):
            yield f"an interval of its own, {span}: {expr}"
    if set(COUNTER.findall(expr)) - {name for name, _ in under} - {"gpu_memory_total"}:
        yield f"a counter without rate or increase: {expr}"
    if expr.count("(") != expr.count(")"):
        yield f"brackets: {expr}"


def check_panel(panel):
    if not panel.get("title"):
        yield "no title"
    if not panel.get("description", "").endswith("."):
        yield "no description"
    if panel.get("datasource") != SOURCE:
        yield "another data source"
    if panel["fieldConfig"]["defaults"].get("unit") not in UNITS:
        yield "no known unit"
    if not panel["targets"]:
        yield "asks for nothing"
    refs = [t["refId"] for t in panel["targets"]]
    if len(set(refs)) != len(refs):
        yield "a refId twice"
    for target in panel["targets"]:
        yield from check_query(target)
        if target["datasource"] != SOURCE:
            yield "a target with another data source"
        if panel["type"] == "heatmap" and not (
                target.get("format") == "heatmap" and re.fullmatch(
                    r"sum by \(le\) \(increase\(\w+_bucket\{.*\}\[\$__rate_interval\]\)\)",
                    target["expr"])):
            yield "a heatmap is made of sum by (le) (increase(…_bucket[$__rate_interval]))"
        if panel["type"] not in ("heatmap", "table") and not target.get("legendFormat"):
            yield "no legend"


def check_places(panels):
    taken = {}
    for panel in panels:
        at = panel["gridPos"]
        if at["x"] + at["w"] > 24:
            yield f"{panel['title']}: wider than the page"
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                other = taken.setdefault((x, y), panel["title"])
                if other != panel["title"]:
                    yield f"{panel['title']}: lies on {other}"
                    return


def check_dashboard(board, known):
    if board.get("schemaVersion") != 39 or board.get("editable") is not False:
        yield "not a dashboard of schema version 39 that is not editable"
    if "__inputs" in board or not board.get("uid") or not board.get("title"):
        yield "not fit for provisioning"
    yield from check_variables(board)
    panels = board["panels"]
    ids = [p["id"] for p in panels]
    if len(set(ids)) != len(ids):
        yield "a panel's id twice"
    yield from check_places(panels)
    for panel in panels:
        if panel["type"] == "row":
            continue
        for fault in check_panel(panel):
            yield f"{panel.get('title')}: {fault}"
        for target in panel["targets"]:
            for name in promql.metric_names(promql.filled(target["expr"])):
                if not promql.family(name, known):
                    yield f"{panel.get('title')}: {name} is not in docs/METRICS.md"


def check_rules(text, known, runbooks):
    for expr in promql.rule_expressions(text):
        for name in promql.metric_names(expr):
            if not promql.family(name, known):
                yield f"{name} is not in docs/METRICS.md"
    for block in re.split(r"^ +- (?=alert: )", text, flags=re.M)[1:]:
        name = re.match(r"alert: (\w+)", block)[1]
        if f"runbook: docs/OPERATIONS.md#{name.lower()}\n" not in block + "\n":
            yield f"{name}: no runbook"
        if name not in runbooks:
            yield f"{name}: docs/OPERATIONS.md has no section of that name"
        if "summary:" not in block or "severity:" not in block:
            yield f"{name}: no summary, or no severity"


def faults(root):
    metrics = (root / "docs" / "METRICS.md").read_text(encoding="utf-8")
    operations = (root / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    rules = sorted((root / "deploy" / "prometheus").glob("*s.yml"))
    known = set(re.findall(r"^\| `(\w+)` \|", metrics, re.M)) | promql.OWN_TO_PROMETHEUS
    for path in rules:
        known |= set(re.findall(r"record: (\S+)", path.read_text(encoding="utf-8")))
    runbooks = set(re.findall(r"^#+ (\w+)$", operations, re.M))
    uids = []
    for path in sorted((root / "deploy" / "grafana" / "dashboards").glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        uids.append(board.get("uid"))
        for fault in check_dashboard(board, known):
            yield f"{path.name}: {fault}"
    if len(set(uids)) != len(uids) or len(uids) < 3:
        yield "three dashboards, each with a uid of its own"
    for path in rules:
        for fault in check_rules(path.read_text(encoding="utf-8"), known, runbooks):
            yield f"{path.name}: {fault}"


def main():
    found = list(faults(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
