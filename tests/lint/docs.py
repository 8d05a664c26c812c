#!/usr/bin/env python3
"""Do the documents name what is there?  Links lead somewhere, paths and options exist, every stream
and subject of the code is in docs/PROTOCOL.md, and nothing names one person's machine.

Usage: docs.py [ROOT].  One line per fault; exit status 1 if there is any.
"""

import pathlib
import re
import sys

OURS = r"(?:src|tests|scripts|docs|bench|deploy|notebooks|\.ci)/[\w./-]*\w"
PICTURE_MAX = 200_000


def documents(root):
    return [*sorted(root.glob("*.md")), *sorted((root / "docs").glob("*.md"))]


def check_links(root, path, text):
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"[a-z]+:", target) and not (path.parent / target).exists():
            yield f"link to {target}, which is not there"


def check_paths(root, path, text):
    for name in set(re.findall(rf"`({OURS})`", text)):
        if not (root / name).exists():
            yield f"{name} is not there"


def check_options(root, path, text):
    cli = root / "docs" / "CLI.md"
    if not cli.exists():
        yield "docs/CLI.md is not there"
        return
    known = set(re.findall(r"--[a-z][a-z-]+", cli.read_text(encoding="utf-8")))
    if path.name == "COMING-FROM.md":  # its left columns hold other programs' options
        text = re.sub(r"^\|.*?[^\\]\|", "|", text, flags=re.M)
    for line in re.findall(r"^.*\bwyvern\b.*$", text, re.M):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line):
            if option not in known | {"--help", "--version", "--markdown", "--metrics-markdown",
                                      "--man", "--completion"}:
                yield f"option {option} is not in docs/CLI.md"


def check_places(root, path, text):
    for match in re.findall(r"(?:/home/\w+|/root|/work|/tmp)/[\w./-]*", text):
        yield f"names a place on one machine: {match}"


def check_pictures(root):
    for path in sorted((root / "docs" / "screenshots").glob("*")):
        if path.suffix != ".png" or path.stat().st_size > PICTURE_MAX:
            yield f"{path.relative_to(root)}: a PNG of at most {PICTURE_MAX // 1000} KB"


def check_protocol(root):
    protocol = (root / "docs" / "PROTOCOL.md").read_text(encoding="utf-8")
    streams = (root / "src" / "bus" / "streams.c").read_text(encoding="utf-8")
    for name, subjects in re.findall(r'^    \{"([A-Z]+)", "([a-z]+)\.', streams, re.M):
        for word in (name, f"`{subjects}."):
            if word not in protocol:
                yield f"docs/PROTOCOL.md: {word} of src/bus/streams.c is missing"
    for file in sorted((root / "src" / "wire").glob("*.c")):
        for key in re.findall(r'json_out_\w+\(&?out, "(\w+)"', file.read_text(encoding="utf-8")):
            if key not in ("v",) and not re.search(rf'[`"]{key}[`"]', protocol):
                yield f"docs/PROTOCOL.md: field {key} of src/wire/{file.name} is missing"


def documented_routes(text):
    """(method, path) of all that the table at the top of API.md lists.  `GET`, `DELETE /a` is both of
    /a; a path without a method has the methods of the one before; "…" stands for the last whole
    path."""
    table = re.search(r"^\|.*?\n\n", text, re.M | re.S)
    for line in table[0].strip().splitlines() if table else []:
        methods, whole, placed = [], "", False
        for name in re.findall(r"`([^`]+)`", line.split("|")[1]):
            method, path = re.fullmatch(r"(?:([A-Z]+) ?)?([/…]\S*)?", name).groups()
            if method:
                methods = [*([] if placed else methods), method]
            placed = path is not None
            if placed:
                whole = path if path[0] == "/" else whole
                full = whole if path == whole else whole + path[1:]
                yield from ((m, full) for m in methods)


def check_routes(root):
    """The gateway's paths: those of its table, and those that API.md lists."""
    code = (root / "src" / "roles" / "gateway" / "routes.c").read_text(encoding="utf-8")
    there = set(re.findall(r'^    \{"([A-Z]+)", "(/[^"]*)", ', code, re.M))
    listed = set(documented_routes((root / "docs" / "API.md").read_text(encoding="utf-8")))
    for method, path in sorted(there - listed):
        yield f"docs/API.md: the table at its top lacks {method} {path}"
    for method, path in sorted(listed - there):
        yield f"docs/API.md: {method} {path} is not in src/roles/gateway/routes.c"


def faults(root):
    for path in documents(root):
        text = path.read_text(encoding="utf-8")
        for check in (check_links, check_paths, check_options, check_places):
            for fault in check(root, path, text):
                yield f"{path.relative_to(root)}: {fault}"
    yield from check_pictures(root)
    yield from check_protocol(root)
    yield from check_routes(root)


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    found = list(faults(root))
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
