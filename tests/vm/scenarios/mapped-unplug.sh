# shellcheck shell=dash disable=SC2034,SC2153
# The disk of an attached volume is a device mapper device, as LVM and dm-crypt make them. What is below it is unplugged: the mapped device is
# there still, and answers with errors, and yet the writer waits. Plugged in and mapped anew: it goes on, without an error or a wrong sector.
GUESTS="quick"
DISKS="256 16"
TOOLS=
LIMIT_S=400
LAB_LOOK_EVERYWHERE=false
MORE_SETTINGS='[health]
interval_ms = 500
own_disk_wait_ms = 240000
returned_disk_keeps_cache = true'

SIZE=16777216
IMAGE=seed:72:$SIZE:6291456

boot_1() {
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

  for round in 1 2; do
    unplug 1
    within 20 disk_is Offline
    within 20 volume_is vm Recovering
    dmsetup info held >/dev/null || fail "the mapped device is gone too: nothing is shown"
    writer_no_fault w
    echo 1 >/sys/bus/pci/rescan
    within 20 find_disk 1 >/dev/null
    unmap_disk held
    plain_disk held "$(disk 1)"
    within 60 disk_is Online
    within 60 volume_ready vm "$vm"
    writer_goes_on w
    writer_no_fault w
    note "round $round: back"
  done
  writer_stop w
  writer_check "after the returns" "$vm" "$LAB_TMP/notes" --base $IMAGE --settle
  kill_and_start
  volume_back_on vm "$vm"
  writer_check "and after a kill" "$vm" "$LAB_TMP/notes" --base $IMAGE --exact
  must bedplate image verify golden
  must bedplate volume detach vm
  daemon_stop
}

disk_is() { [ "$(bedplate -o json disk show "$uuid" | json_field state)" = "$1" ]; }
