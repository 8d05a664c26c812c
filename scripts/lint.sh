#!/usr/bin/env bash
# lint.sh - every linter, one line each; a failing one shows what it found.
#
# Needs a configured build/ (compile_commands.json) and, for docs/CLI.md and docs/METRICS.md, build/wyvern.
# Ends with "lint: N passed, N failed"; exit status 1 if any failed.  LINT_COUNTS names a file
# that gets the two numbers, for check.sh.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

check() { # NAME COMMAND…
    local name=$1
    shift
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
        echo "ok    lint: $name"
    else
        failed=$((failed + 1))
        echo "FAIL  lint: $name"
        tail -n 40 "$log" | sed 's/^/      /'
    fi
}

mapfile -t c_files < <(find src tests bench -name '*.[ch]' -not -path '*/data/*' | sort)
mapfile -t shell_files < <(find scripts .ci bench tests deploy -type f \( -name '*.sh' -o -name '*.sbatch' -o -name run \) \
    -exec grep -lE '^#!.*\b(ba)?sh\b' {} + | sort)
mapfile -t python_files < <(find tests scripts bench -name '*.py' | sort)

formatting() { clang-format --dry-run -Werror "${c_files[@]}"; }

tidy() {
    local database=build/compile_commands.json
    [ -e "$database" ] || { echo "no $database: run make first"; return 1; }
    run-clang-tidy -quiet -p build -j "$(nproc)" "$PWD/src/.*\.c$" 2>/dev/null |
        sed 's/\x1b\[[0-9;]*m//g' | grep -E ': (error|warning): ' -A 2 && return 1
    return 0
}

# uninitvar: cppcheck does not know uthash's macros; the compilers look for the same.
static_analysis() {
    cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c11 --enable=warning,portability \
        --suppress=missingIncludeSystem --suppress=preprocessorErrorDirective \
        --suppress=uninitvar -D_GNU_SOURCE \
        '-Djson_array_foreach(a,i,v)=for(i=0;(v=json_array_get(a,i));i++)' \
        '-Djson_object_foreach(o,k,v)=for(k="";(v=json_object_get(o,k));)' \
        -j "$(nproc)" -I src src
}

layers() { python3 tests/lint/layers.py && python3 tests/lint/test_layers.py; }

python_syntax() { python3 -m py_compile "${python_files[@]}"; }

cli_manual() {
    build/wyvern help --markdown | diff -u docs/CLI.md - ||
        { echo "write it anew: build/wyvern help --markdown > docs/CLI.md"; return 1; }
}

metrics_manual() {
    build/wyvern help --metrics-markdown | diff -u docs/METRICS.md - ||
        { echo "write it anew: build/wyvern help --metrics-markdown > docs/METRICS.md"; return 1; }
}

dashboards() { python3 tests/lint/dashboards.py && python3 tests/lint/test_dashboards.py; }

subjects() { python3 tests/lint/docs.py && python3 tests/lint/test_docs.py; }

check "clang-format" formatting
check "layers, sizes, unfinished work" layers
check "cppcheck" static_analysis
check "clang-tidy" tidy
if command -v shellcheck >/dev/null; then
    check "shellcheck" shellcheck "${shell_files[@]}"
fi
check "python" python_syntax
check "docs/CLI.md is what wyvern says" cli_manual
check "docs/METRICS.md is what wyvern says" metrics_manual
check "dashboards and alerts" dashboards
check "docs name what is there" subjects

[ -z "${LINT_COUNTS:-}" ] || echo "$passed $failed" >"$LINT_COUNTS"
echo "lint: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
