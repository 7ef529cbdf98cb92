# shellcheck shell=bash
# Names and small helpers that every part of the harness shares.

# The project's top folder.
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
# Where cargo puts what it builds.
TARGET_DIR=${CARGO_TARGET_DIR:-$TOP/target}
# Everything that the harness fetches or builds. Removing it means starting afresh.
VM_DIR=${BEDPLATE_VM_DIR:-$TARGET_DIR/vm}
# The binaries that go into the guests. The test profile: optimised a little, with checks on, and shared with `cargo test`.
BIN_DIR=${BEDPLATE_BIN_DIR:-$TARGET_DIR/debug}
# Those that only guests have: readers, writers and checkers (tests/src/bin).
GUEST_BINARIES="guest-reader guest-writer log-replay"
BINARIES="bedplated bedplate $GUEST_BINARIES"
# The quick guest has the tests of ublk-target besides: they need a kernel with ublk.
QUICK_BINARIES="$BINARIES ublk-kernel-tests"
export TOP TARGET_DIR VM_DIR BIN_DIR GUEST_BINARIES BINARIES QUICK_BINARIES

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

# Seconds since the machine started, with three decimals: no jumps when the clock is set.
now_s() { cut -d' ' -f1 /proc/uptime; }

seconds_since() { awk -v from="$1" '{printf "%.0f", $1 - from}' /proc/uptime; }

# once NAME KEY COMMAND...: runs COMMAND unless it already succeeded for this KEY. An interrupt leaves it undone.
once() {
  local name=$1 key=$2 stamp=$VM_DIR/done.$1 from
  shift 2
  if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$key" ]; then
    return 0
  fi
  rm -f "$stamp"
  from=$(now_s)
  say "set-up: $name ..."
  # Not in a condition, where bash would switch `set -e` off inside COMMAND.
  "$@"
  printf '%s\n' "$key" >"$stamp.new"
  mv "$stamp.new" "$stamp"
  say "set-up: $name, $(seconds_since "$from") s"
}
