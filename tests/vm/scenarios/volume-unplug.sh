# shellcheck shell=dash disable=SC2034
# The disk of an attached volume is unplugged under a writer, and plugged in again under another name: no error, no wrong sector, over kill -9
# and an orderly end of the daemon too. When the time is over: EIO, and after the return the same device serves. What was acknowledged and not
# flushed counts as lost unless the disk keeps its cache: then the volume is held, and says so.
GUESTS="quick"
DISKS="256 16"
MODES="auto user-copy"
LIMIT_S=900

SIZE=16777216
IMAGE=seed:71:$SIZE:6291456

# settings WAIT_MS KEEPS
settings() {
  MORE_SETTINGS="[health]
interval_ms = 500
own_disk_wait_ms = $1
returned_disk_keeps_cache = $2"
}

boot_1() {
  settings 240000 true
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 71 $SIZE 6291456
  must bedplate image import golden "$LAB_TMP/image"
  rm "$LAB_TMP/image"
  uuid=$(disk_field 1 uuid)
  new_clone vm golden
  vm=$DEVICE
  pid=$(daemon_pid)
  writer_start w "$vm" "$LAB_TMP/notes" --fresh --tag 1 --base $IMAGE --threads 4
  writer_goes_on w

  # 1. Away for a while, with the daemon that is there: nobody notices but by the time.
  for round in 1 2; do
    away
    plug
    within 60 volume_ready vm "$vm"
    writer_goes_on w
    writer_no_fault w
    note "round $round: back as $(disk 1)"
  done
  equal "the daemon" "$pid" "$(daemon_pid)"

  # 2. The daemon dies, or ends in order, while the disk is away: what waits is the next one's.
  away
  daemon_kill
  daemon_start
  within 20 waits_for_disk
  plug
  volume_back_on vm "$vm" 60
  writer_goes_on w
  note "killed meanwhile: back"
  away
  daemon_restart
  within 20 waits_for_disk
  plug
  volume_back_on vm "$vm" 60
  writer_goes_on w
  note "restarted meanwhile: back"
  writer_no_fault w
  writer_stop w
  writer_check "after the returns" "$vm" "$LAB_TMP/notes" --base $IMAGE --settle
  kill_and_start
  volume_back_on vm "$vm"
  writer_check "and after a kill" "$vm" "$LAB_TMP/notes" --base $IMAGE --exact

  # 3. A disk with a cache that may be lost, as this one says of itself. All is flushed: it goes on, and requests that came meanwhile with it.
  settings 240000 false
  daemon_restart
  volume_back_on vm "$vm"
  must dd if=/dev/zero of="$vm" bs=4096 count=4 seek=64 oflag=direct conv=fsync,notrunc
  unplug 1
  within 20 disk_is "$uuid" Offline
  dd if=/dev/zero of="$vm" bs=4096 count=4 seek=68 oflag=direct conv=fsync,notrunc 2>"$LAB_TMP/dd.out" &
  dd=$!
  sleep 3
  kill -0 $dd || fail "a write did not wait: $(cat "$LAB_TMP/dd.out")"
  plug
  wait $dd || fail "a write that waited failed: $(cat "$LAB_TMP/dd.out")"
  within 20 volume_ready vm "$vm"
  drop_caches
  cmp -s -n 32768 -i 262144:0 "$vm" /dev/zero || fail "what was written is not there"
  note "all was flushed: went on"

  # An overwrite that no flush covered: held, its requests fail, until its loss is accepted; on the same device.
  must dd if=/dev/zero of="$vm" bs=4096 count=1 seek=64 oflag=direct conv=notrunc
  unplug 1
  within 20 disk_is "$uuid" Offline
  dd if="$vm" of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null &
  dd=$!
  plug
  ! wait $dd || fail "a held volume was read"
  within 60 volume_is vm Held
  bedplate volume show vm | sed 's/^/  /'
  must_fail 1 'may be missing' bedplate volume attach vm
  attach_volume vm --accept-loss
  equal "the device" "$vm" "$DEVICE"
  must dd if=/dev/zero of="$vm" bs=4096 count=4 seek=64 oflag=direct conv=fsync,notrunc
  note "not flushed: held until the loss was accepted"

  # 4. The time is over: EIO, said so; after the return the device serves again, by itself.
  settings 3000 false
  daemon_restart
  volume_back_on vm "$vm"
  from=$(uptime_ms)
  unplug 1
  within 20 disk_is "$uuid" Offline
  ! dd if="$vm" of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null || fail "a disk that is gone was read"
  note "EIO after $(($(uptime_ms) - from)) ms"
  within 10 says_eio
  plug
  within 60 volume_ready vm "$vm"
  must dd if="$vm" of=/dev/null bs=1M iflag=direct
  must dd if=/dev/zero of="$vm" bs=4096 count=4 seek=64 oflag=direct conv=fsync,notrunc
  bedplate volume show vm | sed 's/^/  /'

  # 5. Detached while its disk is away: the device is gone, though the disk cannot be told.
  settings 240000 false
  daemon_restart
  volume_back_on vm "$vm"
  unplug 1
  within 20 disk_is "$uuid" Offline
  must_fail 1 '' bedplate volume detach vm
  [ ! -e "$vm" ] || fail "$vm is still there"
  plug
  within 40 disk_is "$uuid" Online
  bedplate volume show vm | sed 's/^/  /'
  must bedplate image verify golden
  daemon_stop
}

# Unplugged, and noticed: the writer stands still.
away() {
  unplug 1
  within 20 disk_is "$uuid" Offline
  within 20 volume_is vm Recovering
  # What was on its way when the disk went has ended by now.
  sleep 2
  local before
  before=$(writer_field w writes)
  sleep 2
  equal "writes while the disk is away" "$before" "$(writer_field w writes)"
  writer_no_fault w
}

plug() {
  plug_in
  within 60 disk_is "$uuid" Online
}

# What a daemon knows that never saw the disk.
waits_for_disk() { bedplate status | grep -q 'whose disk is not there'; }
says_eio() { bedplate volume show vm | grep -q 'answered with I/O errors'; }
