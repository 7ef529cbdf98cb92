# shellcheck shell=dash disable=SC2034
# A kernel without the ublk module, and a user without rights: exit codes and remedies; all is well once the module is loaded.
GUESTS="quick"
DISKS="256"

append_of_boot() { echo lab.no_ublk; }

as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }

boot_1() {
  [ ! -e /dev/ublk-control ] || skip "this kernel has ublk built in"
  must_fail 7 'modprobe ublk_drv' bedplate doctor
  must_fail 5 'bedplated' bedplate status
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 70 1048576 524288
  must bedplate image import image "$LAB_TMP/image"
  must_fail 7 'modprobe ublk_drv' bedplate image attach image
  note "without ublk: $(head -n 1 "$LAB_TMP/out")"
  must_fail 0 'ublk' bedplate status

  must_fail 5 'permission' as_nobody bedplate status
  must_fail 1 'permission|denied' as_nobody bedplate disk format --offline "$(disk 1)" --force
  must_fail 1 'permission|denied' as_nobody bedplated --run-dir "$LAB_TMP" --state-dir "$LAB_TMP"
  must setpriv --reuid=65534 --regid=65534 --groups=990 bedplate status

  must modprobe ublk_drv
  device=$(bedplate image attach image)
  device_is_right "$device" seed:70:1048576:524288
  must bedplate doctor
  daemon_stop
}
