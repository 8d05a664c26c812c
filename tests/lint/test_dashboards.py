#!/usr/bin/env python3
"""Does dashboards.py see what it must?  Breaks a copy of the repository's own files, one fault each."""

import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import dashboards  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BOARD, ALERTS = "deploy/grafana/dashboards/service.json", "deploy/prometheus/alerts.yml"
CASES = [  # file, what is there, what comes in its place, part of the fault expected
    (BOARD, "wyvern_queue_waiting", "wyvern_queue_awaiting", "is not in docs/METRICS.md"),
    (BOARD, "rate(wyvern_prompts_accepted_total", "max(wyvern_prompts_accepted_total",
     "a counter without rate"),
    (BOARD, "$__rate_interval", "5m", "an interval of its own"),
    (BOARD, 'max(wyvern_queue_waiting{job=~\\"$job\\", ', "max(wyvern_queue_waiting{",
     "does not select by job"),
    (BOARD, '"unit": "reqps"', '"unit": "requests"', "no known unit"),
    (BOARD, '"description": "Prompts waiting for a worker."', '"description": ""',
     "no description"),
    (BOARD, '"uid": "${datasource}"', '"uid": "mine"', "data source"),
    (BOARD, '"name": "instance"', '"name": "node"', "no variable instance"),
    (BOARD, '"format": "heatmap"', '"format": "table"', "a heatmap is made of"),
    (BOARD, '"uid": "wyvern-service"', '"uid": "wyvern-nodes"', "a uid of its own"),
    (BOARD, '"x": 4', '"x": 0', "lies on"),
    (BOARD, '"schemaVersion": 39', '"schemaVersion": 38, "__inputs": []', "not fit"),
    (ALERTS, "wyvern_gpu_up", "wyvern_gpu_there", "is not in docs/METRICS.md"),
    (ALERTS, "#wyverngpuhot", "#gpu", "no runbook"),
    (ALERTS, "alert: WyvernGpuHot", "alert: WyvernGpuWarm", "no section of that name"),
]


def main():
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("deploy", "docs"):
            shutil.copytree(ROOT / name, root / name)
        for name, there, instead, expected in CASES:
            path = root / name
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(there, instead), encoding="utf-8")
            found = list(dashboards.faults(root))
            path.write_text(text, encoding="utf-8")
            if there not in text or not any(expected in fault for fault in found):
                print(f"{there} -> {instead}: expected {expected!r}, found {found[:3]}")
                wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
