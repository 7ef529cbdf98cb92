# shellcheck shell=dash disable=SC2034
# The number that belongs to an image is taken by somebody else's ublk device: the image is Held and says by whom; it never gets another number.
GUESTS="quick"
DISKS="256 256"
LAB_LOOK_EVERYWHERE=false

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 80 1048576 524288
  must bedplate image import image "$LAB_TMP/image"
  device=$(bedplate image attach image)
  must bedplate image detach image

  # Another daemon takes it: to ours, a stranger.
  other_daemon_start
  must other_daemon bedplate disk format "$(disk 2)"
  must other_daemon bedplate image import other "$LAB_TMP/image"
  equal "device of the stranger" "$device" "$(other_daemon bedplate image attach other)"

  must_fail 9 "${device#/dev/ublkb}" bedplate image attach image
  note "$(head -n 1 "$LAB_TMP/out")"
  # Else /dev/disk/by-id/bedplate-image would lead to the stranger's bytes.
  equal "name that udev is given for it" "" "$(bedplated --config "$LAB_TMP/bedplated.toml" udev-name "$device" || true)"
  must other_daemon bedplate image detach other
  equal "device once it is free" "$device" "$(bedplate image attach image)"
  equal "name that udev is given for it now" image "$(bedplated --config "$LAB_TMP/bedplated.toml" udev-name "$device")"
  device_is_right "$device" seed:80:1048576:524288
  other_daemon_stop
  daemon_stop
}
