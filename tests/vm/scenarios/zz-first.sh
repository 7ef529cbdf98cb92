# shellcheck shell=dash disable=SC2034
# First byte.
GUESTS="quick"
DISKS="512"
MODES="auto"
LIMIT_S=300
boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 20 33554432 12582912
  must bedplate image import kept "$LAB_TMP/image"
  device=$(bedplate volume create v --image kept --size 64M --attach)
  note "device $device"
  bedplate volume list; bedplate volume show v
  must dd if=/dev/urandom of="$LAB_TMP/r" bs=1M count=8
  must dd if="$LAB_TMP/r" of="$device" bs=1M count=8 seek=3 oflag=direct conv=fsync
  must dd if="$device" of="$LAB_TMP/back" bs=1M count=8 skip=3 iflag=direct
  must cmp "$LAB_TMP/r" "$LAB_TMP/back"
  daemon_kill; daemon_start
  within 20 sh -c "bedplate volume show v | grep -q Ready"
  must dd if="$device" of="$LAB_TMP/back" bs=1M count=8 skip=3 iflag=direct
  must cmp "$LAB_TMP/r" "$LAB_TMP/back"
  bedplate volume show v; bedplate status
  cat "$LAB_TMP/bedplated.log"
}
