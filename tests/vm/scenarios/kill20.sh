# shellcheck shell=dash disable=SC2034
# Twenty times kill -9 (`make soak`: more) under a reader that keeps one open file: it meets pauses, no error and no wrong byte.
GUESTS="quick"
DISKS="512"
LIMIT_S=600

KILLS=${LAB_KILLS:-20}
IMAGE=seed:20:33554432:12582912

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 20 33554432 12582912
  must bedplate image import kept "$LAB_TMP/image"
  rm "$LAB_TMP/image"
  device=$(bedplate image attach kept)
  reader_start steady "$device" "$IMAGE"
  kill_number=0
  while [ "$kill_number" -lt "$KILLS" ]; do
    kill_number=$((kill_number + 1))
    one_kill
  done
  equal "device after $KILLS kills" "$device" "$(bedplate image attach kept)"
  reader_stop steady
  device_is_right "$device" "$IMAGE"
  must bedplate image detach kept
  daemon_stop
}

one_kill() {
  reader_goes_on steady 20
  from=$(uptime_ms)
  kill_in_flight "$device"
  daemon_start
  back_on kept "$device"
  reader_goes_on steady 20
  note "kill $kill_number: $IN_FLIGHT in flight, back after $(($(uptime_ms) - from)) ms"
}

