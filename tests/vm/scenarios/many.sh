# shellcheck shell=dash disable=SC2034
# Fifty devices at once: as many threads as with one, and all of them come back after one kill.
GUESTS="quick"
DISKS="512"

DEVICES=50
IMAGE=seed:50:1048576:262144

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 50 1048576 262144
  attach_one 1
  few=$(threads_of_daemon)
  number=1
  while [ "$number" -lt "$DEVICES" ]; do
    number=$((number + 1))
    attach_one "$number"
  done
  # A blocking call or two may still have its thread.
  sleep 12
  many=$(threads_of_daemon)
  note "threads: $few with one device, $many with $DEVICES"
  at_most "threads with $DEVICES devices" $((few + 4)) "$many"
  all_are_right
  daemon_kill
  from=$(uptime_ms)
  daemon_start
  must bedplate wait image "image-$DEVICES" --timeout 60s
  all_are_right
  note "all of $DEVICES right again $(($(uptime_ms) - from)) ms after the start"
  daemon_stop
}

attach_one() {
  must bedplate image import "image-$1" "$LAB_TMP/image"
  equal "device $1" "/dev/ublkb$(($1 - 1))" "$(bedplate image attach "image-$1")"
}

threads_of_daemon() { sed -n 's/^Threads:[^0-9]*//p' "/proc/$(daemon_pid)/status"; }

all_are_right() {
  number=0
  while [ "$number" -lt "$DEVICES" ]; do
    device_is_right "/dev/ublkb$number" "$IMAGE"
    number=$((number + 1))
  done
}
