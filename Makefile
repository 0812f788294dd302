# Build, test, run and release targets of this repository; `make help` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := build
.NOTPARALLEL:
.PHONY: selftest build trial wasm wasm-fault native native-fault control-plane dev run test lint fmt fmt-check unit unit-postgres fuzz fuzz-brief schema clients e2e e2e-native deploy-check manifests images faults faults-brief test-mesh budget bench bench-million bench-edges bench-import plot-limits clean help cargo

# Supports both `DIALECT=exona make run` and `make run DIALECT=exona`.
export DIALECT KEYWARD_HOST SEED FAULT_SECONDS KEYWARD_GATEWAY_PORT KEYWARD_CONTROL_PORT KEYWARD_ENVOY_ADMIN_PORT

# Cargo's target directory.
OUT := $(or $(CARGO_TARGET_DIR),target)
# The artifacts that are run and tested: the output of `make build`, unless the environment names others.
BIN := $(or $(KEYWARD_BIN),$(abspath $(OUT)/release/keyward))
WASM := $(or $(KEYWARD_WASM),$(abspath $(OUT)/wasm32-wasip1/release/keyward_filter.wasm))
PRODUCT := KEYWARD_BIN="$(BIN)" KEYWARD_WASM="$(WASM)"

build: wasm native control-plane dev

wasm: cargo
	tools/wasm-build
	tools/wasm-build --response-headers

# The filter with fault injection, for the end-to-end tests; built in addition to the real one, never instead of it.
wasm-fault: cargo
	tools/wasm-build --features fault-injection --target-dir $(OUT)/fault

# The filter as a dynamic module of Envoy. Left out on a system for which Envoy's are not built here.
native: cargo
	tools/native-build || [ $$? -eq 77 ]

native-fault: cargo
	tools/native-build --features fault-injection --target-dir $(OUT)/fault || [ $$? -eq 77 ]

control-plane: cargo
	cargo build --release -p keyward

dev: cargo
	cargo build -p keyward-harness --bin keyward-dev

# Runs the release build if there is one, and otherwise an unoptimized build, which takes minutes less.
run: cargo
	@if [ -e "$(BIN)" ] && [ ! -L "$(BIN)" ]; then $(MAKE) --no-print-directory build; else $(MAKE) --no-print-directory trial; fi
	@envoy=$$(tools/envoy) && KEYWARD_ENVOY="$$envoy" $(PRODUCT) exec $(OUT)/debug/keyward-dev run

# Builds one module, and everything else unoptimized. A link stands in for the release until `make build` creates it.
trial: cargo
	@if [ "$(KEYWARD_HOST)" = native ]; then tools/native-build; else tools/wasm-build; fi
	cargo build -p keyward -p keyward-harness --bin keyward --bin keyward-dev
	@mkdir -p $(OUT)/release && [ -e $(OUT)/release/keyward ] || ln -sf ../debug/keyward $(OUT)/release/keyward

# The test stages, implemented by tools/test, which reports at the end what was left out for lack of a tool.
test: cargo
	@$(PRODUCT) tools/test all

selftest fmt-check lint unit unit-postgres fuzz-brief schema clients e2e e2e-native deploy-check faults-brief: cargo
	@$(PRODUCT) tools/test $@

# Runs envoy/envoy.yaml in func-e and the resources of envoy/mesh in Envoy Gateway and Istio, which are built as Go modules
# once, in .keyward/tools: needs Go. KEYWARD_UPDATE_MESH=1 writes docs/reference/mesh-compatibility.md instead of comparing with it.
test-mesh: cargo
	@$(PRODUCT) tools/test mesh

fmt: cargo
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

# Needs a C++ compiler besides Rust; tools/fuzz reports what is missing.
fuzz: cargo
	tools/fuzz $(or $(FUZZ_SECONDS),300)

# Injects faults under load, and checks acknowledged changes with an oracle: docs/explanation/fault-tolerance.md. Uses
# FAULT_SECONDS and SEED.
faults: control-plane
	@$(PRODUCT) cargo run --quiet -p keyward-faults

