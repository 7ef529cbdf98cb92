# shellcheck shell=dash disable=SC2034,SC2153
# systemd restarts the daemon, ends it, and ends it because it hangs: the reader of an image and
# the writer of its clone keep their open files and meet pauses only.
GUESTS="node"
DISKS="512"

IMAGE=seed:40:33554432:12582912
# `make soak`: 20.
RESTARTS=${LAB_ROUNDS:-5}

boot_1() {
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 40 33554432 12582912
  must bedplate image import kept "$LAB_TMP/image"
  rm "$LAB_TMP/image"
  device=$(bedplate image attach kept)
  within 10 link_is_there
  reader_start steady "$device" "$IMAGE"
  new_clone vm kept
  vm=$DEVICE
  writer_start vm "$vm" "$LAB_TMP/notes" --fresh --tag 1 --base "$IMAGE" --threads 1
  restarts
  ends_by_sigterm
  hangs
  reader_stop steady
  writer_stop vm
  device_is_right "$device" "$IMAGE"
  [ "$(systemctl is-active bedplate-devices.service)" = active ] || fail "bedplate-devices.service was stopped by a restart"
}

link_is_there() { [ "$(readlink -f /dev/disk/by-id/bedplate-kept)" = "$device" ]; }

restarts() {
  number=0
  while [ "$number" -lt "$RESTARTS" ]; do
    number=$((number + 1))
    from=$(uptime_ms)
    daemon_restart
    back_on kept "$device"
    volume_back_on vm "$vm"
    writer_no_fault vm
    note "restart $number: back after $(($(uptime_ms) - from)) ms"
    reader_goes_on steady 20
    writer_goes_on vm
  done
}

# The device stays, and a request that comes now waits.
ends_by_sigterm() {
  must systemctl stop bedplated.service
  [ -b "$device" ] || fail "$device went away with the daemon"
  guest-reader read --once --device "$device" --expect "$IMAGE" --log "$LAB_TMP/waiting.log" >/dev/null 2>&1 &
  waiting=$!
  sleep 2
  kill -0 "$waiting" 2>/dev/null || fail "a read ended although no daemon runs"
  must systemctl start bedplated.service
  wait "$waiting" || fail "the read that waited failed: $(cat "$LAB_TMP/waiting.log")"
  back_on kept "$device"
  volume_back_on vm "$vm"
  writer_goes_on vm
  note "stop: the device stayed, a read waited and came back right"
}

hangs() {
  was=$(daemon_pid)
  from=$(uptime_ms)
  kill -STOP "$was"
  within 60 is_another_daemon
  within 30 daemon_answers
  back_on kept "$device"
  reader_goes_on steady 20
  volume_back_on vm "$vm"
  writer_goes_on vm
  note "hung daemon: ended by the watchdog, back after $(($(uptime_ms) - from)) ms"
}
is_another_daemon() {
  pid=$(daemon_pid)
  [ "$pid" != 0 ] && [ "$pid" != "$was" ]
}
