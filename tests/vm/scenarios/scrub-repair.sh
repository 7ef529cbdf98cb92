# shellcheck shell=dash disable=SC2034
# Rot in one of two copies is repaired from the other one, while a guest reads; rot in both at the same place fails reads of that block only.
GUESTS="quick"
DISKS="256 256"

CLUSTERS_FROM=18350080
MORE_SETTINGS='[scrub]
interval_s = 1'

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  must bedplate disk format "$(disk 2)"
  number=0
  while [ "$number" -lt 30000 ]; do
    number=$((number + 1))
    echo "MARK-OF-THE-GOLDEN-IMAGE line $number"
  done >"$LAB_TMP/marked"
  must bedplate image import marked "$LAB_TMP/marked" --copies 2
  within 60 copies_ready marked 2
  sum=$(image_field marked sha256)
  device=$(bedplate image attach marked)
  one=$(place_on 1 9000)
  two=$(place_on 2 9000)

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

  flip_byte 1 "$one"
  flip_byte 2 "$two"
  within 60 image_is marked Damaged
  equal "copies that are Ready" 0 "$(image_field marked copies_ready)"
  drop_caches
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

image_is() { [ "$(image_field "$1" state)" = "$2" ]; }
copies_ready() { [ "$(image_field "$1" copies_ready)" = "$2" ]; }

# place_on N LINE: where the block with that line lies on disk N.
place_on() {
  local at
  at=$(dd if="$(disk "$1")" bs=4096 skip=$((CLUSTERS_FROM / 4096)) count=16384 2>/dev/null | strings -t d -n 30 | awk "/MARK-OF-THE-GOLDEN-IMAGE line $2\$/ {print \$1; exit}")
  [ -n "$at" ] || fail "cannot find the image's data on disk $1"
  echo $((CLUSTERS_FROM + at))
}
is_repaired() { [ "$(dd if="$(disk "$1")" bs=1 skip="$2" count=4 2>/dev/null)" = MARK ]; }
