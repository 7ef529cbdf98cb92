# shellcheck shell=dash disable=SC2034
# Volumes from create to delete: what is served, what clones share and what they do not, discard, growth, several queues.
GUESTS="quick"
DISKS="512"
MODES="auto user-copy"
QUEUES=2

SIZE=16777216
IMAGE=seed:90:$SIZE:6291456

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/golden" 90 $SIZE 6291456
  must bedplate image import golden "$LAB_TMP/golden"
  image=$(image_field golden sha256)
  free=$(disk_field 1 free_bytes)

  new_and_shown
  writes_stay
  discard_gives_space_back
  clones_are_apart
  blank
  grows
  gone
  equal "free space after all volumes are deleted" "$free" "$(disk_field 1 free_bytes)"
  must bedplate image verify golden
  must bedplate image delete golden
  daemon_stop
}

new_and_shown() {
  from=$(uptime_ms)
  must bedplate volume create vm1 --image golden
  note "created in $(($(uptime_ms) - from)) ms"
  equal "size of a clone" $SIZE "$(volume_field vm1 size_bytes)"
  equal "state" Detached "$(volume_field vm1 state)"
  equal "allocated of a new clone" 0 "$(volume_field vm1 allocated_bytes)"
  at_least "shared with the image" 4194304 "$(volume_field vm1 shared_bytes)"
  must bedplate volume list
  sed 's/^/  /' "$LAB_TMP/out"
  attach_volume vm1
  vm1=$DEVICE
  equal "a second attach" "$vm1" "$(bedplate volume attach vm1)"
  equal "state" Ready "$(volume_field vm1 state)"
  equal "size of the device" $SIZE "$(blockdev --getsize64 "$vm1")"
  name=${vm1#/dev/}
  equal "read-only" 0 "$(cat "/sys/block/$name/ro")"
  equal "cache" "write back" "$(cat "/sys/block/$name/queue/write_cache")"
  equal "queues" 2 "$(find "/sys/block/$name/mq" -mindepth 1 -maxdepth 1 -type d | wc -l)"
  case $(cat "/sys/block/$name/queue/scheduler") in *"[none]"* | none) ;; *) fail "scheduler is $(cat "/sys/block/$name/queue/scheduler")" ;; esac
  device_is_right "$vm1" $IMAGE
  must bedplate volume show vm1
  sed 's/^/  /' "$LAB_TMP/out"
}

# Written at random in sizes from a sector up, zeroed, flushed, all of it compared; and the same on the next attach.
writes_stay() {
  must guest-writer write --device "$vm1" --journal "$LAB_TMP/notes-vm1" --log "$LAB_TMP/w.log" --fresh --tag 1 --base $IMAGE --operations 150
  note "vm1: $(tail -n 1 "$LAB_TMP/w.log")"
  at_least "allocated after writes" 1048576 "$(volume_field vm1 allocated_bytes)"
  exec 7<"$vm1"
  must_fail 9 'busy|open|in use' bedplate volume detach vm1
  exec 7<&-
  must bedplate volume detach vm1
  [ ! -e "$vm1" ] || fail "$vm1 is still there after detach"
  must bedplate volume detach vm1
  attach_volume vm1
  equal "device on the next attach" "$vm1" "$DEVICE"
  drop_caches
  writer_check "vm1 attached again" "$vm1" "$LAB_TMP/notes-vm1" --base $IMAGE --exact
  daemon_restart
  volume_back_on vm1 "$vm1"
  writer_check "vm1 after a restart" "$vm1" "$LAB_TMP/notes-vm1" --base $IMAGE --exact
  must bedplate image verify golden
}

