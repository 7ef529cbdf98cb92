# shellcheck shell=dash disable=SC2034
# The checkers of volumes themselves, on plain disks: they go green on a disk that is right, and red on each kind of fault.
GUESTS="quick"
DISKS="64 64 128"
TOOLS=fio
RUN_KERNELS="backports"

boot_1() {
  tools_are_there
  fio_bites
  writer_bites
  slow_disks_are_slow
  log_is_replayed
}

tools_are_there() {
  for tool in "fio --version" "mkfs.xfs -V" "xfs_repair -V" "mke2fs -V" "e2fsck -V" "dmsetup --version" "blkdiscard --version" "fallocate --version"; do
    # shellcheck disable=SC2086
    must $tool
  done
  for module in dm-mod dm-delay dm-flakey dm-log-writes; do must modprobe "$module"; done
}

fio_bites() {
  disk1=$(disk 1)
  FIO_BYTES=16777216
  from=$(uptime_ms)
  fio_job mixed "$disk1" 1
  fio_once mixed || fio_fault mixed
  note "fio: a pass over 16 MiB took $(($(uptime_ms) - from)) ms"
  fio_write self "$disk1"
  fio_verify self
  # What its last write left is spoiled: one byte of data.
  flip_byte 1 $((8 * 1048576 + 4096 + 777))
  ! fio_once self --verify_only=1 || fail "fio verifies a spoiled disk as right"
  # An I/O error.
  map_disk broken "0 32768 error"
  fio_job self /dev/mapper/broken 1
  ! fio_once self || fail "fio calls a disk right that fails each request"
  unmap_disk broken
  note "fio: red on a spoiled byte and on I/O errors"
}

writer_bites() {
  # Journal on a disk, and a device with a base.
  base=seed:3:33554432:8388608
  make_image "$LAB_TMP/base" 3 33554432 8388608
  must dd if="$LAB_TMP/base" of="$disk1" bs=1M oflag=direct
  writer_start self "$disk1" "$(disk 2)" --fresh --tag 5 --base $base --bytes 33554432
  sleep 4
  writer_stop self
  writer_check "after the end" "$disk1" "$(disk 2)" --base $base --exact
  writer_start self "$disk1" "$(disk 2)" --base $base
  sleep 2
  writer_no_fault self
  kill -9 "$(cat "$LAB_TMP/writer-self.pid")"
  wait "$(cat "$LAB_TMP/writer-self.pid")" 2>/dev/null || true
  writer_check "after its death" "$disk1" "$(disk 2)" --base $base --settle
  writer_check "settled" "$disk1" "$(disk 2)" --base $base --exact

  # A whole range goes back to the base, another one gets another object's sectors.
  must dd if="$LAB_TMP/base" of="$disk1" bs=1M count=1 skip=4 seek=4 oflag=direct conv=notrunc
  must_fail 1 'lost=[1-9]' guest-writer check --device "$disk1" --journal "$(disk 2)" --base $base
  must guest-writer fill --device "$disk1" --tag 6 --bytes 65536
  must_fail 1 'foreign=[1-9]' guest-writer check --device "$disk1" --journal "$(disk 2)" --base $base
  equal "sectors of object 6" 128 "$(sectors_of 6 "$disk1")"
  must dd if=/dev/urandom of="$disk1" bs=1M count=1 seek=5 oflag=direct conv=notrunc
  must_fail 1 'garbage=[1-9]' guest-writer check --device "$disk1" --journal "$(disk 2)" --base $base
  note "writer: red on lost, foreign and spoiled sectors"
}

slow_disks_are_slow() {
  slow_disk slow "$disk1" 500
  from=$(uptime_ms)
  must dd if=/dev/zero of=/dev/mapper/slow bs=4096 count=4 oflag=direct conv=notrunc
  took=$(($(uptime_ms) - from))
  at_least "ms for four writes of 500" 2000 "$took"
  slow_disk_becomes slow "$disk1" 0
  from=$(uptime_ms)
  must dd if=/dev/zero of=/dev/mapper/slow bs=4096 count=4 oflag=direct conv=notrunc
  note "slow disk: four writes took $took ms, and $(($(uptime_ms) - from)) ms when it was no longer slow"
  unmap_disk slow
}

# The log says at each flush what a power cut would leave. Without FUA writes: the kernel logs those at once, so that an older write to the
# same place, which was still unflushed, comes after it in the log.
log_is_replayed() {
  must dd if=/dev/zero of="$disk1" bs=1M count=16 oflag=direct
  logged_disk logged "$disk1" "$(disk 3)"
  for round in 1 2; do
    fresh=$([ $round != 1 ] || echo --fresh)
    # shellcheck disable=SC2086
    must guest-writer write --device /dev/mapper/logged --journal "$LAB_TMP/notes" --log "$LAB_TMP/logged.log" $fresh --bytes 8388608 --threads 4 --operations 25 --no-fua
    log_mark logged "round-$round"
    cp "$LAB_TMP/notes" "$LAB_TMP/notes-$round"
  done
  unmap_disk logged
  log-replay points "$(disk 3)" --every 3 >"$LAB_TMP/points"
  note "log: $(grep -c flush "$LAB_TMP/points") flushes, $(grep -c round "$LAB_TMP/points") marks"
  at_least "flushes in the log" 5 "$(grep -c flush "$LAB_TMP/points")"
  truncate -s 64M "$LAB_TMP/replayed"
  done_to=0 round=1 floor=--floor-only
  while read -r entries what; do
    must log-replay to "$(disk 3)" "$LAB_TMP/replayed" --from "$done_to" "$entries"
    done_to=$entries
    case $what in
      round-*)
        writer_check "$what" "$LAB_TMP/replayed" "$LAB_TMP/notes-$round" --exact
        round=$((round + 1))
        ;;
      flush) [ -e "$LAB_TMP/notes-$round" ] && must guest-writer check --device "$LAB_TMP/replayed" --journal "$LAB_TMP/notes-$round" $floor ;;
    esac
  done <"$LAB_TMP/points"
  # The state at the first round's end is not the second's.
  truncate -s 0 "$LAB_TMP/replayed" && truncate -s 64M "$LAB_TMP/replayed"
  must log-replay to "$(disk 3)" "$LAB_TMP/replayed" "$(sed -n 's/ round-1$//p' "$LAB_TMP/points")"
  must_fail 1 'lost=[1-9]' guest-writer check --device "$LAB_TMP/replayed" --journal "$LAB_TMP/notes-2"
}
