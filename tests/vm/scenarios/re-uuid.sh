# shellcheck shell=dash disable=SC2034,SC2153
# A disk that was copied with dd, beside its original: refused, then a disk of its own; of two volumes with one name one is attached at a time.
GUESTS="quick"
DISKS="256 256"

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_marked_file "$LAB_TMP/marked" 30000
  must bedplate image import marked "$LAB_TMP/marked"
  new_clone vm marked --size 16M
  device=$DEVICE
  original=$(volume_field vm uuid)
  must dd if="$LAB_TMP/marked" of="$device" bs=4096 count=1 seek=3 oflag=direct
  sync
  must bedplate volume detach vm
  daemon_stop
  must dd if="$(disk 1)" of="$(disk 2)" bs=1M oflag=direct
  daemon_start
  must_fail 1 'disk re-uuid' bedplate disk add "$(disk 2)"
  must bedplate disk re-uuid "$(disk 2)"
  within 30 is_online 1
  equal "state of the copy" Online "$(disk_field 2 state)"
  [ "$(disk_field 1 uuid)" != "$(disk_field 2 uuid)" ] || fail "one UUID still"

  copy=$(bedplate -o json volume list | tr ',{}[]' '\n' | sed -n 's/^ *"uuid": *"\(.*\)".*/\1/p' | grep -v "$original" | while read -r uuid; do bedplate volume show "$uuid" >/dev/null 2>&1 && echo "$uuid"; done | head -n 1)
  [ -n "$copy" ] || fail "the copy's volume is not there"
  must_fail 1 'UUID' bedplate volume attach vm
  must bedplate volume attach "$original"
  must_fail 4 'by-id/bedplate-vm' bedplate volume attach "$copy"
  must bedplate volume detach "$original"
  attach_volume "$copy"
  must dd if="$DEVICE" of="$LAB_TMP/block" bs=4096 skip=3 count=1 iflag=direct
  dd if="$LAB_TMP/marked" bs=4096 count=1 2>/dev/null | cmp -s - "$LAB_TMP/block" || fail "the copy does not have what was written to the original"
  must bedplate volume detach "$copy"
  must bedplate volume delete "$copy"
  must bedplate volume attach vm
  equal "the volume that is left" "$original" "$(volume_field vm uuid)"
  within 30 copies_ready marked 1
  must bedplate image verify marked
  daemon_stop
}

is_online() { [ "$(disk_field "$1" state)" = Online ]; }
