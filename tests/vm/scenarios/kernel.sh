# shellcheck shell=dash disable=SC2034
# The tests of ublk-target (ublk-target/tests/kernel), which need a kernel with ublk: here they find one, and two disks.
GUESTS="quick"
DISKS="128 128"
LIMIT_S=800

boot_1() {
  BEDPLATE_TEST_DISKS="$(disk 1),$(disk 2)" ublk-kernel-tests >"$LAB_TMP/kernel.log" 2>&1 || {
    cat "$LAB_TMP/kernel.log"
    fail "$(grep -c '^FAILED' "$LAB_TMP/kernel.log") of ublk-target's tests failed"
  }
  sed 's/^/  /' "$LAB_TMP/kernel.log"
  at_least "tests that ran" 20 "$(grep -c '^ok' "$LAB_TMP/kernel.log")"
}