# Writes the current cost of requests to tests/host_calls/budget.json, which `make e2e` compares with the filter's.
budget: wasm
	KEYWARD_UPDATE_BUDGET=1 $(PRODUCT) cargo test -p keyward-filter --test host_calls -- --nocapture budget::no_request

# Compares the filter's cost with that of alternatives: docs/reference/benchmarks.md and its plot. Takes ten minutes on an
# idle machine with at least two processors; needs Python 3. BENCH is passed to bench-filters; --help lists its options.
bench: build
	cargo build --release -p keyward-bench --bin bench-filters
	@envoy=$$(tools/envoy) && KEYWARD_ENVOY="$$envoy" $(PRODUCT) $(OUT)/release/bench-filters $(BENCH)
	tools/bench-report

# Measures a million keys on real Envoys: loading, memory, request latency, growth, churn. Takes about twenty minutes on an
# idle machine with at least two processors, and 2 GiB in .keyward/bench, where the databases are kept; needs Python 3.
# MILLION is passed to bench-million, such as `--keys 100000` or `churn`.
bench-million: build
	cargo build --release -p keyward-bench --bin bench-million
	@envoy=$$(tools/envoy) && KEYWARD_ENVOY="$$envoy" $(PRODUCT) $(OUT)/release/bench-million $(MILLION)
	tools/bench-report

# Measures the cost of ten thousand edges for one control plane, and the delay of changes: docs/reference/benchmarks.md.
# Needs up to 20,000 open files and Python 3. EDGES is passed to bench-edges; --help lists its options.
bench-edges: control-plane
	cargo build --release -p keyward-bench --bin bench-edges
	@envoy=$$(tools/envoy) && KEYWARD_ENVOY="$$envoy" $(PRODUCT) $(OUT)/release/bench-edges $(EDGES)
	tools/bench-report

# Measures the import of a million keys into SQLite.
bench-import: cargo
	cargo test --release -p keyward --test it a_million_rows -- --ignored --nocapture

# Plots the requests that limits admit, measured on real Envoys: docs/reference/limits-*.svg. Needs Redis and Python 3.
plot-limits: build
	cargo build -p keyward-rate-limit-service
	@envoy=$$(tools/envoy) && export KEYWARD_ENVOY="$$envoy" $(PRODUCT) && set -e && mkdir -p .keyward/load && \
	for scenario in burst overload fleet; do \
		echo "keyward-dev load $$scenario"; \
		$(OUT)/debug/keyward-dev load $$scenario >.keyward/load/$$scenario.json; \
		tools/plot-limits .keyward/load/$$scenario.json docs/reference/limits-$$scenario.svg; \
	done

# Packs the artifacts of a release into target/dist: RELEASING.md. TAG=v1.2.3 checks the tag against the version.
.PHONY: dist reproducible
dist: $(if $(filter Linux,$(shell uname -s)),wasm native,build)
	tools/dist $(TAG)

# Compares two builds from two copies of the sources: takes two full builds of the program.
reproducible: cargo
	tools/static-build check

# Writes what is generated from the Helm chart: deploy/kubernetes and the table of its values.
manifests:
	tools/manifests write

# Builds the container images into target/images, or pushes them: REGISTRY=registry.example/team.
images: build
	@$(PRODUCT) tools/images $(if $(REGISTRY),push $(REGISTRY),build)

clean: cargo
	cargo clean

cargo:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }

