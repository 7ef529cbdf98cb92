# shellcheck shell=dash disable=SC2034
# A node that dies while a copy is Pending, while it is half made, while a disk is drained and while a scrub reads comes back with its copies Ready or on the
# way there by itself, goes on at the copy's mark, and imports nothing again. (A kill in a drain: replica-copies.)
GUESTS="quick"
DISKS="256 256 256 16"
KEEP_DISK=4
KEEP_STATE=1
TOP_SETTINGS='metrics_listen = "127.0.0.1:9470"'
LIMIT_S=600
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
  from=$(replicas_in golden Ready | sed -n 1p)
  keep drained "$from"
  must bedplate --no-wait disk drain "$from"
  within 60 rebuild_is_beyond 4194304
  power_cut
}

# Whoever asked for the drain is not asked again.
boot_3() {
  daemon_start
  back_on golden "$(kept golden)"
  from=$(kept drained)
  within 120 is_drained
  within 60 copies_ready golden 2
  nothing_came_from_outside
  note "drained over a power cut"
  killed_in_a_scrub
  device_is_right "$(kept golden)" "$IMAGE"
  equal "SHA-512" "$(kept sha512)" "$(image_field golden sha512)"
  must bedplate image detach golden
  daemon_stop
}

killed_in_a_scrub() {
  daemon_stop
  MORE_SETTINGS='[scrub]
interval_s = 1
bytes_per_s = 8388608'
  daemon_start
  back_on golden "$(kept golden)"
  within 60 scrub_is_beyond 1048576
  equal "passes of the scrub before the kill" 0 "$(metric bedplate_scrub_passes_total)"
  daemon_kill
  daemon_start
  back_on golden "$(kept golden)"
  within 10 copies_ready golden 2
  within 120 scrub_has_passed
  within 10 copies_ready golden 2
  nothing_came_from_outside
  equal "rebuilds after a kill in a scrub" 0 "$(jobs_of rebuild)"
  note "a scrub that was killed begins again, and passes"
}

is_drained() { ! replicas_in golden Ready | grep -q "$from"; }
metric() { wget -q -O - http://127.0.0.1:9470/metrics | awk -v name="$1" 'index($1, name "{") == 1 || $1 == name { sum += $2 } END { print sum + 0 }'; }
scrub_is_beyond() { [ "$(metric bedplate_scrubbed_bytes_total)" -gt "$1" ]; }
scrub_has_passed() { [ "$(metric bedplate_scrub_passes_total)" -gt 0 ]; }

nothing_came_from_outside() { equal "imports of this daemon" 0 "$(jobs_of import)"; }

rebuild_goes_on() { [ -n "$(copied)" ]; }
