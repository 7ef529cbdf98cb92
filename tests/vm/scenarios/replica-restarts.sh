# shellcheck shell=dash disable=SC2034
# Restarts in a row (20 in `make soak`), every other one a kill: both copies are Ready each time, nothing is read from a source and no copy is made again.
GUESTS="quick"
DISKS="128 128"
LIMIT_S=300
ROUNDS=${LAB_ROUNDS:-8}

SIZE=33554432
IMAGE=seed:72:$SIZE:6291456

boot_1() {
  daemon_start
  for number in 1 2; do must bedplate disk format "$(disk $number)"; done
  make_image "$LAB_TMP/image" 72 $SIZE 6291456
  must bedplate image import golden "$LAB_TMP/image" --copies 2
  rm "$LAB_TMP/image"
  within 60 copies_ready golden 2
  device=$(bedplate image attach golden)
  what=$(identity)
  changes=$(changes)
  reader_start golden "$device" "$IMAGE"
  round=0
  while [ "$round" -lt "$ROUNDS" ]; do
    round=$((round + 1))
    if [ $((round % 2)) = 0 ]; then daemon_stop; else daemon_kill; fi
    daemon_start
    back_on golden "$device"
    within 10 copies_ready golden 2
    equal "size, UUID and checksums in round $round" "$what" "$(identity)"
    equal "jobs in round $round" 0 "$(all_jobs)"
  done
  reader_stop golden
  note "$ROUNDS restarts"
  equal "allocated bytes" "$changes" "$(changes)"
  daemon_stop
}

identity() { for field in uuid size_bytes sha256 sha512 copies_wanted; do image_field golden "$field"; done; }
# A copy that was made again would have left its trace here.
changes() { for number in 1 2; do disk_field "$number" free_bytes; done; }
