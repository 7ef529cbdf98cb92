# shellcheck shell=dash disable=SC2034,SC2153
# `verify_reads`: rot that no scrub has seen reaches no guest. With another copy no reader sees an error, nor does a clone that copies a part of
# the block up; without one exactly that block fails.
GUESTS="quick"
DISKS="256 256"

TOP_SETTINGS='verify_reads = true'
MORE_SETTINGS='[scrub]
enabled = false'

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  must bedplate disk format "$(disk 2)"
  # Of an odd size: the last block is padded.
  make_marked_file "$LAB_TMP/marked" 30000
  must bedplate image import marked "$LAB_TMP/marked" --copies 2
  within 60 copies_ready marked 2
  device=$(bedplate image attach marked)
  new_clone clone marked --size 16M
  clone=$DEVICE
  device_is_right "$device" "$LAB_TMP/marked"
  device_is_right_in_parts "$device"

  place_of_mark 1 9000
  one=$PLACE
  place_of_mark 2 9000
  two=$PLACE
  # The line that is spoilt, at its first byte.
  byte=$(awk '$NF == 9000 { print total + 0; exit } { total += length($0) + 1 }' "$LAB_TMP/marked")
  block=$((byte / 4096))
  at_least "the spoilt block" 1 "$block"
  both_are_right "as imported"

  # One of them, whichever the devices read first: nobody sees it, and it is told of.
  for number in 1 2; do
    if [ "$number" = 1 ]; then place=$one; else place=$two; fi
    flip_byte "$number" "$place"
    both_are_right "rot on disk $number"
    flip_byte "$number" "$place"
    must bedplate image recheck marked
    within 30 copies_ready marked 2
  done
  grep -q 'is not what was imported' "$LAB_TMP/bedplated.log" || fail "the log does not tell of it"

  # A part of the block is written to a clone, on top of the rest, which must be what was imported.
  new_clone second marked --size 16M
  flip_byte 1 "$one"
  dd if=/dev/zero bs=512 count=1 2>/dev/null | tr '\0' 'x' | dd of="$DEVICE" bs=512 seek=$((block * 8 + 7)) conv=notrunc oflag=direct 2>"$LAB_TMP/out" || fail "a part of a block cannot be written: $(cat "$LAB_TMP/out")"
  must dd if="$DEVICE" of="$LAB_TMP/block" bs=4096 skip="$block" count=1 iflag=direct
  dd if="$LAB_TMP/marked" bs=512 skip=$((block * 8)) count=7 2>/dev/null >"$LAB_TMP/expected"
  head -c 3584 "$LAB_TMP/block" | cmp - "$LAB_TMP/expected" || fail "rot was copied up"

  # Both: that block fails, and nothing else.
  flip_byte 2 "$two"
  drop_caches
  for reader in "$device" "$clone"; do only_block_fails "$reader" "$LAB_TMP/marked" "$block"; done
  within 30 image_is marked Damaged
  bedplate image show marked | sed 's/^/  /'

  flip_byte 2 "$two"
  must bedplate image recheck marked
  within 30 copies_ready marked 2
  both_are_right "repaired"

  # Devices of a daemon that compares are taken over by one that does, and checksums are asked for again.
  daemon_kill
  daemon_start
  within 30 is_ready marked "$device"
  within 30 volume_ready clone "$clone"
  flip_byte 1 "$one"
  both_are_right "after kill -9"
  daemon_stop
}

both_are_right() {
  drop_caches
  device_is_right "$device" "$LAB_TMP/marked"
  must dd if="$clone" of="$LAB_TMP/block" bs=4096 skip="$block" count=1 iflag=direct
  dd if="$LAB_TMP/marked" bs=4096 skip="$block" count=1 2>/dev/null | cmp -s - "$LAB_TMP/block" || fail "$1: the clone's block is wrong"
  note "$1: read as it was imported"
}

# Reads that begin and end within blocks, the device's last sector among them.
device_is_right_in_parts() {
  local sector last
  last=$(($(blockdev --getsz "$1") - 1))
  for sector in 0 1 7 8 1001 $((last - 1)) "$last"; do
    must dd if="$1" of="$LAB_TMP/part" bs=512 skip="$sector" count=1 iflag=direct
    { dd if="$LAB_TMP/marked" bs=512 skip="$sector" count=1 2>/dev/null; cat /dev/zero; } 2>/dev/null | head -c 512 | cmp -s - "$LAB_TMP/part" || fail "sector $sector is wrong"
  done
  must dd if="$1" of="$LAB_TMP/part" bs=1536 skip=5 count=100 iflag=direct
  dd if="$LAB_TMP/marked" bs=1536 skip=5 count=100 2>/dev/null | cmp -s - "$LAB_TMP/part" || fail "parts of blocks are wrong"
}
