# shellcheck shell=dash disable=SC2034
# A node that dies while a copy is Pending, and while it is half made, comes back with it Ready or on the way there by itself, goes on at the copy's mark,
# and imports nothing again. (Kills in a drain: replica-copies.)
GUESTS="quick"
DISKS="256 256 256 16"
KEEP_DISK=4
LIMIT_S=500
# Slow enough to be met half way.
MORE_SETTINGS='[rebuild]
limit_bytes_per_s = 4194304'

SIZE=100663296
IMAGE=seed:71:$SIZE:75497472

# Pending: the first copy is whole, and the second has not begun when the daemon dies; then in the middle of the second, at a mark.
boot_1() {
  daemon_start
  for number in 1 2 3; do must bedplate disk format "$(disk $number)"; done
  make_image "$LAB_TMP/image" 71 $SIZE 75497472
  must bedplate image import golden "$LAB_TMP/image"
  keep sha256 "$(image_field golden sha256)"
  keep sha512 "$(image_field golden sha512)"
  keep uuid "$(image_field golden uuid)"
  rm "$LAB_TMP/image"
  keep golden "$(bedplate image attach golden)"
  # Answered when it is written that two are wanted: nothing was copied yet.
  must bedplate --no-wait image copies golden 2
  daemon_kill
  daemon_start
  back_on golden "$(kept golden)"
  nothing_came_from_outside
  equal "copies wanted after a kill while Pending" 2 "$(image_field golden copies_wanted)"
  within 60 rebuild_is_beyond 1048576
  note "the second copy begins after a kill while it was Pending"
  # A mark comes every 10 s.
  sleep 12
  within 60 rebuild_is_beyond 29360128
  power_cut
}

# From the mark on, and not from the beginning.
boot_2() {
  daemon_start
  back_on golden "$(kept golden)"
  nothing_came_from_outside
  within 60 rebuild_goes_on
  resumed=$(copied)
  at_least "bytes that a power cut left of the copy" 8388608 "$resumed"
  note "the copy goes on at $resumed bytes"
  within 120 copies_ready golden 2
  device_is_right "$(kept golden)" "$IMAGE"
  must bedplate image verify golden
  equal "SHA-256" "$(kept sha256)" "$(image_field golden sha256)"
  equal "SHA-512" "$(kept sha512)" "$(image_field golden sha512)"
  equal "UUID" "$(kept uuid)" "$(image_field golden uuid)"
  must bedplate image detach golden
  daemon_stop
}

nothing_came_from_outside() { equal "imports of this daemon" 0 "$(jobs_of import)"; }

rebuild_goes_on() { [ -n "$(copied)" ]; }
