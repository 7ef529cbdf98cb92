# shellcheck shell=dash disable=SC2034
# An import that ends in the middle - cancelled, killed, cut off, out of space, source changed - leaves no image and all the space.
GUESTS="quick"
DISKS="256 256 96"

SIZE=100663296

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  free=$(disk_field 1 free_bytes)
  make_image "$LAB_TMP/image" 60 $SIZE $SIZE

  start_import cancelled
  must bedplate job cancel "$job"
  must_fail 1 'cancel' bedplate job wait "$job"
  nothing_is_left cancelled

  start_import shrinks
  truncate -s 1M "$LAB_TMP/image"
  must_fail 1 'chang|shr|size' bedplate job wait "$job"
  nothing_is_left shrinks
  make_image "$LAB_TMP/image" 60 $SIZE $SIZE

  # The client of a stream goes away in the middle.
  { cat "$LAB_TMP/image"; sleep 60; } | bedplate image import streamed - >/dev/null 2>&1 &
  within 20 is_running streamed
  within 20 is_under_way
  kill -9 "$(pidof bedplate)"
  within 20 is_gone streamed
  nothing_is_left streamed

  full
  start_import killed
  daemon_kill
  daemon_start
  within 20 disk_is_online
  nothing_is_left killed
  must bedplate image import killed "$LAB_TMP/image"
  equal "SHA-256 after the second try" "$(sum_of sha256 "$LAB_TMP/image")" "$(image_field killed sha256)"
  must bedplate image delete killed
  equal "free space after the delete" "$free" "$(disk_field 1 free_bytes)"

  start_import cut
  power_cut
}

boot_2() {
  daemon_start
  within 20 disk_is_online
  # A disk of the same size that never held anything tells how much must be free.
  must bedplate disk format "$(disk 2)"
  free=$(disk_field 2 free_bytes)
  nothing_is_left cut
  make_image "$LAB_TMP/image" 61 $SIZE 33554432
  must bedplate disk remove "$(disk 2)" --force
  must bedplate image import cut "$LAB_TMP/image"
  device_is_right "$(bedplate image attach cut)" seed:61:$SIZE:33554432
}

# start_import NAME: returns in the middle of it. Sets job.
start_import() {
  job=$(bedplate -o json --no-wait image import "$1" "$LAB_TMP/image" | json_field id)
  [ -n "$job" ] || fail "no job for the import of $1"
  within 30 is_running "$1"
  within 30 is_under_way
  note "$1: $(bytes_done) of $SIZE bytes are dealt with"
}
# Some MiB are written, and the end is far.
bytes_done() { bedplate -o json job list | tr -s ',{' '\n' | sed -n 's/.*"done_bytes": *//p' | tail -n 1; }
is_under_way() {
  done_bytes=$(bytes_done)
  [ "${done_bytes:-0}" -gt 8000000 ]
}
is_running() { bedplate job list | grep -q "$1.*running"; }
is_gone() {
  status=0
  bedplate image show "$1" || status=$?
  [ "$status" = 3 ]
}
disk_is_online() { [ "$(disk_field 1 state)" = Online ]; }

nothing_is_left() {
  must_fail 3 "$1" bedplate image show "$1"
  equal "free space after $1" "$free" "$(disk_field 1 free_bytes)"
}

full() {
  must bedplate disk format "$(disk 3)"
  small=$(disk_field 3 free_bytes)
  must bedplate disk remove "$(disk 1)" --force
  must_fail 8 'is full' bedplate image import large "$LAB_TMP/image"
  equal "free space of the full disk" "$small" "$(disk_field 3 free_bytes)"
  must bedplate disk remove "$(disk 3)" --force
  must bedplate disk add "$(disk 1)"
  within 20 disk_is_online
}
