# Everything there is to do with this repository; `make help` says what.

SHELL := /bin/sh
.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: selftest build trial wasm wasm-fault control-plane dev run test lint fmt fmt-check unit unit-postgres fuzz fuzz-brief schema clients e2e faults faults-brief budget bench bench-million bench-edges bench-import plot-limits clean help cargo

# Both `DIALECT=exona make run` and `make run DIALECT=exona`.
export DIALECT SEED FAULT_SECONDS KEYWARD_GATEWAY_PORT KEYWARD_CONTROL_PORT KEYWARD_ENVOY_ADMIN_PORT

# Where Cargo puts things.
OUT := $(or $(CARGO_TARGET_DIR),target)
# What is run and tested: what `make build` makes, unless the environment names something else.
BIN := $(or $(KEYWARD_BIN),$(abspath $(OUT)/release/keyward))
WASM := $(or $(KEYWARD_WASM),$(abspath $(OUT)/wasm32-wasip1/release/keyward_filter.wasm))
PRODUCT := KEYWARD_BIN="$(BIN)" KEYWARD_WASM="$(WASM)"

build: wasm control-plane dev

wasm: cargo
	tools/wasm-build
	tools/wasm-build --response-headers

# The filter that can be told to fail, for the end-to-end tests; beside the real one, never instead of it.
wasm-fault: cargo
	tools/wasm-build --features fault-injection --target-dir $(OUT)/fault

control-plane: cargo
	cargo build --release -p keyward

dev: cargo
	cargo build -p keyward-harness --bin keyward-dev

# Runs the release build where there is one, and otherwise an unoptimized one, which is there minutes sooner.
run: cargo
	@if [ -e "$(BIN)" ] && [ ! -L "$(BIN)" ]; then $(MAKE) --no-print-directory build; else $(MAKE) --no-print-directory trial; fi
	@envoy=$$(tools/envoy) && KEYWARD_ENVOY="$$envoy" $(PRODUCT) exec $(OUT)/debug/keyward-dev run

# One module, and everything else unoptimized. The release's place has a link until `make build` puts the release there.
trial: cargo
	tools/wasm-build
	cargo build -p keyward -p keyward-harness --bin keyward --bin keyward-dev
	@mkdir -p $(OUT)/release && [ -e $(OUT)/release/keyward ] || ln -sf ../debug/keyward $(OUT)/release/keyward

# The stages of the tests. tools/test has them, and says at the end what was left out for want of a tool.
test: cargo
	@$(PRODUCT) tools/test all

selftest fmt-check lint unit unit-postgres fuzz-brief schema clients e2e faults-brief: cargo
	@$(PRODUCT) tools/test $@

fmt: cargo
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

# Needs a C++ compiler beside Rust; tools/fuzz says why where it cannot.
fuzz: cargo
	tools/fuzz $(or $(FUZZ_SECONDS),300)

# Faults under load, with an oracle of what was acknowledged: docs/explanation/fault-tolerance.md. FAULT_SECONDS, SEED.
faults: control-plane
	@$(PRODUCT) cargo run --quiet -p keyward-faults

# Writes what requests cost now into tests/host_calls/budget.json, which `make e2e` holds the filter to.
budget: wasm
	KEYWARD_UPDATE_BUDGET=1 $(PRODUCT) cargo test -p keyward-filter --test host_calls -- --nocapture budget::no_request

# What the filter costs beside what people would use instead: docs/reference/benchmarks.md and its plot. Wants an idle machine of at least two
# processors, for ten minutes; needs Python 3. BENCH has options of bench-filters, which say what they are with --help.
bench: build
	cargo build --release -p keyward-bench --bin bench-filters
	@envoy=$$(tools/envoy) && KEYWARD_ENVOY="$$envoy" $(PRODUCT) $(OUT)/release/bench-filters $(BENCH)
	tools/bench-report

# A million keys on real Envoys: load, memory, requests meanwhile, growth, churn. Wants an idle machine of at least two processors,
# for some twenty minutes, and 2 GiB in .keyward/bench, where the databases stay; needs Python 3. MILLION has options of
# bench-million, such as `--keys 100000` or `churn`.
bench-million: build
	cargo build --release -p keyward-bench --bin bench-million
	@envoy=$$(tools/envoy) && KEYWARD_ENVOY="$$envoy" $(PRODUCT) $(OUT)/release/bench-million $(MILLION)
	tools/bench-report

# What ten thousand edges cost one control plane, and how soon each has a change: docs/reference/benchmarks.md. Needs 20,000
# open files at most and Python 3. EDGES has options of bench-edges, which say what they are with --help.
bench-edges: control-plane
	cargo build --release -p keyward-bench --bin bench-edges
	@envoy=$$(tools/envoy) && KEYWARD_ENVOY="$$envoy" $(PRODUCT) $(OUT)/release/bench-edges $(EDGES)
	tools/bench-report

