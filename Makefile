# The commands of the project. Each is a script or one cargo call; `make` alone lists them.

SHELL := /bin/bash
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/weir
export CARGO_TARGET_DIR ?= $(CACHE)/target

GROUPS := web fmt clippy unit loom sim docs-check fuzz-smoke interop browser

.PHONY: help run test build clean bench bench-quick bench-model bench-fanout bench-ingest bench-links bench-instructions test-zero-copy compare-congestion soak fuzz $(GROUPS)

help:
	@echo 'make run              set up, build and start Weir with its demo broadcast (http://localhost:8080)'
	@echo 'make test             every check; one group alone: make $(GROUPS)'
	@echo 'make test-zero-copy   the port tests over emulated network cards without a copy (minutes; not part of make test)'
	@echo 'make build            release binary at $$CARGO_TARGET_DIR/release/weir'
	@echo 'make bench            Weir beside moq-relay and the limit program (about 90 min; ARGS=--quick: 10 min); needs root'
	@echo 'make bench-model      viewers per machine and machines per million from bench/results (ARGS="--cores 32 --nic 100 --bitrate 5M")'
	@echo 'make bench-fanout     cost of fan-out on this machine (SUBS="1 50 200" SECONDS_EACH=10)'
	@echo 'make bench-ingest     cost of an ingested stream over RTMP, SRT and WHIP (STREAMS=20 BITRATES=2.5M,6M)'
	@echo 'make bench-links      cost of an object from one processor to another (ROUNDS=9)'
	@echo 'make compare-congestion  laws of congestion control and first windows on the same stories, in simulation (SIM_SEED=n)'
	@echo 'make bench-instructions  what an object and a packet cost in instructions, by callgrind (SUBS=10 OBJECTS=120; minutes)'
	@echo 'make soak             groups, joins, leaves and drops for MINUTES=10; prints how memory went'
	@echo 'make fuzz TARGET=…    fuzz one target until stopped (bench/fuzz/run list names them)'

run:
	@scripts/run $(ARGS)

test:
	@scripts/test

$(GROUPS):
	@scripts/test $@

test-zero-copy:
	@scripts/zero-copy/run $(ARGS)

build:
	@scripts/setup run
	@bash -c '. scripts/lib.sh && build_web'
	cargo build --release --locked -p weir

bench:
	@scripts/bench $(ARGS)

bench-quick:
	@scripts/bench --quick $(ARGS)

bench-model:
	@scripts/bench-model $(ARGS)

SUBS ?= 1 50 200
SECONDS_EACH ?= 10
bench-fanout:
	@scripts/bench-fanout $(SECONDS_EACH) $(SUBS)

STREAMS ?= 20
BITRATES ?= 2.5M,6M
bench-ingest:
	@scripts/bench-ingest $(SECONDS_EACH) $(STREAMS) $(BITRATES)

ROUNDS ?= 9
bench-links:
	cargo bench --locked -p weir-xdp --bench links -- $(ROUNDS)

compare-congestion:
	cargo test --locked -p weir --test sim_congestion -- --ignored --nocapture --test-threads=1

bench-instructions:
	@scripts/bench-instructions

MINUTES ?= 10
soak:
	@scripts/soak $(MINUTES)

fuzz:
	@bench/fuzz/run one "$(TARGET)" $(ARGS)

clean:
	cargo clean
