# shellcheck shell=dash disable=SC2034
# The tests of ublk-target (ublk-target/tests/kernel), which need a kernel with ublk: here they find one, and two disks.
GUESTS="quick"
DISKS="128 128"
LIMIT_S=800

# LAB_DEVICES=1000: that many at once, and only the test that is about it.
[ -z "${LAB_DEVICES:-}" ] || MEMORY_MIB=4096

boot_1() {
  if [ -n "${LAB_DEVICES:-}" ]; then
    BEDPLATE_TEST_DISKS="$(disk 1),$(disk 2)" BEDPLATE_TEST_DEVICES=$LAB_DEVICES ublk-kernel-tests many_devices_come_and_come_back 2>&1 | tee "$LAB_TMP/kernel.log"
    at_least "tests that ran" 1 "$(grep -c '^ok' "$LAB_TMP/kernel.log")"
    ! grep '^FAILED' "$LAB_TMP/kernel.log" || fail "$LAB_DEVICES devices"
    return
  fi
  BEDPLATE_TEST_DISKS="$(disk 1),$(disk 2)" ublk-kernel-tests >"$LAB_TMP/kernel.log" 2>&1 || {
    cat "$LAB_TMP/kernel.log"
    fail "$(grep -c '^FAILED' "$LAB_TMP/kernel.log") of ublk-target's tests failed"
  }
  sed 's/^/  /' "$LAB_TMP/kernel.log"
  at_least "tests that ran" 20 "$(grep -c '^ok' "$LAB_TMP/kernel.log")"
}
