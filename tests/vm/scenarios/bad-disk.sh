# shellcheck shell=dash disable=SC2034,SC2153
# Disks that carry something else, that are there twice, or that rotted: refused with a reason, repaired, or found.
GUESTS="quick"
DISKS="256 256"

# docs/on-disk-format.md, for a disk of 256 MiB.
SUPERBLOCKS="4096 65536 131072 268304384"
SLOT_0_A=1048576
SLOT_0_B=1052672

boot_1() {
  foreign_signatures
  daemon_start
  must bedplate disk format "$(disk 1)"
  must_fail 9 'in use' bedplate disk format "$(disk 1)" --offline --force
  import_marked_image
  flipped_data
  flipped_metadata
  lost_superblocks
  twice_the_same
  daemon_stop
}

foreign_signatures() {
  must modprobe raid1
  for maker in "mke2fs -q -F -t ext4" "mkswap -q" "pvcreate -qq -ff -y" gpt mbr raid; do
    must dd if=/dev/zero of="$(disk 2)" bs=1M count=4 conv=fsync
    # shellcheck disable=SC2086
    case $maker in
      gpt) printf 'label: gpt\n' | must sfdisk -q "$(disk 2)" ;;
      mbr) printf 'label: dos\n' | must sfdisk -q "$(disk 2)" ;;
      raid) yes | must mdadm --create /dev/md0 --quiet --run --level=1 --metadata=1.2 --raid-devices=2 "$(disk 2)" missing ;;
      *) must $maker "$(disk 2)" ;;
    esac
    [ "$maker" != raid ] || mdadm --stop /dev/md0 >/dev/null 2>&1 || true
    before=$(dd if="$(disk 2)" bs=1M count=4 2>/dev/null | sha256sum)
    must_fail 1 'carries|signature|--force' bedplate disk format --offline "$(disk 2)"
    note "$maker: $(head -n 1 "$LAB_TMP/out")"
    equal "the disk after the refusal" "$before" "$(dd if="$(disk 2)" bs=1M count=4 2>/dev/null | sha256sum)"
  done
  must bedplate disk format --offline --force "$(disk 2)"
  must dd if=/dev/zero of="$(disk 2)" bs=1M count=256 conv=fsync
}

# Its data can be found on the disk by their text.
import_marked_image() {
  make_marked_file "$LAB_TMP/marked" 3000
  must bedplate image import marked "$LAB_TMP/marked"
  must bedplate image verify marked
}

flipped_data() {
  place_of_mark 1 1
  place=$PLACE
  flip_byte 1 "$place"
  must_fail 6 "marked" bedplate image verify marked
  sed 's/^/  /' "$LAB_TMP/out"
  grep -q "$((place / 4096 * 4096))" "$LAB_TMP/out" || fail "verify does not name the offset $((place / 4096 * 4096)) on the disk"
  flip_byte 1 "$place"
  must bedplate image verify marked
  within 10 image_is marked Ready
}

flipped_metadata() {
  # One copy of the slot: the other one holds, and the first is repaired.
  daemon_stop
  must_fail 1 'bedplate' bedplate disk format "$(disk 1)" --offline
  flip_byte 1 $((SLOT_0_A + 300))
  daemon_start
  within 20 image_is marked Ready
  must_fail 0 '^repaired' bedplate disk show "$(disk 1)"
  note "$(grep ^repaired "$LAB_TMP/out")"
  daemon_stop
  # Both copies: what it was is not known, so it is never served as good.
  dd if="$(disk 1)" of="$LAB_TMP/slot" bs=4096 skip=$((SLOT_0_A / 4096)) count=2 2>/dev/null
  flip_byte 1 $((SLOT_0_A + 300))
  flip_byte 1 $((SLOT_0_B + 300))
  daemon_start
  sleep 2
  ! image_is marked Ready || fail "an image is Ready although both copies of its slot are bad"
  bedplate status | sed 's/^/  /'
  daemon_stop
  must dd if="$LAB_TMP/slot" of="$(disk 1)" bs=4096 seek=$((SLOT_0_A / 4096)) conv=notrunc,fsync
  daemon_start
  within 20 image_is marked Ready
  must bedplate image verify marked
  note "metadata: one copy repaired, both copies refused"
}

lost_superblocks() {
  for offset in $SUPERBLOCKS; do
    daemon_stop
    zero_block 1 "$offset"
    daemon_start
    within 20 image_is marked Ready
    equal "superblock at $offset after the repair" 1 "$(dd if="$(disk 1)" bs=4096 skip=$((offset / 4096)) count=1 2>/dev/null | grep -c BPSUPER)"
  done
  daemon_stop
  dd if="$(disk 1)" of="$LAB_TMP/superblock" bs=4096 skip=1 count=1 2>/dev/null
  for offset in 4096 65536 131072; do zero_block 1 "$offset"; done
  daemon_start
  sleep 2
  ! disk_is "$(disk 1)" Online || fail "a disk with one superblock copy is online"
  bedplate status >"$LAB_TMP/out" 2>&1
  sed 's/^/  /' "$LAB_TMP/out"
  grep -qi 'superblock' "$LAB_TMP/out" || fail "status does not say that superblock copies are lost"
  daemon_stop
  [ "$(dd if="$(disk 1)" bs=4096 skip=1 count=1 2>/dev/null | tr -d '\000' | wc -c)" = 0 ] || fail "the refused disk was written to"
  must bedplate disk format --offline --force "$(disk 1)"
  daemon_start
  within 20 disk_is "$(disk 1)" Online
  must bedplate image import marked "$LAB_TMP/marked"
  note "superblock: each copy repaired, three lost refused"
}

twice_the_same() {
  daemon_stop
  must dd if="$(disk 1)" of="$(disk 2)" bs=1M conv=sparse,fsync
  daemon_start
  sleep 2
  ! disk_is "$(disk 1)" Online || fail "one of two disks with the same UUID is online"
  must_fail 0 'duplicate|same' bedplate status
  unplug 2
  within 20 image_is marked Ready
  note "two disks with one UUID: both refused; Ready once one was gone"
}
