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

while_it_is_dead() {
  must timeout 60 dmsetup suspend --nolockfs --noflush held
  sleep 1
  note "suspended again; writes in flight: $(cat "$(inflight_of held)")"
  pid=$(daemon_pid)
  kill -9 "$pid"
  from=$(uptime_ms)
  daemon_start
  note "the next daemon answers after $(($(uptime_ms) - from)) ms"
  waits=no
  count=0
  until volume_ready free "$free"; do
    count=$((count + 1))
    [ "$count" -lt 40 ] || {
      waits=yes
      break
    }
    sleep 0.5
  done
  note "kill -9 with a suspended disk: the other disk's volume waits for it: $waits ($(($(uptime_ms) - from)) ms), daemon says: $(bedplate -o json volume show free | json_field why)"
  must timeout 60 bedplate status
  writer_no_fault free
  must timeout 60 dmsetup resume held
  note "resumed $(($(uptime_ms) - from)) ms after the kill"
  volume_back_on free "$free" 60
  volume_back_on "$name" "$stuck" 60
  note "both are back $(($(uptime_ms) - from)) ms after the kill"
  writer_goes_on free
  writer_goes_on stuck
  equal "the other disk's volume waits" $OTHER_DISK_WAITS $waits
}
