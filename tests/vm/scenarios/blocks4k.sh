# shellcheck shell=dash disable=SC2034
# A disk that reads and writes whole blocks of 4096 bytes only: formatted, filled, served through a kill, verified.
GUESTS="quick"
DISKS="256:4096"

# Its last block is neither whole nor a whole number of sectors.
SIZE=5246017
IMAGE=seed:44:$SIZE:2097152

boot_1() {
  equal "logical block of the disk" 4096 "$(blockdev --getss "$(disk 1)")"
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 44 "$SIZE" 2097152
  must bedplate image import image "$LAB_TMP/image"
  device=$(bedplate image attach image)
  # Its own requests must be such as the disk can carry out.
  equal "logical block of the device" 4096 "$(blockdev --getss "$device")"
  reader_start image "$device" "$IMAGE"
  kill_in_flight "$device"
  daemon_start
  reader_stop image
  back_on image "$device"
  device_is_right "$device" "$IMAGE"
  must bedplate image verify image
  must bedplate image detach image
  daemon_stop
}
