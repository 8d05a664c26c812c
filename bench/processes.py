"""What processes use, read from /proc."""

import os
import pathlib
import re

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def threads_cpu(pid):
    """{thread id: seconds of CPU}; threads that ended count nowhere."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            fields = (task / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(task.name)] = (int(fields[11]) + int(fields[12])) * TICK_S
    return found


def cpu(pid):
    """Seconds of CPU, user and system, of a process and its threads, ended ones too."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def resident_mib(pid, field="VmRSS"):
    """All that is resident: anonymous and file pages, shared libraries included."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(rf"^{field}:\s+(\d+) kB", text, re.M)[1]) / 1024


def role_pids(pids):
    """{"gateway": [pid, …], …} of the processes of one service."""
    roles = {}
    for pid in pids:
        try:
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if len(words) > 1 and words[0].endswith(b"wyvern"):
            roles.setdefault(words[1].decode(), []).append(pid)
        elif words[0].endswith(b"nats-server"):
            roles.setdefault("broker", []).append(pid)
    return roles
