# shellcheck shell=dash disable=SC2034
# An image on two disks, attached. One of the two is unplugged: the reader meets no error. A disk that is late starts no copy; one that is gone
# does; an image that was deleted meanwhile stays deleted when the disk is back. Under a clone: clone-unplug.
GUESTS="quick"
DISKS="256 256 256 16"
KEEP_DISK=4
LIMIT_S=600
MORE_SETTINGS='[health]
interval_ms = 500
grace_ms = 15000'

SIZE=33554432
IMAGE=seed:52:$SIZE:12582912

boot_1() {
  daemon_start
  for number in 1 2; do must bedplate disk format "$(disk $number)"; done
  make_image "$LAB_TMP/image" 52 $SIZE 12582912
  must bedplate image import golden "$LAB_TMP/image" --copies 2
  must bedplate image import doomed "$LAB_TMP/image" --copies 2
  rm "$LAB_TMP/image"
  within 60 copies_ready golden 2
  within 60 copies_ready doomed 2
  device=$(bedplate image attach golden)
  keep golden "$device"
  reader_start golden "$device" "$IMAGE"
  unplug 2
  within 60 image_is_degraded golden
  reader_goes_on golden
  note "unplugged: the reader goes on"
  reader_stop golden
  must bedplate image delete doomed
  must_fail 3 doomed bedplate image show doomed
  # A place for another copy: made when the disk is not only late.
  must bedplate disk format "$(disk 3)"
  within 120 two_are_ready
  note "a copy on the third disk"
  reboot_node
}

two_are_ready() { [ "$(image_field golden copies_ready)" = 2 ]; }

# The disk is back, and with it a third copy, and one of an image that was deleted.
boot_2() {
  daemon_start
  back_on golden "$(kept golden)"
  within 60 copies_ready golden 2
  note "the extra copy went"
  within 60 is_told
  must_fail 3 doomed bedplate image show doomed
  equal "imports" 0 "$(jobs_of import)"
  device_is_right "$(kept golden)" "$IMAGE"
  must bedplate image verify golden
  must bedplate image detach golden
  daemon_stop
}

# Every disk together holds the copies of golden, and nothing else.
is_told() {
  local sum=0 number count
  for number in 1 2 3; do
    count=$(disk_field $number replicas)
    sum=$((sum + ${count:-9}))
  done
  [ "$sum" = 2 ]
}
