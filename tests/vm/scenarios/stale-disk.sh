# shellcheck shell=dash disable=SC2034,SC2154
# An old copy of a disk is put back beside one that knows better: nothing of it is served or changed, nothing new goes to it, and the right disk is taken
# up when it is back. Where the one that knows better comes later, what came up from the old copy fails, and goes. A disk that was unplugged
# under the daemon can be forgotten.
GUESTS="quick"
DISKS="128 128 128 16"
KEEP_DISK=4
LIMIT_S=600

SIZE=8388608
order_before_boot_2() { echo "3 2 4"; }
order_before_boot_3() { echo "3 2 4"; }
order_before_boot_4() { echo "1 2 4"; }

boot_1() {
  # What disk 1 was, is on disk 3; it must not be there while disk 1 is in use.
  daemon_start
  must bedplate disk format "$(disk 1)"
  keep uuid "$(disk_field 1 uuid)"
  make_image "$LAB_TMP/image" 83 $SIZE 4194304
  must bedplate image import golden "$LAB_TMP/image"
  new_clone vm golden
  vm=$DEVICE
  keep vm "$vm"
  put 1
  daemon_stop
  must dd if="$(disk 1)" of="$(disk 3)" bs=1M oflag=direct
  unplug 3
  daemon_start
  volume_back_on vm "$vm"
  must bedplate disk format "$(disk 2)"
  keep knows "$(disk_field 2 uuid)"
  daemon_restart
  volume_back_on vm "$vm"
  put 2
  daemon_stop
  reboot_node
}

# At the start of the daemon.
boot_2() {
  daemon_start
  within 20 says_old
  [ ! -e "$(kept vm)" ] || fail "a volume is served from an old copy of its disk"
  must_fail 1 'old copy' bedplate volume attach vm
  must_fail 1 'old copy' bedplate volume delete vm
  must bedplate volume create other --size 16M
  equal "disk of a new volume" "$(kept knows)" "$(volume_field other disk_uuid)"
  must bedplate volume delete other
  bedplate status | sed 's/^/  /'
  daemon_stop
  reboot_node
}

# Later.
boot_3() {
  unplug 2
  daemon_start
  within 30 volume_is vm Ready
  vm=$(kept vm)
  has 1
  exec 7<"$vm"
  plug_in
  within 60 says_old
  within 20 fails
  note "reads of what is served from an old copy fail as soon as that is known"
  exec 7<&-
  within 30 is_away
  must_fail 1 'old copy' bedplate volume attach vm
  daemon_stop
  reboot_node
}

boot_4() {
  daemon_start
  vm=$(kept vm)
  volume_back_on vm "$vm"
  has 2
  note "the right disk is back, with all that it had"
  uuid=$(kept uuid)
  must_fail 9 '' bedplate disk forget "$uuid"
  unplug 1
  within 30 is_offline
  must_fail 9 'forget' bedplate disk remove "$uuid"
  must bedplate disk forget "$uuid"
  [ ! -e "$vm" ] || fail "$vm is still there"
  ! bedplate volume show vm 2>/dev/null || fail "a volume of a forgotten disk is still known"
  note "a disk that was unplugged under the daemon is forgotten"
  daemon_stop
}

put() { printf 'content %s' "$1" | dd of="$vm" bs=4096 count=1 seek=5 conv=sync,fsync,notrunc oflag=direct iflag=fullblock 2>/dev/null || fail "cannot write to $vm"; }
has() {
  drop_caches
  equal "what the volume has" "content $1" "$(dd if="$vm" bs=4096 skip=5 count=1 iflag=direct 2>/dev/null | tr -d '\0')"
}
says_old() { bedplate status | grep -q 'old copy'; }
fails() { ! dd if="$vm" of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null; }
is_away() { [ ! -e "$(kept vm)" ]; }
is_offline() { [ "$(bedplate -o json disk show "$uuid" | json_field state)" != Online ]; }
