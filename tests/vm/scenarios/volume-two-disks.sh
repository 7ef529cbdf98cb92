# shellcheck shell=dash disable=SC2034
# Two disks, one of them suspended with writes on it, and kill -9: what holds for the volume on the other disk. The kernel ends a process
# only when all its I/O has ended, so this says how long the other disk's volume waits, and that it loses nothing.
GUESTS="quick"
DISKS="128 128"
QUEUES=1
LAB_LOOK_EVERYWHERE=false
# What was measured, see docs/testing.md; a change of it must be noticed.
OTHER_DISK_WAITS=yes

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  new_blank free 16M
  free=$DEVICE
  plain_disk held "$(disk 2)"
  must bedplate disk format /dev/mapper/held
  # The disk with most free space: the second one by now, or soon.
  new_blank_on_the_second
  writer_start free "$free" "$LAB_TMP/notes-free" --fresh --tag 1 --threads 4
  writer_start stuck "$stuck" "$LAB_TMP/notes-stuck" --fresh --tag 2 --threads 4
  sleep 1
  while_it_serves
  while_it_is_dead
  writer_stop free
  writer_stop stuck
  daemon_stop
}

new_blank_on_the_second() {
  number=0
  while :; do
    number=$((number + 1))
    new_blank "stuck-$number" 16M
    stuck=$DEVICE name=stuck-$number
    [ "$(volume_field "$name" disk_uuid)" = "$(volume_field free disk_uuid)" ] || return 0
    [ "$number" -lt 5 ] || fail "no volume was put on the second disk"
    must guest-writer fill --device "$stuck" --tag 9
  done
}

# A disk that does not answer holds up its own volumes only, as long as the daemon lives.
while_it_serves() {
  must dmsetup suspend --nolockfs --noflush held
  sleep 2
  writer_goes_on free
  note "suspended: the other disk's volume goes on"
  must timeout 60 dmsetup resume held
  writer_goes_on stuck
  note "resumed: its own goes on too"
}

# A ring of the dead process ends only when all its I/O has, and keeps the claims of both disks until then: the next daemon waits for them.
while_it_is_dead() {
  must timeout 60 dmsetup suspend --nolockfs --noflush held
  sleep 1
  note "suspended again; writes in flight: $(cat "$(inflight_of held)")"
  kill -9 "$(daemon_pid)"
  from=$(uptime_ms)
  waits=yes
  count=0
  while [ "$count" -lt 10 ]; do
    count=$((count + 1))
    if next_daemon_answers && volume_ready free "$free"; then
      waits=no
      break
    fi
    sleep 1
  done
  note "kill -9 with a suspended disk: the other disk's volume waits for it: $waits ($(($(uptime_ms) - from)) ms); $(tail -n 1 "$LAB_TMP/bedplated.log")"
  writer_no_fault free
  must timeout 60 dmsetup resume held
  from=$(uptime_ms)
  within 60 next_daemon_answers
  volume_back_on free "$free" 60
  volume_back_on "$name" "$stuck" 60
  note "both are back $(($(uptime_ms) - from)) ms after the disk"
  writer_goes_on free
  writer_goes_on stuck
  equal "the other disk's volume waits" $OTHER_DISK_WAITS $waits
}

# Started again and again, as systemd does.
next_daemon_answers() {
  if ! kill -0 "$NEXT_PID" 2>/dev/null; then
    bedplated --config "$LAB_TMP/bedplated.toml" >>"$LAB_TMP/bedplated.log" 2>&1 &
    NEXT_PID=$!
    echo "$NEXT_PID" >"$LAB_TMP/bedplated.pid"
  fi
  timeout 5 bedplate status >/dev/null 2>&1 && kill -0 "$NEXT_PID" 2>/dev/null
}
NEXT_PID=none
