#!/usr/bin/env python3
"""Checks the house's rules on src/ (docs/ARCHITECTURE.md): every include goes to the file's own
folder or a floor below, foreign headers stay in their room, no include loops, sizes are bounded.

Usage: layers.py [ROOT].  One line per fault; exit status 1 if there is any.
"""

import pathlib
import re
import sys

FLOORS = [  # from the ground up; folders of one floor do not see each other
    {"base"},
    {"http", "wire", "sched", "config", "metrics", "probe"},
    {"api", "bus", "engine", "convert"},
    {"roles", "verbs"},
    {"main"},
]
# A role never uses another role: a header whose first word is a role's name belongs to that role;
# any other header of roles/ is shared by all of them.
ROLES = {"gateway", "infer", "respond", "telemetry", "node", "up"}
FOREIGN = {  # header → files that may include it
    "nats.h": ("bus/",),
    "nats/nats.h": ("bus/",),
    "uv.h": ("base/loop.c", "http/"),
    "llhttp.h": ("http/",),
    "curl/curl.h": ("http/",),
    "llama.h": ("engine/",),
    "ggml*.h": ("engine/", "convert/"),
    "gguf.h": ("engine/", "convert/"),
}
MAX_FILE_LINES = 900
MAX_FUNCTION_LINES = 100
MAX_TEST_LINES = 160  # a test may be one long table

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]', re.M)


def floor_of(folder):
    for number, folders in enumerate(FLOORS):
        if folder in folders:
            return number
    return None


def folder_of(path):
    parts = path.parts
    return "main" if len(parts) == 1 else parts[0]


def check_foreign(path, header):
    for pattern, rooms in FOREIGN.items():
        if re.fullmatch(re.escape(pattern).replace(r"\*", r"[\w-]*"), header):
            name = path.as_posix()
            if not any(name == room or name.startswith(room) for room in rooms):
                yield f"src/{name}: {header} belongs in {', '.join(rooms)} alone"


def check_own(root, path, header):
    target = pathlib.PurePosixPath(header)
    if not (root / "src" / header).is_file():
        yield f'src/{path}: no such file: "{header}" (includes are written from src/)'
        return
    mine, theirs = folder_of(path), folder_of(target)
    here, there = floor_of(mine), floor_of(theirs)
    if there is None or here is None:
        yield f"src/{path}: {header}: a folder without a floor"
    elif mine != theirs and there >= here:
        yield f"src/{path}: {header} is not on a floor below"
    elif mine == theirs == "roles" and not same_role(path, target):
        yield f"src/{path}: {header}: a role never uses a role"


def role_of(path):
    return path.parts[1].removesuffix(".c").removesuffix(".h").split("_")[0]


def same_role(path, target):
    return role_of(target) not in ROLES or role_of(path) == role_of(target)


def check_loops(graph):
    state = {}

    def visit(node, trail):
        state[node] = "open"
        for following in sorted(graph.get(node, ())):
            if state.get(following) == "open":
                loop = trail[trail.index(following):] if following in trail else [following]
                yield "include loop: " + " → ".join(loop + [following])
            elif following not in state:
                yield from visit(following, trail + [following])
        state[node] = "done"

    for node in sorted(graph):
        if node not in state:
            yield from visit(node, [node])


def function_lengths(lines):
    """Yields (line number, length, head) of each function: our style puts its brace alone in
    column 0, opening and closing."""
    start = None
    for number, line in enumerate(lines, 1):
        if line == "{" and start is None:
            start = number
        elif line == "}" and start is not None:
            head = lines[start - 2].strip() if start >= 2 else "?"
            yield start, number - start + 1, head
            start = None


def check_sizes(name, lines, most=MAX_FUNCTION_LINES):
    if len(lines) > MAX_FILE_LINES:
        yield f"{name}: {len(lines)} lines, more than {MAX_FILE_LINES}"
    for number, length, head in function_lengths(lines):
        if length > most:
            yield f"{name}:{number}: {head}: {length} lines, more than {most}"


def check_words(name, lines):
    for number, line in enumerate(lines, 1):
        if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
            yield f"{name}:{number}: unfinished: {line.strip()}"


def check_tree(root):
    src = root / "src"
    graph = {}
    for file in sorted(src.rglob("*.[ch]")):
        path = file.relative_to(src)
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        graph[path.as_posix()] = set()
        for bracket, header in INCLUDE.findall(text):
            yield from check_foreign(path, header)
            if bracket == '"':
                if header in ("uv.h", "nats.h") or header.startswith(("ggml", "llama")):
                    continue
                yield from check_own(root, path, header)
                graph[path.as_posix()].add(header)
        yield from check_sizes(f"src/{path}", lines)
        yield from check_words(f"src/{path}", lines)
    yield from check_loops(graph)
    for folder in ("tests", "bench"):
        for file in sorted((root / folder).rglob("*.c")):
            lines = file.read_text(encoding="utf-8").splitlines()
            yield from check_sizes(file.relative_to(root).as_posix(), lines, MAX_TEST_LINES)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    faults = list(check_tree(root))
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
