#!/usr/bin/env bash
# check.sh - everything that tells whether wyvern is right: builds under gcc and clang, unit tests
# plain and under the sanitizers, integration, fault and browser tests on a real broker and a real model,
# lint.  Installs what it needs.  The last line is "N passed, N failed"; exit status 1 on any
# failure.
#
# CHECK_PYTEST: arguments for pytest instead of "tests/integration tests/fault tests/browser".
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

begun=$SECONDS
reports=build/reports
aside= # process id of what runs beside the tests

count() { printf '%d\t%d\t%s\n' "$@" >>$reports/counts; } # PASSED FAILED TITLE
stage() { printf '== %s (%d s)\n' "$1" "$((SECONDS - begun))"; }

finish() {
    local ok bad title passed=0 failed=0
    echo
    echo "== summary ($((SECONDS - begun)) s)"
    while IFS=$'\t' read -r ok bad title; do
        printf '%-52s %4d passed, %d failed\n' "$title" "$ok" "$bad"
        passed=$((passed + ok))
        failed=$((failed + bad))
    done <$reports/counts
    echo "$passed passed, $failed failed" | tee $reports/result
    [ "$failed" -eq 0 ] && exit 0
    exit 1
}

# One build is one check: warnings are errors.
build() { # TITLE DIRECTORY PRESET TARGET…
    local title=$1 dir=$2 preset=$3 log
    shift 3
    log=$reports/build-$preset.log
    if cmake --preset "$preset" >"$log" 2>&1 &&
        cmake --build "$dir" --parallel "$(nproc)" --target "$@" >>"$log" 2>&1; then
        count 1 0 "$title"
    else
        grep -E 'error|Error|undefined' -A 4 "$log" | head -n 60
        count 0 1 "$title"
        return 1
    fi
}

# cmocka ends with "[  PASSED  ] N test(s)." and, if need be, "[  FAILED  ] N test(s), …".
sum() { # FILE WORD
    awk -v word="$2" '$2 == "[" && $3 == word && $5 ~ /^[0-9]+$/ { n += $5 } END { print n + 0 }' "$1"
}

# Counts the tests inside the cmocka programs; a program that died counts as one failure more.
unit() { # TITLE DIRECTORY CTEST-ARGUMENT…
    local title=$1 dir=$2 log ok bad programs
    shift 2
    log=$reports/$(basename "$dir")-unit.log
    (cd "$dir" && ctest --verbose --timeout 300 "$@") >"$log" 2>&1 </dev/null
    ok=$(sum "$log" PASSED)
    bad=$(sum "$log" FAILED)
    programs=$(sed -n 's/^[0-9]*% tests passed, \([0-9]*\) tests failed.*/\1/p' "$log")
    if [ -z "$programs" ]; then
        bad=$((bad + 1)) # ctest itself failed
    elif [ "$programs" -gt 0 ]; then
        [ "$bad" -gt 0 ] || bad=$programs
        grep -E '\*\*\*(Failed|Exception|Timeout|Not Run)' "$log"
        grep -E 'ERROR|FAILED|runtime error|Sanitizer|\.c:[0-9]+' "$log" | head -n 60
    fi
    count "$ok" "$bad" "$title"
}

junit_counts() { # FILE → "passed failed skipped"
    python3 - "$1" <<'PY'
import sys
import xml.etree.ElementTree as tree
passed = failed = skipped = 0
try:
    for suite in tree.parse(sys.argv[1]).getroot().iter("testsuite"):
        bad = int(suite.get("failures")) + int(suite.get("errors"))
        failed += bad
        skipped += int(suite.get("skipped"))
        passed += int(suite.get("tests")) - bad - int(suite.get("skipped"))
except (OSError, tree.ParseError):
    failed = 1
print(passed, failed, skipped)
PY
}

python_tests() { # TITLE NAME PYTEST-ARGUMENT…
    local title=$1 xml=$reports/$2.xml ok bad skipped
    shift 2
    rm -f "$xml"
    PATH=$PWD/.deps/bin:$PATH .venv/bin/pytest -q -ra --color=no --junitxml="$xml" "$@" </dev/null
    read -r ok bad skipped < <(junit_counts "$xml")
    [ "$skipped" -eq 0 ] || title="$title ($skipped skipped)"
    count "$ok" "$bad" "$title"
}

# What only computes goes on beside the tests, which mostly wait; whatever they need goes first.
beside_the_tests() {
    renice -n 19 "$BASHPID" >/dev/null
    stage "lint"
    LINT_COUNTS=$reports/lint.counts scripts/lint.sh
    read -r ok bad <"$reports/lint.counts" || bad=1 ok=0
    count "$ok" "$bad" "lint"
    stage "clang builds with ASan and UBSan, with TSan"
    build "clang, -Werror" build-asan asan all && touch $reports/asan.built
    ((${#threaded[@]} == 0)) || {
        build "clang with TSan" build-tsan tsan "${threaded[@]}" && touch $reports/tsan.built
    }
}

# Unit tests of what has threads.
mapfile -t threaded < <(cd tests/unit && printf '%s\n' base/test_*.c http/test_*.c bus/test_*.c |
    grep -v '\*' | sed 's|/|_|; s|\.c$||')

mkdir -p "$reports"
rm -f $reports/result $reports/counts $reports/*.counts $reports/*.built
: >$reports/counts
trap '[ -z "$aside" ] || kill -- "-$aside" 2>/dev/null' EXIT
stage "what the checks need"
if ! scripts/deps.sh check; then
    count 0 1 "scripts/deps.sh check"
    finish
fi

stage "gcc build"
if build "gcc, -Werror" build default all; then
    unit "unit tests" build
    set -m # a process group of its own, to be stopped as one
    beside_the_tests >"$reports/aside.log" 2>&1 </dev/null &
    aside=$!
    set +m
    stage "the default model"
    scripts/deps.sh model || count 0 1 "the default model"
    stage "integration, fault and browser tests"
    read -ra pytest_arguments <<<"${CHECK_PYTEST:-tests/integration tests/fault tests/browser}"
    python_tests "integration, fault and browser tests" pytest "${pytest_arguments[@]}"
    wait "$aside"
    aside=
    cat "$reports/aside.log"
fi

export ASAN_OPTIONS=abort_on_error=0:detect_leaks=1
export LSAN_OPTIONS=suppressions=$PWD/tests/lint/lsan.supp:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=suppressions=$PWD/tests/lint/tsan.supp
if [ -e $reports/asan.built ]; then
    stage "unit tests under ASan and UBSan"
    unit "unit tests under ASan and UBSan" build-asan
    stage "fuzzing, a little"
    FUZZ_COUNTS=$reports/fuzz.counts scripts/fuzz.sh short
    read -r ok bad <"$reports/fuzz.counts" || bad=1 ok=0
    count "$ok" "$bad" "fuzzing under ASan, UBSan and LSan"
fi
if [ -e $reports/tsan.built ]; then
    stage "unit tests under TSan"
    unit "threaded unit tests under TSan" build-tsan -R '^(base|http|bus)\.'
fi

finish
