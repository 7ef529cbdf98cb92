# shellcheck shell=dash disable=SC2034
# Writes of a dead daemon never land late: its disk takes half a second for each write; it is killed with writes in flight, the next
# one writes the same blocks, and the new data stays. LAB_ROUNDS: how many (`make soak`: 20).
GUESTS="quick"
DISKS="256"
MODES="auto user-copy"
QUEUES=2
ROUNDS=${LAB_ROUNDS:-4}
LIMIT_S=$((150 + ROUNDS * 30))
# The disk is known by its mapped device, not by the one below it too.
LAB_LOOK_EVERYWHERE=false

# So small that each block is soon written again.
SIZE=1048576
IMAGE=seed:95:$SIZE:524288

boot_1() {
  slow_disk slow "$(disk 1)" 0
  daemon_start
  must bedplate disk format /dev/mapper/slow
  make_image "$LAB_TMP/image" 95 $SIZE 524288
  must bedplate image import golden "$LAB_TMP/image"
  new_clone vm golden
  vm=$DEVICE
  slow_disk_becomes slow "$(disk 1)" 500
  fresh=--fresh
  round=0
  while [ "$round" -lt "$ROUNDS" ]; do
    round=$((round + 1))
    one_round
    fresh=
  done
  slow_disk_becomes slow "$(disk 1)" 0
  must bedplate image verify golden
  must bedplate volume detach vm
  daemon_stop
}

one_round() {
  # shellcheck disable=SC2086
  writer_start w "$vm" "$LAB_TMP/notes" $fresh --tag 1 --base $IMAGE --threads 12 --seed "$round" --no-flushes
  sleep 1.$((round % 10))
  from=$(uptime_ms)
  kill_with_writes slow 3
  daemon_start
  volume_back_on vm "$vm" 60
  took=$(($(uptime_ms) - from))
  writer_goes_on w 30
  # It has read and compared while it went on; what is in flight now ends, all is read once more, and again when nothing can be left.
  writer_stop w
  sleep 2
  drop_caches
  writer_check "round $round: $IN_FLIGHT writes in flight at the kill, back after $took ms" "$vm" "$LAB_TMP/notes" --base $IMAGE --exact
}

# kill_with_writes NAME COUNT: at a moment when the mapped disk NAME has so many writes in flight. Sets IN_FLIGHT.
kill_with_writes() {
  pid=$(daemon_pid)
  file=$(inflight_of "$1")
  IN_FLIGHT=0
  while [ "$IN_FLIGHT" -lt "$2" ]; do
    read -r _ IN_FLIGHT <"$file"
  done
  kill -9 "$pid"
  wait "$pid" 2>/dev/null || true
}
