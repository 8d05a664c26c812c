#!/usr/bin/env bash
# The Python of the measures against Hugging Face: torch and transformers of bench/requirements.txt,
# in a folder of its own (some GB).  Prints the interpreter's path.
#
#   bench/make_env.sh [FOLDER]      (default: .cache/bench-python)
#
# WYVERN_BENCH_PYTHON names an interpreter that has them already.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.cache/bench-python}
python=${WYVERN_BENCH_PYTHON:-}

say() { printf 'bench: %s\n' "$*" >&2; }

if [ -n "$python" ]; then
    "$python" -c 'import torch, transformers' 2>/dev/null || {
        say "WYVERN_BENCH_PYTHON ($python) has no torch and transformers"
        exit 1
    }
    echo "$python"
    exit
fi
stamp=$folder/made-of-$(cksum <bench/requirements.txt | cut -d' ' -f1)
if [ ! -e "$stamp" ]; then
    say "installing torch and transformers into $folder: once, some GB"
    rm -rf "$folder"
    mkdir -p "$(dirname "$folder")"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if ! { python3 -m venv "$folder" && "$folder/bin/python" -m pip install -q \
        --disable-pip-version-check --no-cache-dir --retries 2 -r bench/requirements.txt; } \
        >"$log" 2>&1; then
        tail -n 5 "$log" >&2
        rm -rf "$folder"
        say "it can't be installed: is the package index reachable, and is there room?"
        exit 1
    fi
    : >"$stamp"
fi
echo "$folder/bin/python"
