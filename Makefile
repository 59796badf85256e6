# podgate: one command for people and CI. `make demo` and `make test` do all set-up themselves.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TOOLS := $(CURDIR)/target/tools
# Told in podgate_build_info.
export PODGATE_REVISION := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
export PATH := $(TOOLS)/usr/bin:$(PATH)

.PHONY: help
help: ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

.PHONY: demo
demo: setup-demo ## the main job on real packets, no cluster (root)
	$(CARGO) build --release --locked --package podgate
	target/release/podgate demo $(DEMO_ARGS)

.PHONY: test
test: setup-test privileges fmt clippy doc unit node-older fuzz-short demo deploy-test cluster-test conformance-part ## everything, as CI runs it (root)
	@echo "make test: all passed"

.PHONY: fmt
fmt:
	$(CARGO) fmt --all --check

.PHONY: clippy
clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

.PHONY: doc
doc: ## the code's documentation, of private items too, without a broken link
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

.PHONY: unit
unit: ## unit and property tests, and the tests of crates that need namespaces of their own
	$(CARGO) test --workspace --locked

.PHONY: node
node: ## of `unit`, the agent on real packets alone
	$(CARGO) test --package podgate --locked --test node

# Before Linux 6.12 new UDP flows are judged at prerouting; the rest of such a kernel is shown by `test-kernels`.
OLDER := walkthrough own_node established addresses boot hold reject kernel handover
.PHONY: node-older
node-older: ## some of `node`, with an agent that is told of an older kernel
	PODGATE_OLDER_KERNEL=1 $(CARGO) test --package podgate --locked --test node -- $(addsuffix ::,$(OLDER))

# The cluster (tests/cluster). Settings: CLUSTER=name NODES=2 PROXY_MODE=nftables|iptables CNI=ptp|bridge DUAL_STACK=1|0.
.PHONY: setup-cluster
setup-cluster: setup-demo
	@tests/setup openssl nftables iptables conntrack socat ethtool runc containernetworking-plugins containerd prometheus
	@tests/cluster/build

.PHONY: cluster-up
cluster-up: setup-cluster ## two real nodes in namespaces, with nothing on them yet (root)
	tests/cluster/up

.PHONY: cluster-down
cluster-down: ## ends that cluster
	tests/cluster/down

.PHONY: cluster-test
cluster-test: setup-cluster image ## podgate in clusters of their own: pods routed, then on a bridge (root)
	tests/cluster/with tests/cluster/scenario -test.skip OnBridge
	CNI=bridge PROXY_MODE=iptables tests/cluster/with tests/cluster/scenario -test.run 'OnBridge|Policy|Service|NodePort|Probes'

.PHONY: conformance
conformance: setup-cluster image ## upstream's NetworkPolicy suite in a cluster of its own; PARALLEL=4 FOCUS=regexp (root)
	tests/cluster/with tests/cluster/conformance

# Specs of every kind that there is: policies, pods and namespaces that change, ports by name, blocks, both directions, stacks.
CONFORMANCE_PART := updated|stacked|named port|CIDR|IPBlock|independently|after they are deleted
.PHONY: conformance-part
conformance-part: setup-cluster image
	FOCUS='Netpol.*($(CONFORMANCE_PART))' tests/cluster/with tests/cluster/conformance

# Not part of `test`: emulated where there is no KVM (tests/kernels/README.md says how long). KERNELS_ARGS="node=kernels".
.PHONY: test-kernels
test-kernels: setup-test ## the kernel's tests and the node tests in a virtual machine with a stock Debian kernel (root)
	tests/kernels/run $(KERNELS_ARGS)

.PHONY: image
image: ## the container image, from scratch with the static binary: target/image/podgate.tar (root)
	@tests/setup gcc libc6-dev binutils buildah
	deploy/image

.PHONY: deploy-test
deploy-test: setup-test image ## what deploy/ has: manifests, chart, image, confinement, alerts, dashboard (root)
	@tests/setup runc openssl
	@command -v go >/dev/null || { echo "deploy-test: go is missing: install Go $$(sed -n 's/^go //p' tests/deploy/go.mod) or newer from https://go.dev/dl" >&2; exit 1; }
	cd tests/deploy && go vet ./... && go test -count=1 ./...

.PHONY: bench
bench: setup-bench ## one verdict (criterion), then the packet path in network namespaces; BENCH_ARGS (root)
	bench/run $(BENCH_ARGS)

.PHONY: bench-ab
bench-ab: setup-bench ## this work tree against another revision of it: REV=revision BENCH_ARGS (root)
	@[ -n "$(REV)" ] || { echo "bench-ab: say which revision: make bench-ab REV=main" >&2; exit 2; }
	bench/ab '$(REV)' $(BENCH_ARGS)

.PHONY: setup-bench
setup-bench: setup-demo
	@tests/setup nftables

.PHONY: bench-scale
bench-scale: setup-cluster ## 10,000 and 100,000 pods in a real API server: start, memory, processor, time of a change (root)
	bench/scale/run $(SCALE_ARGS)

# Each target's time in seconds. What is found on the way stays in target/fuzz/found and is begun with the next time.
.PHONY: fuzz
fuzz: setup-fuzz ## input that hates us: each fuzz target for ten minutes (tests/fuzz); FUZZ_TARGETS="packet saved"
	tests/fuzz/run 600 $(FUZZ_TARGETS)

.PHONY: fuzz-short
fuzz-short: setup-fuzz ## each fuzz target for half a minute
	tests/fuzz/run 30 $(FUZZ_TARGETS)

.PHONY: setup-fuzz
setup-fuzz:
	@tests/setup gcc g++ libc6-dev

.PHONY: deny
deny: ## licences, bans and sources of all dependencies (installs cargo-deny)
	command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	cargo-deny check licenses bans sources

.PHONY: privileges
privileges:
	@tests/privileges

.PHONY: setup-demo
setup-demo:
	@tests/setup iproute2 util-linux gcc libc6-dev curl

.PHONY: setup-test
setup-test: setup-demo
	@tests/setup nftables iptables conntrack promtool

.PHONY: cleanup
cleanup: ## takes away what `podgate run --on-exit keep` left in this network namespace
	target/release/podgate cleanup
