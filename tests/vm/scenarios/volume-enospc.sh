# shellcheck shell=dash disable=SC2034
# A full disk: first touches get ENOSPC and nothing else does; nothing is corrupted; with space freed all works again; 80 and 95 % are told.
GUESTS="quick"
DISKS="192"
RUN_KERNELS="backports"
QUEUES=2

SIZE=8388608
IMAGE=seed:98:$SIZE:4194304

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 98 $SIZE 4194304
  must bedplate image import golden "$LAB_TMP/image"
  new_clone other golden
  other=$DEVICE
  must guest-writer write --device "$other" --journal "$LAB_TMP/notes-other" --log "$LAB_TMP/w.log" --fresh --tag 1 --base $IMAGE --operations 60
  new_clone big golden --size 1G
  big=$DEVICE
  total=$(disk_field 1 free_bytes)

  thresholds
  full
  space_again
  must bedplate image verify golden
  daemon_stop
}

# fill_to PERCENT of what was free.
# shellcheck disable=SC2017
fill_to() { must guest-writer fill --device "$big" --tag 2 --bytes $((total * $1 / 51200 * 512)); }
status_says() { bedplate status | grep -q "$1"; }

thresholds() {
  ! status_says '80 %' || fail "status warns of a disk that is nearly empty"
  fill_to 85
  within 20 status_says '80 %'
  note "$(bedplate status | grep '80 %')"
  fill_to 98
  within 20 status_says '95 %'
  note "$(bedplate status | grep '95 %')"
  grep -q '95 %' "$LAB_TMP/bedplated.log" || fail "the log does not say that the disk is nearly full"
}

full() {
  must guest-writer fill --device "$big" --tag 2
  note "full: $(cat "$LAB_TMP/out")"
  grep -q no_space=1 "$LAB_TMP/out" || fail "a volume of 1 GiB was filled on a disk of 192 MiB"
  written=$(sed 's/^bytes=\([0-9]*\).*/\1/' "$LAB_TMP/out")
  must_fail 1 'space' dd if=/dev/zero of="$big" bs=128k count=1 seek=4000 oflag=direct conv=notrunc
  # What is there already: overwrites, reads and flushes.
  must guest-writer fill --device "$big" --tag 3 --bytes 1048576
  drop_caches
  equal "sectors that were written again" 2048 "$(sectors_of 3 "$big")"
  at_least "sectors that were written before" $((written / 512 - 2048)) "$(sectors_of 2 "$big")"
  reads_as_zero "$big" 805306368 1048576 || fail "what was never written does not read as zeros"
  writer_check "the other volume on a full disk" "$other" "$LAB_TMP/notes-other" --base $IMAGE --exact
  # Writers meet ENOSPC, or not, and each sector is as it was or new; through a kill, too.
  writer_start o "$other" "$LAB_TMP/notes-other" --base $IMAGE --no-space-is-fine
  sleep 3
  kill_in_flight "$other"
  daemon_start
  volume_back_on other "$other"
  volume_back_on big "$big"
  writer_goes_on o
  writer_stop o
  equal "sectors that were written again" 2048 "$(sectors_of 3 "$big")"
  must bedplate volume show big
}

space_again() {
  must blkdiscard -o 0 -l 33554432 "$big"
  must sync "$big"
  must guest-writer fill --device "$other" --tag 4
  equal "sectors of the other volume" $((SIZE / 512)) "$(sectors_of 4 "$other")"
  reads_as_zero "$big" 0 33554432 || fail "a discarded range does not read as zeros"
  must bedplate volume detach big
  must bedplate volume delete big
  within 20 no_warning
  new_blank fresh 64M
  must guest-writer fill --device "$DEVICE" --tag 5
  grep -q no_space=0 "$LAB_TMP/out" || fail "no space, although a large volume was deleted"
  equal "sectors of the other volume" $((SIZE / 512)) "$(sectors_of 4 "$other")"
}
no_warning() { ! status_says '95 %' && ! status_says '80 %'; }
