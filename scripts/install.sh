#!/usr/bin/env bash
# install.sh BUILD PREFIX - copies wyvern and what belongs to it below $DESTDIR/PREFIX:
#
#   bin/wyvern                    lib/wyvern/             the model runtime and the broker, where
#   share/man/man1/                                       scripts/deps.sh brought them
#   share/bash-completion/, share/zsh/site-functions/
#   share/wyvern/deploy/          rules, alerts and dashboards; lib/systemd/system/ units, if any
#   share/doc/wyvern/
#
# Nothing outside is touched; models are looked for in share/wyvern/models too.
set -euo pipefail
cd "$(dirname "$0")/.."

build=$1
prefix=$2
[[ $prefix == /* ]] || { echo "install: PREFIX is an absolute path, not $prefix" >&2; exit 64; }
root=${DESTDIR:-}$prefix

env -u DESTDIR cmake --install "$build" --prefix "$root" >/dev/null

install -d "$root/lib/wyvern"
# Libraries of .deps/ alone: those of the system are found by themselves.
ldd "$build/wyvern" | awk -v deps="$PWD/.deps/" 'index($3, deps) == 1 { print $1, $3 }' |
    while read -r name path; do
        install -m 644 "$path" "$root/lib/wyvern/$name"
    done
broker=$PWD/.deps/nats/bin/nats-server
[ ! -x "$broker" ] || install -m 755 "$broker" "$root/lib/wyvern/nats-server"

man=$root/share/man/man1
install -d "$man" "$root/share/bash-completion/completions" "$root/share/zsh/site-functions"
"$build/wyvern" help --man >"$man/wyvern.1"
"$build/wyvern" help --man | sed -n 's/^\\fBwyvern\\-\([a-z]*\)\\fR(1)$/\1/p' |
    while read -r verb; do
        "$build/wyvern" help --man "$verb" >"$man/wyvern-$verb.1"
    done
"$build/wyvern" help --completion bash >"$root/share/bash-completion/completions/wyvern"
"$build/wyvern" help --completion zsh >"$root/share/zsh/site-functions/_wyvern"

install -d "$root/share/wyvern" "$root/share/doc/wyvern"
rm -rf "$root/share/wyvern/deploy"
cp -R deploy "$root/share/wyvern/deploy"
install -m 644 README.md LICENSE docs/*.md "$root/share/doc/wyvern"
for unit in deploy/systemd/*.service; do
    [ ! -e "$unit" ] || install -D -m 644 -t "$root/lib/systemd/system" "$unit"
done
