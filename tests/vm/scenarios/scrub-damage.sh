# shellcheck shell=dash disable=SC2034,SC2153
# A byte that rots under an image with one copy: the scrub finds it, reads of exactly that block fail, everything else is served, also after
# kill -9; what was recorded never changes, and the image is Ready again when its bytes are.
GUESTS="quick"
DISKS="256"

MORE_SETTINGS='[scrub]
interval_s = 1'

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_marked_file "$LAB_TMP/marked" 30000
  must bedplate image import marked "$LAB_TMP/marked"
  sum=$(image_field marked sha256)
  device=$(bedplate image attach marked)
  must bedplate volume create clone --image marked --size 16M
  clone=$(bedplate volume attach clone)
  device_is_right "$device" "$LAB_TMP/marked"

  place_of_mark 1 9000
  place=$PLACE
  flip_byte 1 "$place"
  within 30 image_is marked Damaged
  damaged_as_it_must_be
  note "found by the scrub: $(image_field marked why)"

  daemon_kill
  daemon_start
  within 30 image_is marked Damaged
  within 30 is_attached marked "$device"
  within 30 clone_is_back
  damaged_as_it_must_be
  note "kill -9: read first, and found again"

  must_fail 6 'expected 0x.*actual 0x' bedplate image verify marked
  flip_byte 1 "$place"
  must bedplate image recheck marked
  equal "state after the bytes are back" Ready "$(image_field marked state)"
  drop_caches
  device_is_right "$device" "$LAB_TMP/marked"
  equal "the recorded SHA-256" "$sum" "$(image_field marked sha256)"
  bedplate image show marked | sed 's/^/  /'
  daemon_stop
}

# Degraded: its image has no copy that is wholly good.
clone_is_back() { [ "$(volume_field clone state)" = Degraded ] && [ "$(volume_field clone device)" = "$clone" ]; }
is_attached() { [ "$(image_field "$1" device)" = "$2" ]; }

# Its one bad block fails, for the image's device and for the clone's; the ones beside it do not.
damaged_as_it_must_be() {
  drop_caches
  bedplate -o json image show marked >"$LAB_TMP/shown"
  offset=$(json_field offset <"$LAB_TMP/shown")
  equal "length of what is damaged" 4096 "$(json_field len_bytes <"$LAB_TMP/shown")"
  grep -qE 'expected 0x[0-9a-f]+, actual 0x' "$LAB_TMP/shown" || fail "it does not say expected and actual"
  block=$((offset / 4096))
  for reader in "$device" "$clone"; do only_block_fails "$reader" "$LAB_TMP/marked" "$block"; done
  equal "the recorded SHA-256" "$sum" "$(image_field marked sha256)"
}
