# shellcheck shell=dash disable=SC2034
# A disk that is silent for less than its grace time is late, and nothing else; for longer it is Offline; back by itself either way.
GUESTS="quick"
DISKS="128"
LAB_LOOK_EVERYWHERE=false
MORE_SETTINGS='[health]
interval_ms = 300
timeout_ms = 300
suspect_after = 3
grace_ms = 15000
online_after = 2
retry_max_ms = 2000'

boot_1() {
  daemon_start
  plain_disk held "$(disk 1)"
  must bedplate disk format /dev/mapper/held
  make_image "$LAB_TMP/golden.raw" 5 4194304 2097152
  must bedplate image import golden "$LAB_TMP/golden.raw"
  device=$(bedplate image attach golden)

  must dmsetup suspend --nolockfs --noflush held
  within 30 disk_is /dev/mapper/held Suspect
  within 5 image_is golden Unknown
  sleep 3
  disk_is /dev/mapper/held Suspect || fail "a disk that is late is $(disk_state)"
  must dmsetup resume held
  within 30 disk_is /dev/mapper/held Online
  within 5 image_is golden Ready
  changes >"$LAB_TMP/changes"
  ! grep -q Offline "$LAB_TMP/changes" || fail "it was Offline within its grace time"
  device_is_right "$device" "$LAB_TMP/golden.raw"
  note "shorter than the grace time: Suspect, and back"

  must dmsetup suspend --nolockfs --noflush held
  within 60 disk_is /dev/mapper/held Offline
  bedplate disk show /dev/mapper/held | grep -i 'not answered' | sed 's/^/  /'
  image_is golden Unknown || fail "its image is $(image_field golden state)"
  must dmsetup resume held
  within 60 disk_is /dev/mapper/held Online
  within 5 image_is golden Ready
  device_is_right "$device" "$LAB_TMP/golden.raw"
  must_fail 0 'has not answered for' bedplate disk show /dev/mapper/held
  equal "jobs besides the import" 1 "$(all_jobs)"
  note "longer: Offline, and back"
  daemon_stop
}

disk_state() { bedplate -o json disk show /dev/mapper/held | json_field state; }
changes() { bedplate disk show /dev/mapper/held; }