help:
	@echo 'make build         Build the filter (target/wasm32-wasip1/release/keyward_filter.wasm, and the dynamic module in'
	@echo '                   target/native), the control plane (target/release/keyward) and keyward-dev'
	@echo 'make run           Run control plane, echo upstream and Envoy in the foreground; Ctrl-C stops all'
	@echo 'make test          Run all test stages: selftest, fmt-check, lint, unit, unit-postgres, fuzz-brief, schema, clients,'
	@echo '                   e2e, e2e-native, deploy-check, faults-brief; then report their times, skipped checks, and what to install'
	@echo '                   for those'
	@echo 'make selftest      Test the build and the tests on a machine that lacks tools'
	@echo 'make lint          Run clippy for this machine and for wasm32-wasip1, and cargo deny with deny.toml if installed'
	@echo 'make unit          Run the tests that need no Envoy; unit-postgres: the control plane on PostgreSQL'
	@echo 'make fuzz          Run each fuzz target for FUZZ_SECONDS (300); fuzz-brief: for 5'
	@echo 'make schema        Check the API against its own description, with schemathesis'
	@echo 'make clients       Generate clients for Python, Go and TypeScript from the description, and run them against the API'
	@echo 'make e2e           Run the tests with a real Envoy, and check the cost of requests'
	@echo 'make e2e-native    Run the same tests with the filter as a dynamic module'
	@echo 'make deploy-check  Check the Helm chart, the manifests, the container images and the archives of a release'
	@echo 'make faults        Inject kills, full disks and network faults under load for FAULT_SECONDS (300), and check that no'
	@echo '                   acknowledged change is lost; SEED=… repeats the same faults; faults-brief: each fault once'
	@echo 'make test-mesh     Run Keyward in func-e, Envoy Gateway and Istio, which are built as Go modules (needs Go):'
	@echo '                   docs/reference/mesh-compatibility.md'
	@echo 'make budget        Write the current cost of requests to tests/host_calls/budget.json: host calls, callbacks,'
	@echo '                   instructions'
	@echo 'make bench         Compare the filter on real Envoys with no filter, Envoy'"'"'s own filters and ext_authz:'
	@echo '                   docs/reference/benchmarks.md'
	@echo 'make bench-million Measure a million keys on real Envoys: time, memory and request latency'
	@echo 'make bench-edges   Measure the cost of ten thousand edges for one control plane, and the delay of changes'
	@echo 'make bench-import  Measure the import of a million keys'
	@echo 'make plot-limits   Run loads against limits on real Envoys, and plot docs/reference/limits-*.svg'
	@echo 'make fmt           Format the code; fmt-check: only check it'
	@echo 'make dist          Pack the artifacts of a release into target/dist: RELEASING.md'
	@echo 'make reproducible  Build the program and the modules of a release twice, and compare the bytes'
	@echo 'make images        Build the container images into target/images, or push them to REGISTRY'
	@echo 'make manifests     Write deploy/kubernetes and the table of values from the Helm chart'
	@echo 'make clean         Remove the output of Cargo; .keyward (keys, tokens, a downloaded Envoy) is kept'
	@echo
	@echo 'Environment:'
	@echo '  DIALECT                   The dialect of make run (keyward)'
	@echo '  KEYWARD_HOST              wasm or native: the host of the filter in make run and in the tests (wasm)'
	@echo '  KEYWARD_GATEWAY_PORT      The port of the gateway in make run (8080)'
	@echo '  KEYWARD_CONTROL_PORT      The port of the control plane in make run (8081)'
	@echo '  KEYWARD_ENVOY_ADMIN_PORT  The port of Envoy'"'"'s admin interface in make run (9901)'
	@echo '  KEYWARD_ENVOY             The path of Envoy; by default, tools/envoy finds or installs one'
	@echo '  KEYWARD_WASM_TOOLCHAIN    rustup or debian: the source of the wasm32-wasip1 target'
	@echo '  KEYWARD_BIN               The path of the keyward binary to run; by default, the newest one built'
	@echo '  KEYWARD_WASM              The path of the filter to run; by default, the one built'
	@echo '  KEYWARD_NATIVE            The path of the dynamic module to run; by default, the one built'
	@echo '  KEYWARD_TEST_POSTGRES_URL A PostgreSQL server on which the tests may create databases; by default, tools/postgres'
	@echo '                            runs one'
	@echo '  KEYWARD_TEST_RUNNER       cargo or nextest: the test runner; by default, cargo-nextest if installed'
	@echo '  KEYWARD_INSTALL           no: the build and the tests install nothing with rustup, apt, pip or go'
	@echo '  KEYWARD_REDIS             The path of redis-server for the tests; by default, tools/redis finds or installs one'
	@echo '  KEYWARD_EDGE_TOKEN        The edge token for the filter in envoy/envoy.yaml; make run sets it'
