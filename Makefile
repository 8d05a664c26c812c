# The verbs of this repository; `make help` lists them.  CMake does the building (CMakeLists.txt).
MAKEFLAGS += --no-print-directory
BUILD := build
PREFIX := /usr/local
JOBS  := $(shell nproc)

.PHONY: all deps model demo up install check lint fuzz soak bench clean help

all: deps ## what is missing is installed, then wyvern is built: build/wyvern
	@[ -e $(BUILD)/CMakeCache.txt ] || cmake --preset default >/dev/null
	@cmake --build $(BUILD) --parallel $(JOBS) --target wyvern

deps:
	@scripts/deps.sh build

model: all
	@scripts/deps.sh model

demo: model ## the whole story: four workers on two nodes, 105 prompts, a report; PROMETHEUS=1 adds it
	@[ -z "$(PROMETHEUS)" ] || scripts/deps.sh prometheus
	@scripts/demo.sh $(if $(PROMETHEUS),--prometheus --prometheus-port 0)

up: model ## the service on this machine, until Ctrl-C
	@$(BUILD)/wyvern up

install: all ## to PREFIX (/usr/local), below DESTDIR: program, libraries, man pages, completions
	@DESTDIR="$(DESTDIR)" scripts/install.sh "$(BUILD)" "$(PREFIX)"

check: ## every test and lint; ends with "N passed, N failed"
	@scripts/check.sh

lint: all ## the linters alone
	@scripts/lint.sh

fuzz: ## broken model files for long: FUZZ_SECONDS for each target (600)
	@scripts/deps.sh check
	@scripts/fuzz.sh long

soak: all ## load while everything dies again and again: SOAK_SECONDS (1800)
	@scripts/deps.sh check
	@SOAK_SECONDS=$(or $(SOAK_SECONDS),1800) .venv/bin/pytest -q -s tests/fault/test_soak.py

bench: model ## the measures of docs/BENCHMARKS.md
	@bench/run

clean: ## what building made; .deps/ and the model stay
	@find $(BUILD) -mindepth 1 -maxdepth 1 ! -name models -exec rm -rf {} + 2>/dev/null || true
	@rm -rf build-asan build-tsan

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
