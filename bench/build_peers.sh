#!/bin/sh
# Builds what the engine is measured against: llama-batched-bench, from the sources of the very
# release whose libllama is in the dependencies folder, linked with that libllama.
#
#   bench/build_peers.sh [FOLDER]      (default: build/peers)
#
# Only the program's two files are compiled; the libraries are the ones that wyvern uses (built with
# GGML_OPENMP=OFF), so a difference in speed is a difference of the callers alone.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root/build/peers}
deps=${WYVERN_DEPS:-$root/.deps}
name=llama_cpp_python
version=0.3.36
python=$root/.venv/bin/python
[ -x "$python" ] || python=python3

mkdir -p "$out"
cd "$out"
if [ ! -d source ]; then
    [ -f "$name-$version.tar.gz" ] ||
        "$python" -m pip download -q --no-deps --no-binary llama-cpp-python \
            "llama-cpp-python==$version" >&2
    mkdir source.new
    tar xzf "$name-$version.tar.gz" -C source.new --strip-components=1
    mv source.new source
fi

llama=$out/source/vendor/llama.cpp
echo "llama-batched-bench" >&2
nice -n 10 c++ -std=c++17 -O2 -DNDEBUG -DLLAMA_SHARED -DGGML_SHARED -DGGML_BACKEND_SHARED \
    -I"$llama/common" -I"$llama/include" -I"$llama/ggml/include" -I"$llama/vendor" \
    "$llama/tools/batched-bench/main.cpp" "$llama/tools/batched-bench/batched-bench.cpp" \
    -L"$deps/llama/lib" -lllama-common -lllama -lggml -lggml-cpu -lggml-base \
    -Wl,--disable-new-dtags,-rpath,"$deps/llama/lib" -o llama-batched-bench
echo "$out/llama-batched-bench"
