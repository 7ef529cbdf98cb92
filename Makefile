# Bedplate's commands. `make` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Where `install` takes the programs from, and where it puts things.
BIN_DIR ?= $(TARGET_DIR)/release
DESTDIR ?=
PREFIX ?= /usr
STRIP ?=

.PHONY: help
help: ## List these commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## Install what building and testing need (Debian, as root)
	@tests/vm/setup

.PHONY: build
build: ## Build the daemon and the command-line tool
	$(CARGO) build --release --bin bedplated --bin bedplate

# What goes into test guests: optimised a little, with checks on. Built with the tests, as `cargo test` builds them: alone, with the features that
# only the programs ask for, everything would be compiled a second time.
.PHONY: build-test
build-test:
	CARGO_INCREMENTAL=0 $(CARGO) test --no-run --workspace --message-format=json-render-diagnostics | \
	  sed -n 's#.*"executable":"\([^"]*/deps/kernel-[0-9a-f]*\)".*#\1#p' | xargs -I{} install {} $(TARGET_DIR)/debug/ublk-kernel-tests

.PHONY: demo
demo: ## Show it at work: a real image, a kill, a reboot (about 5 minutes)
	@tests/vm/demo

.PHONY: test
test: ## Run everything: formatting, lints, unit and simulator tests, guests on two kernels
	@tests/vm/test-all

.PHONY: vm
vm: ## Run the guest scenarios only; SCENARIO=NAME for one
	@tests/vm/setup && $(MAKE) -s build-test && tests/vm/setup images && tests/vm/run $(SCENARIO)

.PHONY: soak
soak: ## Longer runs, in shards of under 30 minutes; goes on where it was interrupted
	@tests/vm/soak

.PHONY: bench
bench: ## Measure against what one would use instead: fio, in one guest, 7 rounds (BENCH_KERNEL=stable: 6.12)
	@tests/vm/setup && tests/vm/bench

.PHONY: bench-quick
bench-quick: ## The same, 3 rounds of what the bounds are about
	@tests/vm/setup && BENCH_QUICK=1 tests/vm/bench

.PHONY: bench-engine
bench-engine: ## Measure core and engine on this machine, without ublk; BENCH_DISK=FILE_OR_DEVICE, overwritten
	@tests/vm/setup && tests/vm/bench-engine

.PHONY: bench-recovery
bench-recovery: ## Measure how long 100 volumes under I/O do not answer after a kill, in one guest
	@tests/vm/setup && tests/vm/bench-recovery

.PHONY: bench-boot
bench-boot: ## Measure how long a daemon takes to Ready with 1 TiB fully mapped
	@tests/vm/setup && tests/vm/bench-boot

.PHONY: bench-import
bench-import: ## Measure imports against cp, sha512sum and qemu-img convert
	@tests/vm/setup && tests/vm/bench-import

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: lint
lint: lint-scripts ## Check formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: lint-scripts
lint-scripts:
	shellcheck -x -P SCRIPTDIR .ci/run $(addprefix tests/vm/,setup run test-all demo soak bench bench-engine bench-import bench-boot bench-recovery bench-instructions) $(wildcard tests/vm/lib/*.sh tests/vm/scenarios/*.sh tests/vm/guest/*.sh tests/vm/bench-guest/*.sh) \
	  tests/vm/guest/guest-main tests/vm/guest/node-agent tests/vm/guest/quick-init

# The files alone, wherever DESTDIR says.
.PHONY: install-files
install-files:
	install -D $(if $(STRIP),-s) -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(BIN_DIR)/bedplated $(BIN_DIR)/bedplate
	install -D -m 0644 -t $(DESTDIR)/usr/lib/systemd/system packaging/systemd/*.service packaging/systemd/*.mount
	install -D -m 0644 -t $(DESTDIR)/usr/lib/sysusers.d packaging/sysusers.d/bedplate.conf
	install -D -m 0644 -t $(DESTDIR)/usr/lib/tmpfiles.d packaging/tmpfiles.d/bedplate.conf
	install -D -m 0644 -t $(DESTDIR)/usr/lib/modprobe.d packaging/modprobe.d/bedplate.conf
	for rules in packaging/udev/*.rules; do [ ! -e "$$rules" ] || install -D -m 0644 -t $(DESTDIR)/usr/lib/udev/rules.d "$$rules"; done
	install -d -m 0755 $(DESTDIR)/etc/bedplate/conf.d
	[ -e $(DESTDIR)/etc/bedplate/bedplated.toml ] || install -m 0644 packaging/bedplated.toml $(DESTDIR)/etc/bedplate/bedplated.toml

.PHONY: install
install: install-files ## Install what `make build` built; DESTDIR= for a package
	@if [ -z "$(DESTDIR)" ]; then \
	  systemd-sysusers bedplate.conf; systemd-tmpfiles --create bedplate.conf; udevadm control --reload; systemctl daemon-reload; \
	  echo "Installed. Start it with: systemctl enable --now bedplated bedplate-devices"; \
	fi
