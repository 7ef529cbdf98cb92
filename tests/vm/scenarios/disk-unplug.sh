# shellcheck shell=dash disable=SC2034,SC2153
# A disk is unplugged while an image on it is served, and plugged in again, under another name: found by its superblock, opened, and the
# device reads on, with the daemon that was there all the time.
GUESTS="quick"
DISKS="256 128"
# A read of what is gone fails after that time.
MORE_SETTINGS='[health]
own_disk_wait_ms = 5000'

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
    within 20 disk_is "$uuid" Offline
    note "unplugged: Offline after $(($(uptime_ms) - from)) ms: $(bedplate -o json disk show "$uuid" | json_field why)"
    image_is golden Unknown || fail "its image is $(image_field golden state)"
    drop_caches
    ! dd if="$device" of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null || fail "a disk that is gone was read"
    from=$(uptime_ms)
    plug_in
    within 40 disk_is "$uuid" Online
    note "plugged in: Online after $(($(uptime_ms) - from)) ms, as $(disk 1); before as $before"
    within 10 image_is golden Ready
    drop_caches
    device_is_right "$device" "$LAB_TMP/golden.raw"
    before=$(disk 1)
  done
  equal "the daemon" "$pid" "$(daemon_pid)"
  must bedplate image verify golden
  bedplate disk show "$uuid" | sed 's/^/  /'

  # So does a clone of it that has lost nothing; more of that in volume-unplug.
  new_clone vm golden
  unplug 1
  within 20 disk_is "$uuid" Offline
  plug_in
  within 40 volume_ready vm "$DEVICE"
  within 10 image_is golden Ready
  drop_caches
  device_is_right "$device" "$LAB_TMP/golden.raw"
  device_is_right "$DEVICE" "$LAB_TMP/golden.raw"
  note "under an attached clone: went on"
  daemon_stop
}
