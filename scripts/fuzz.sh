#!/usr/bin/env bash
# fuzz.sh [short|long] - feeds broken model files to everything that reads them (tests/fuzz/), under
# ASan, UBSan and LSan: no crash, no leak, no memory that the input does not warrant.
#
#   short  what was once found (tests/fuzz/regressions/), then the same few thousand inputs each
#          time; needs build-asan/, as `make check` builds it
#   long   builds; FUZZ_SECONDS (600) for each target; the corpus stays in build/fuzz/corpus/
#
# FUZZ_TARGETS names the targets, all without it.  What fails is kept in build/fuzz/found/; its place
# once it is mended is tests/fuzz/regressions/TARGET/.  FUZZ_COUNTS names a file that gets how many
# passed and failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

mode=${1:-short}
# inputs of a short run: some seconds each
declare -A runs=([pickle]=100000 [safetensors]=30000 [zip]=12000 [legacy]=30000 [config]=8000
    [convert]=3000 [gguf]=7000 [tokenizer]=60000 [grammar]=20000)
read -ra targets <<<"${FUZZ_TARGETS:-pickle safetensors zip legacy config convert gguf tokenizer grammar}"
programs=build-asan/tests/fuzz
home=build/fuzz
longest=32768 # bytes of an input

export ASAN_OPTIONS=abort_on_error=0:detect_leaks=1
export LSAN_OPTIONS=suppressions=$PWD/tests/lint/lsan.supp:print_suppressions=0
export UBSAN_OPTIONS=print_stacktrace=1
# in memory where there is such a folder: a conversion waits for the disk
TMPDIR=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

say_failure() { # LOG
    grep -E -m 1 '^fuzz: |ERROR: |runtime error' "$1" | sed 's/^/      /'
    grep -E '^ +#[0-9]+ .*/(src|tests)/|Test unit written' "$1" | head -n 8 | sed 's/^/      /'
}

replay() { # TARGET
    local log=$home/$1-replay.log
    local files=(tests/fuzz/regressions/"$1"/*)
    [ -e "${files[0]}" ] || return 0
    "$programs/fuzz_$1" "${files[@]}" >"$log" 2>&1 && return 0
    echo "FAIL  fuzz: $1: what was found before"
    say_failure "$log"
    return 1
}

explore() { # TARGET
    local log=$home/$1.log folders=("$home/seeds/$1") limit=(-seed=1 "-runs=${runs[$1]}")
    mkdir -p "$home/found/$1" "$home/corpus/$1"
    if [ "$mode" = long ]; then
        folders=("$home/corpus/$1" "${folders[@]}" "tests/fuzz/regressions/$1")
        limit=("-max_total_time=${FUZZ_SECONDS:-600}")
        [ -d "tests/fuzz/regressions/$1" ] || unset 'folders[2]'
    fi
    if "$programs/fuzz_$1" "${limit[@]}" -timeout=30 -max_len=$longest -print_final_stats=1 \
        -artifact_prefix="$home/found/$1/" "${folders[@]}" >"$log" 2>&1; then
        printf 'ok    fuzz: %-12s %s inputs, %s branches\n' "$1" \
            "$(awk '/number_of_executed_units/ { print $2 }' "$log")" \
            "$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' "$log" | tail -n 1)"
        return 0
    fi
    echo "FAIL  fuzz: $1"
    say_failure "$log"
    return 1
}

both() { # TARGET → a line "passed failed" in its file
    local ok=0 bad=0
    if replay "$1"; then ok=1; else bad=1; fi
    if explore "$1"; then ok=$((ok + 1)); else bad=$((bad + 1)); fi
    echo "$ok $bad" >"$home/$1.counts"
}

if [ "$mode" = long ]; then
    { cmake --preset asan && cmake --build build-asan --parallel "$(nproc)" --target fuzzers wyvern; } \
        >/dev/null || exit 1
fi
rm -rf $home/seeds $home/*.counts
mkdir -p $home
python3 tests/fuzz/seeds.py $home/seeds build-asan/wyvern || exit 1

for target in "${targets[@]}"; do
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    both "$target" &
done
wait

read -r passed failed < <(cat $home/*.counts | awk '{ p += $1; f += $2 } END { print p + 0, f + 0 }')
missing=$((2 * ${#targets[@]} - passed - failed))
failed=$((failed + missing))
[ -z "${FUZZ_COUNTS:-}" ] || echo "$passed $failed" >"$FUZZ_COUNTS"
echo "fuzz: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
