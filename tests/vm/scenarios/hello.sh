# shellcheck shell=dash disable=SC2034
# The guests themselves: disks known by serial, disks that change places, a reboot and a power cut.
GUESTS="quick"
DISKS="256 128"

boot_1() {
  note "$(uname -r): disk 1 is $(disk 1), disk 2 is $(disk 2)"
  [ -b "$(disk 1)" ] || fail "disk 1 is no block device"
  [ -e /dev/ublk-control ] || fail "no /dev/ublk-control"
  printf 'written on boot 1' | dd of="$(disk 2)" bs=512 conv=sync 2>/dev/null
  reboot_node
}

order_before_boot_2() { echo "2 1"; }

boot_2() {
  note "disk 1 is $(disk 1), disk 2 is $(disk 2)"
  equal "disk 2" "written on boot 1" "$(dd if="$(disk 2)" bs=17 count=1 2>/dev/null)"
  printf 'written on boot 2' | dd of="$(disk 2)" bs=512 conv=sync oflag=direct 2>/dev/null
  power_cut
}

boot_3() {
  equal "disk 2" "written on boot 2" "$(dd if="$(disk 2)" bs=17 count=1 2>/dev/null)"
}
