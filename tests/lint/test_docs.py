#!/usr/bin/env python3
"""Does docs.py see a path that API.md does not list, and one that it makes up?"""

import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import docs  # noqa: E402

TABLE = """# The API

| | |
|---|---|
| [`POST /a/b`](#ab) | makes one |
| `GET`, `DELETE /a/{id}`, `POST …/stop`, `GET …/parts` | one |
| [`GET /c`, `/d`](#c), `/e/{f}` | others |

| `GET /in/another/table` | |
"""
ROUTES = {("POST", "/a/b"), ("GET", "/a/{id}"), ("DELETE", "/a/{id}"), ("POST", "/a/{id}/stop"),
          ("GET", "/a/{id}/parts"), ("GET", "/c"), ("GET", "/d"), ("GET", "/e/{f}")}


def check(routes):
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        code = root / "src" / "roles" / "gateway" / "routes.c"
        code.parent.mkdir(parents=True)
        code.write_text("".join(f'    {{"{m}", "{p}", NULL,\n' for m, p in sorted(routes)),
                        encoding="utf-8")
        (root / "docs").mkdir()
        (root / "docs" / "API.md").write_text(TABLE, encoding="utf-8")
        return list(docs.check_routes(root))


def main():
    cases = [  # what is routed, parts of the only fault expected (None: no fault)
        (ROUTES, None),
        (ROUTES | {("GET", "/new")}, ("lacks GET /new",)),
        (ROUTES | {("PUT", "/c")}, ("lacks PUT /c",)),
        (ROUTES - {("POST", "/a/{id}/stop")}, ("POST /a/{id}/stop is not in",)),
        (ROUTES - {("GET", "/e/{f}")}, ("GET /e/{f} is not in",)),
    ]
    wrong = 0
    for routes, expected in cases:
        faults = check(routes)
        if len(faults) != len(expected or ()) or any(e not in f for e, f in
                                                     zip(expected or (), faults)):
            wrong += 1
            print(f"expected {expected}, got {faults}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