discard_gives_space_back() {
  before=$(disk_field 1 free_bytes)
  must blkdiscard "$vm1"
  must sync "$vm1"
  drop_caches
  reads_as_zero "$vm1" || fail "a discarded clone does not read as zeros"
  within 20 nothing_allocated vm1
  within 20 more_free_than "$before"
  # Zeros that keep the space: NOUNMAP.
  must blkdiscard -z -o 0 -l 1048576 "$vm1"
  reads_as_zero "$vm1" || fail "zeroed, and does not read as zeros"
  daemon_kill
  daemon_start
  volume_back_on vm1 "$vm1"
  drop_caches
  reads_as_zero "$vm1" || fail "the base shows through after a kill"
  must bedplate volume detach vm1
  attach_volume vm1
  reads_as_zero "$vm1" || fail "the base shows through after the next attach"
  must bedplate volume detach vm1
}
nothing_allocated() { [ "$(volume_field "$1" allocated_bytes)" = 0 ]; }
more_free_than() { [ "$(disk_field 1 free_bytes)" -gt "$1" ]; }

clones_are_apart() {
  new_clone left golden
  left=$DEVICE
  new_clone right golden
  right=$DEVICE
  writer_start left "$left" "$LAB_TMP/notes-left" --fresh --tag 11 --base $IMAGE --seed 1 --threads 4
  writer_start right "$right" "$LAB_TMP/notes-right" --fresh --tag 12 --base $IMAGE --seed 2 --threads 4
  sleep 5
  writer_stop left
  writer_stop right
  must bedplate image verify golden
  equal "SHA-256 of the image" "$image" "$(image_field golden sha256)"
  new_clone third golden
  device_is_right "$DEVICE" $IMAGE
  equal "SHA-256 of a third clone" "$(sum_of sha256 "$LAB_TMP/golden")" "$(sum_of sha256 "$DEVICE")"
  equal "SHA-512 of a third clone" "$(sum_of sha512 "$LAB_TMP/golden")" "$(sum_of sha512 "$DEVICE")"
  must bedplate volume detach third
}

blank() {
  new_blank empty 8M
  reads_as_zero "$DEVICE" || fail "a blank volume does not read as zeros"
  equal "allocated after reading" 0 "$(volume_field empty allocated_bytes)"
  must guest-writer write --device "$DEVICE" --journal "$LAB_TMP/notes" --log "$LAB_TMP/w.log" --fresh --tag 2 --operations 60
  must bedplate volume detach empty
}

grows() {
  must bedplate volume create large --image golden --size 24M
  attach_volume large
  large=$DEVICE
  equal "size" 25165824 "$(blockdev --getsize64 "$large")"
  reads_as_zero "$large" $SIZE || fail "past the image's end there are no zeros"
  must guest-writer fill --device "$large" --tag 3
  if [ "$LAB_KERNEL" = stable ]; then
    must_fail 7 'UPDATE_SIZE' bedplate volume resize large 32M
    note "$(head -n 1 "$LAB_TMP/out")"
    must bedplate volume detach large
    must bedplate volume resize large 32M
    attach_volume large
  else
    exec 7<"$large"
    must bedplate volume resize large 32M
    exec 7<&-
  fi
  equal "size after growing" 33554432 "$(blockdev --getsize64 "$large")"
  reads_as_zero "$large" 25165824 || fail "what it grew by does not read as zeros"
  must dd if=/dev/urandom of="$large" bs=1M count=1 seek=31 oflag=direct conv=notrunc
  must_fail 1 'short|small|less' bedplate volume resize large 16M
  must bedplate volume detach large
  must bedplate volume resize large +8M
  equal "size after +8M" 41943040 "$(volume_field large size_bytes)"
  attach_volume large
  equal "size after +8M" 41943040 "$(blockdev --getsize64 "$large")"
  kill_and_start
  volume_back_on large "$large"
  equal "size after a kill" 41943040 "$(blockdev --getsize64 "$large")"
  equal "sectors that were written" 49152 "$(sectors_of 3 "$large")"
}

gone() {
  must_fail 9 'attached' bedplate volume delete left
  must_fail 9 'clone' bedplate image delete golden
  for one in left right large; do must bedplate volume detach "$one"; done
  for one in vm1 left right third empty large; do must bedplate volume delete "$one"; done
  must_fail 3 'vm1' bedplate volume show vm1
}
