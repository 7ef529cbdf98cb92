# shellcheck shell=dash disable=SC2034,SC2153
# The failure that this project answers: a sparse 32 MiB image with about 6 MiB allocated, after a restart of the daemon, a
# reboot and a power cut: Ready, same size, UUID, checksums and device; nothing is imported again, since the source is gone.
# A clone of it, with writes, comes through the same. The disk stands elsewhere on the second boot and on the third, so it has another name.
GUESTS="node"
DISKS="512 64 64"

IMAGE=seed:32:33554432:6291456

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 32 33554432 6291456
  must bedplate image import origin "$LAB_TMP/image"
  rm "$LAB_TMP/image"
  device=$(bedplate image attach origin)
  equal "exact size" 33554432 "$(image_field origin size_bytes)"
  at_most "bytes stored" 8388608 "$(image_field origin stored_bytes)"
  device_is_right "$device" "$IMAGE"
  must bedplate volume create vm --image origin --size 40M
  attach_volume vm
  keep vm "$DEVICE"
  must guest-writer write --device "$DEVICE" --journal "$LAB_KEEP/notes" --log "$LAB_TMP/w.log" --fresh --tag 1 --base "$IMAGE" --operations 80
  keep device "$device"
  keep identity "$(identity)"
  note "$(kept identity)"
  from=$(uptime_ms)
  daemon_restart
  as_it_was "after a restart"
  note "restart: $(($(uptime_ms) - from)) ms"
  keep name "$(disk 1)"
}

identity() {
  for field in uuid size_bytes stored_bytes sha256 sha512 created_unix_ms dev_id; do
    printf '%s=%s ' "$field" "$(image_field origin "$field")"
  done
}

as_it_was() {
  back_on origin "$(kept device)" 60
  equal "the image $1" "$(kept identity)" "$(identity)"
  equal "imports $1" "" "$(bedplate -o json job list | json_field kind)"
  device_is_right "$(kept device)" "$IMAGE"
  must bedplate image verify origin
  volume_back_on vm "$(kept vm)" 60
  writer_check "the clone $1" "$(kept vm)" "$LAB_KEEP/notes" --base "$IMAGE" --exact
}

order_before_boot_2() { echo "2 3 1"; }

boot_2() {
  as_it_was "after a reboot"
  note "after the reboot: disk $(kept name) is now $(disk 1), previous session $(disk_field 1 previous_session)"
  equal "previous session" clean "$(disk_field 1 previous_session)"
  power_cut
}

order_before_boot_3() { echo "3 1 2"; }

boot_3() {
  as_it_was "after a power cut"
  note "after the power cut: disk is $(disk 1), previous session $(disk_field 1 previous_session)"
  equal "previous session" crash_other_boot "$(disk_field 1 previous_session)"
}
