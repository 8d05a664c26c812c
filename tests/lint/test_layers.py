#!/usr/bin/env python3
"""Does layers.py see what it must?  Runs it on small made-up trees, one fault each."""

import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import layers  # noqa: E402

LONG = "int f(void)\n{\n" + "    ;\n" * 100 + "}\n"
CASES = [  # files, part of the fault expected (None: no fault)
    ({"http/server.c": '#include "base/err.h"\n', "base/err.h": ""}, None),
    ({"base/err.c": '#include "http/server.h"\n', "http/server.h": ""}, "not on a floor below"),
    ({"http/a.c": '#include "wire/json.h"\n', "wire/json.h": ""}, "not on a floor below"),
    ({"roles/a.c": "#include <nats.h>\n"}, "nats.h belongs in bus/"),
    ({"base/proc.c": "#include <uv.h>\n"}, "uv.h belongs in"),
    ({"base/loop.c": "#include <uv.h>\n"}, None),
    ({"convert/a.c": "#include <llama.h>\n"}, "llama.h belongs in"),
    ({"convert/a.c": "#include <ggml-cpu.h>\n"}, None),
    ({"verbs/a.c": '#include "roles/up.h"\n', "roles/up.h": ""}, "not on a floor below"),
    ({"roles/respond.c": '#include "roles/infer.h"\n', "roles/infer.h": ""}, "never uses a role"),
    ({"main.c": '#include "roles/up.h"\n', "roles/up.h": ""}, None),
    ({"base/a.h": '#include "base/b.h"\n', "base/b.h": '#include "base/a.h"\n'}, "include loop"),
    ({"base/a.c": LONG}, "more than 100"),
    ({"base/a.c": "\n" * 901}, "more than 900"),
    ({"base/a.c": "/* " + "TO" + "DO */\n"}, "unfinished"),
]


def main():
    wrong = 0
    for files, expected in CASES:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in files.items():
                path = root / "src" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            faults = list(layers.check_tree(root))
            right = not faults if expected is None else any(expected in f for f in faults)
            if not right:
                wrong += 1
                print(f"{sorted(files)}: expected {expected!r}, got {faults}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
