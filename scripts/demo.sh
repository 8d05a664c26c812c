#!/usr/bin/env bash
# make demo: the whole story in one go.  Starts the service with four workers on two nodes, asks one
# prompt (Figure 1), plays 15 prompts x 7 at once with live bars (Figure 2), prints the report
# (Figure 3), stops, and checks that nothing is left.  Everything it writes is in build/demo.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
wyvern=${WYVERN_BINARY:-$root/build/wyvern}
state=${WYVERN_DEMO_DIR:-$root/build/demo}
output=$state/up.txt
wait_s=120
up=

say() { printf '%s\n' "$*"; }
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

# Our processes carry the state directory in their arguments; prints those that are there.
left_processes() {
    local entry pid
    for entry in /proc/[0-9]*/cmdline; do
        pid=${entry#/proc/} pid=${pid%/cmdline}
        [ "$pid" = "$$" ] && continue
        if tr '\0' ' ' <"$entry" 2>/dev/null | grep -qF -e "--state-dir $state " -e "$state/broker/" \
            -e "$state/prometheus/"; then
            printf '%s ' "$pid"
        fi
    done 2>/dev/null
}

our_namespaces() { find /run/netns -maxdepth 1 -name 'wyvern-*' 2>/dev/null | sort; }

stop() {
    trap - EXIT INT TERM
    [ -n "$up" ] || return 0
    kill -TERM "$up" 2>/dev/null || true
    wait "$up" || fail "wyvern up ended with status $?; its output is in $output"
    up=
    wait "$follow" 2>/dev/null || true # prints the last lines
}

[ -x "$wyvern" ] || fail "$wyvern is missing: run make"
mkdir -p "$state"
[ -z "$(left_processes)" ] || fail "a demo is running already (processes $(left_processes))"
rm -rf "$state/broker" "$state/prometheus" "$state/logs"
namespaces_before=$(our_namespaces)

say "== starting: 4 inference workers on 2 nodes, 2 response workers, telemetry on each node, a gateway"
: >"$output"
"$wyvern" up --nodes 2 --workers 4 --port 0 --state-dir "$state" "$@" 2>>"$output" </dev/null &
up=$!
trap stop EXIT
trap 'stop; exit 130' INT TERM
tail -n +1 -f --pid="$up" -s 0.1 "$output" &
follow=$!
for ((i = 0; i < wait_s * 20; i++)); do
    grep -q '^wyvern: ready ' "$output" && break
    kill -0 "$up" 2>/dev/null || { wait "$up" || true; up=; fail "the service did not start; see above"; }
    sleep 0.05
done
grep -q '^wyvern: ready ' "$output" || fail "the service was not ready within $wait_s s"
url=$(sed -n 's|^wyvern: API *\(http://[^/]*\)/v1.*|\1|p' "$output" | head -n 1)
[ -n "$url" ] || fail "no address of the API in $output"

say
say "== Figure 1: one prompt, and who answered it"
"$wyvern" ask --url "$url" --details --max-tokens 60 "What is a wyvern?"

say
say "== Figures 2 and 3: 15 prompts x 7 at once, 100 to 300 new tokens each"
"$wyvern" load --url "$url" --repeat 7 --min-tokens 100 --max-tokens 300

say
say "== where things are while it runs"
sed -n 's/^wyvern: \(API\|metrics\|watch\|logs\) /   \1 /p' "$output"

say
say "== stopping"
stop
for ((i = 0; i < 40; i++)); do
    processes=$(left_processes)
    namespaces=$(our_namespaces)
    [ -z "$processes" ] && [ "$namespaces" = "$namespaces_before" ] && break
    sleep 0.05
done
[ -z "$processes" ] || fail "processes are left: $processes"
[ "$namespaces" = "$namespaces_before" ] || fail "network namespaces are left: $namespaces"
[ -z "$(find "$state" -path "$state/prometheus" -prune -o \( -name '*.pid' -o -name lock \) -print)" ] || fail "pid files are left in $state"
say "nothing is left: no process, no namespace; logs stay in $state/logs"