# How long a million keys take to be imported into SQLite.
bench-import: cargo
	cargo test --release -p keyward --test it a_million_rows -- --ignored --nocapture

# What limits let through, measured on real Envoys: docs/reference/limits-*.svg. Needs a Redis and Python 3.
plot-limits: build
	cargo build -p keyward-rate-limit-service
	@envoy=$$(tools/envoy) && export KEYWARD_ENVOY="$$envoy" $(PRODUCT) && set -e && mkdir -p .keyward/load && \
	for scenario in burst overload fleet; do \
		echo "keyward-dev load $$scenario"; \
		$(OUT)/debug/keyward-dev load $$scenario >.keyward/load/$$scenario.json; \
		tools/plot-limits .keyward/load/$$scenario.json docs/reference/limits-$$scenario.svg; \
	done

# What a release has, in target/dist: RELEASING.md. TAG=v1.2.3 checks that it is the tag of this version.
.PHONY: dist
dist: build
	KEYWARD_BIN="$(abspath $(OUT)/release/keyward)" tools/dist $(TAG)

clean: cargo
	cargo clean

cargo:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }

help:
	@echo 'make build   the filter (target/wasm32-wasip1/release/keyward_filter.wasm), the control plane'
	@echo '             (target/release/keyward) and keyward-dev'
	@echo 'make run     starts control plane, echo upstream and Envoy in the foreground; Ctrl-C ends them'
	@echo 'make test    everything, from nothing: selftest, fmt-check, lint, unit, unit-postgres, fuzz-brief, schema, clients, e2e, faults-brief;'
	@echo '             ends with how long each took, and what was left out for want of a tool, with what to install'
	@echo 'make selftest   what the tests do on a machine that lacks a tool'
	@echo 'make lint    clippy, for this machine and for wasm32-wasip1; cargo deny with deny.toml where it is installed'
	@echo 'make unit    the tests that need no Envoy; unit-postgres: those of the control plane, on PostgreSQL'
	@echo 'make fuzz    each fuzz target for FUZZ_SECONDS (300); fuzz-brief: for 5'
	@echo 'make schema  the API against its own description, with schemathesis'
	@echo 'make clients clients for Python, Go and TypeScript, generated from the description, against the API'
	@echo 'make e2e     the tests against a real Envoy, and of what a request costs'
	@echo 'make faults  kills, full disks, bad networks under load for FAULT_SECONDS (300), and whether anything acknowledged is'
	@echo '             lost; SEED=… draws the same faults again; faults-brief: each fault once. docs/explanation/fault-tolerance.md'
	@echo 'make budget  writes what a request costs now into tests/host_calls/budget.json: host calls, callbacks, instructions'
	@echo 'make bench   what the filter costs on real Envoys, beside no filter, Envoy'"'"'s own and ext_authz: docs/reference/benchmarks.md'
	@echo 'make bench-million a million keys on real Envoys: time, memory, and what requests notice'
	@echo 'make bench-edges   what ten thousand edges cost one control plane, and how soon each has a change: docs/reference/benchmarks.md'
	@echo 'make bench-import  imports a million keys, and says how long that took'
	@echo 'make plot-limits   runs loads against limits on real Envoys, and draws docs/reference/limits-*.svg'
	@echo 'make fmt     formats the code'
	@echo 'make dist    packs what a release has into target/dist: RELEASING.md'
	@echo 'make clean   removes what Cargo built; .keyward (keys, tokens, a downloaded Envoy) stays'
	@echo
	@echo 'Environment:'
	@echo '  DIALECT                   of make run (keyward)'
	@echo '  KEYWARD_GATEWAY_PORT      of make run (8080)'
	@echo '  KEYWARD_CONTROL_PORT      of make run (8081)'
	@echo '  KEYWARD_ENVOY_ADMIN_PORT  of make run (9901)'
	@echo '  KEYWARD_ENVOY             path of the Envoy to use; otherwise tools/envoy finds or installs one'
	@echo '  KEYWARD_WASM_TOOLCHAIN    rustup or debian: where the wasm32-wasip1 target comes from'
	@echo '  KEYWARD_BIN               path of the keyward binary that is run; otherwise the newest one built'
	@echo '  KEYWARD_WASM              path of the filter that is run; otherwise the one built'
	@echo '  KEYWARD_TEST_POSTGRES_URL a PostgreSQL server on which the tests may make databases, beside those of their own;'
	@echo '                            otherwise tools/postgres runs one for them'
	@echo '  KEYWARD_TEST_RUNNER       cargo or nextest: what runs the tests; otherwise cargo-nextest where it is installed'
	@echo '  KEYWARD_INSTALL           no: the build and the tests install nothing, neither with rustup nor apt nor from PyPI'
	@echo '  KEYWARD_REDIS             path of the redis-server that the tests run; otherwise tools/redis finds or installs one'
	@echo '  KEYWARD_EDGE_TOKEN        what envoy/envoy.yaml hands the filter; make run sets it'
