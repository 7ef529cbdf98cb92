# shellcheck shell=dash disable=SC2034,SC2153
# The disk of an attached volume is a device mapper device, as LVM and dm-crypt make them. What is below it is unplugged: the mapped device is
# there still, and answers with errors, and yet the writer waits. Plugged in and mapped under another name it goes on, or mapped anew
# in its place, while no daemon runs; without an error or a wrong sector. Mapped anew in its place under a daemon that runs, and without what
# its cache may have lost: that daemon tells it nothing more, and the next one holds the volume.
GUESTS="quick"
DISKS="256 16"
TOOLS=
LIMIT_S=400
LAB_LOOK_EVERYWHERE=false

SIZE=16777216
IMAGE=seed:72:$SIZE:6291456

# settings KEEPS
settings() {
  MORE_SETTINGS="[health]
interval_ms = 500
own_disk_wait_ms = 240000
returned_disk_keeps_cache = $1"
}

boot_1() {
  settings true
  daemon_start
  plain_disk held "$(disk 1)"
  must bedplate disk format /dev/mapper/held
  make_image "$LAB_TMP/image" 72 $SIZE 6291456
  must bedplate image import golden "$LAB_TMP/image"
  rm "$LAB_TMP/image"
  uuid=$(bedplate -o json disk show /dev/mapper/held | json_field uuid)
  new_clone vm golden
  vm=$DEVICE
  writer_start w "$vm" "$LAB_TMP/notes" --fresh --tag 1 --base $IMAGE --threads 4
  writer_goes_on w

  away w
  plain_disk other "$(disk 1)"
  must bedplate disk add /dev/mapper/other
  back
  unmap_disk held
  note "mapped under another name, and added: back"

  # The daemon has it open, and ends while it is gone: what answers again under it is no disk that it knows.
  away w
  daemon_stop
  map_anew
  daemon_start
  back
  note "mapped anew in its place, while no daemon ran: back"
  writer_stop w
  writer_check "after the returns" "$vm" "$LAB_TMP/notes" --base $IMAGE --settle
  kill_and_start
  volume_back_on vm "$vm"
  writer_check "and after a kill" "$vm" "$LAB_TMP/notes" --base $IMAGE --exact

  # Nothing is asked of it while it is away, so that no error tells of that. An overwrite that no flush covers leaves no record, either.
  settings false
  daemon_restart
  volume_back_on vm "$vm"
  must dd if=/dev/zero of="$vm" bs=4096 count=4 seek=64 oflag=direct conv=fsync,notrunc
  must dd if=/dev/zero of="$vm" bs=4096 count=1 seek=64 oflag=direct conv=notrunc
  away
  map_anew
  # As long as a commit that nobody asks for takes to be due.
  sleep 7
  disk_is "$uuid" Offline || fail "a disk that may have lost its cache is taken for the one that it was"
  daemon_restart
  within 60 volume_is vm Held
  bedplate volume show vm | sed 's/^/  /'
  must_fail 1 'may be missing' bedplate volume attach vm
  attach_volume vm --accept-loss
  equal "the device" "$vm" "$DEVICE"
  note "mapped anew under a daemon: held by the next one, until the loss was accepted"
  must bedplate image verify golden
  must bedplate volume detach vm
  daemon_stop
}

# As `lvchange --refresh` does it.
map_anew() {
  must dmsetup load other --table "$(linear_table "$(disk 1)")"
  must dmsetup suspend --nolockfs --noflush other
  must dmsetup resume other
}

# away [WRITER]: unplugged, noticed, and plugged in.
away() {
  unplug 1
  within 20 disk_is "$uuid" Offline
  within 20 volume_is vm Recovering
  [ -z "${1:-}" ] || writer_no_fault "$1"
  plug_in
  within 20 find_disk 1 >/dev/null
}

back() {
  within 60 disk_is "$uuid" Online
  within 60 volume_ready vm "$vm"
  writer_goes_on w
  writer_no_fault w
}
