# shellcheck shell=dash disable=SC2034
# Rot in one of two copies is repaired from the other one, while a guest reads; rot in both at the same place fails reads of that block only.
GUESTS="quick"
DISKS="256 256"

MORE_SETTINGS='[scrub]
interval_s = 1'

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  must bedplate disk format "$(disk 2)"
  make_marked_file "$LAB_TMP/marked" 30000
  must bedplate image import marked "$LAB_TMP/marked" --copies 2
  within 60 copies_ready marked 2
  sum=$(image_field marked sha256)
  device=$(bedplate image attach marked)
  place_of_mark 1 9000
  one=$PLACE
  place_of_mark 2 9000
  two=$PLACE

  flip_byte 1 "$one"
  within 60 is_repaired 1 "$one"
  within 30 copies_ready marked 2
  drop_caches
  device_is_right "$device" "$LAB_TMP/marked"
  note "one of two: repaired"

  flip_byte 1 "$one"
  must bedplate image verify marked
  grep -q 'blocks repaired' "$LAB_TMP/out" || note "the scrub was faster than verify"
  is_repaired 1 "$one" || fail "verify did not repair"

  # While the daemon is away: it would repair the one before the other is spoilt.
  daemon_stop
  flip_byte 1 "$one"
  flip_byte 2 "$two"
  daemon_start
  within 60 both_are_damaged
  equal "copies that are Ready" 0 "$(image_field marked copies_ready)"
  drop_caches
  within 30 is_attached
  block=$(($(bedplate -o json image show marked | json_field offset) / 4096))
  ! dd if="$device" of=/dev/null bs=4096 skip="$block" count=1 iflag=direct 2>"$LAB_TMP/out" || fail "a block that is damaged in both copies was read"
  must dd if="$device" of=/dev/null bs=4096 skip=$((block - 1)) count=1 iflag=direct
  must dd if="$device" of=/dev/null bs=4096 skip=$((block + 1)) count=1 iflag=direct
  must_fail 6 'expected 0x.*actual 0x' bedplate image verify marked
  equal "the recorded SHA-256" "$sum" "$(image_field marked sha256)"
  note "both: $(image_field marked why)"

  flip_byte 2 "$two"
  must bedplate image recheck marked
  within 30 copies_ready marked 2
  drop_caches
  device_is_right "$device" "$LAB_TMP/marked"
  daemon_stop
}

is_attached() { [ "$(image_field marked device)" = "$device" ]; }
both_are_damaged() { [ "$(bedplate -o json image show marked | grep -c '"state": "Damaged"')" = 3 ]; }

is_repaired() { [ "$(dd if="$(disk "$1")" bs=1 skip="$2" count=4 2>/dev/null)" = MARK ]; }
