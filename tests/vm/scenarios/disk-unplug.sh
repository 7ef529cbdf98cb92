# shellcheck shell=dash disable=SC2034,SC2153
# A disk is unplugged while an image on it is served, and plugged in again, under another name: found by its superblock, opened, and the
# device reads on, with the daemon that was there all the time. Under an attached volume it is not opened: what it lost is not known.
GUESTS="quick"
DISKS="256 128"

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/golden.raw" 6 8388608 6291456
  must bedplate image import golden "$LAB_TMP/golden.raw"
  device=$(bedplate image attach golden)
  pid=$(daemon_pid)
  uuid=$(disk_field 1 uuid)
  before=$(disk 1)

  round=0
  while [ "$round" -lt 2 ]; do
    round=$((round + 1))
    from=$(uptime_ms)
    unplug 1
    within 20 disk_is Offline
    note "unplugged: Offline after $(($(uptime_ms) - from)) ms: $(bedplate -o json disk show "$uuid" | json_field why)"
    image_is golden Unknown || fail "its image is $(image_field golden state)"
    drop_caches
    ! dd if="$device" of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null || fail "a disk that is gone was read"
    from=$(uptime_ms)
    echo 1 >/sys/bus/pci/rescan
    within 40 disk_is Online
    note "plugged in: Online after $(($(uptime_ms) - from)) ms, as $(disk 1); before as $before"
    within 10 image_is golden Ready
    drop_caches
    device_is_right "$device" "$LAB_TMP/golden.raw"
    before=$(disk 1)
  done
  equal "the daemon" "$pid" "$(daemon_pid)"
  must bedplate image verify golden
  bedplate disk show "$uuid" | sed 's/^/  /'

  must bedplate volume create vm --image golden
  volume=$(bedplate volume attach vm)
  unplug 1
  within 20 disk_is Offline
  echo 1 >/sys/bus/pci/rescan
  within 40 says_why
  ! disk_is Online || fail "a disk was opened under a volume that is attached"
  bedplate status | sed 's/^/  /'
  # What it wrote last cannot be made durable any more, and detach says so; the device is gone all the same.
  must_fail 1 'flush failed|committing' bedplate volume detach vm
  [ ! -e "$volume" ] || fail "$volume is still there"
  within 40 disk_is Online
  within 10 image_is golden Ready
  drop_caches
  device_is_right "$device" "$LAB_TMP/golden.raw"
  volume_is vm Held || fail "a volume that may have lost writes is $(volume_field vm state)"
  attach_volume vm --accept-loss
  must dd if="$DEVICE" of=/dev/null bs=1M count=4 iflag=direct
  note "under an attached volume: opened once that was detached; the volume held until its loss was accepted"
  daemon_stop
}

disk_is() { [ "$(bedplate -o json disk show "$uuid" | json_field state)" = "$1" ]; }
says_why() { bedplate status | grep -q 'was unplugged while its volume'; }
