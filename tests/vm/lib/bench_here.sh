# shellcheck shell=bash
# The bench on this machine itself: its ublk, its kernel, a disk of its own. For people with hardware.

# refuse_used_disk DISK: whatever carries something is somebody's, and must be wiped by hand or with BENCH_FORCE=1.
refuse_used_disk() {
  local disk=$1 found
  [ -b "$disk" ] || die "BENCH_DISK=$disk is no block device"
  [ -z "$(lsblk -nro MOUNTPOINTS "$disk" | tr -d ' \n')" ] || die "$disk is mounted"
  [ "$(lsblk -nro NAME "$disk" | wc -l)" = 1 ] || die "$disk has partitions or is in use: $(lsblk -nro NAME "$disk" | tr '\n' ' ')"
  # What holds it exclusively (RAID, LVM, a running daemon) shows by this.
  python_free_exclusive_open "$disk" || die "$disk is in use"
  found=$(wipefs -n "$disk"; dd if="$disk" bs=4096 count=2 status=none | tr -d '\0' | head -c 64)
  if [ -n "$found" ] && [ -z "${BENCH_FORCE:-}" ]; then die "$disk carries something (wipefs -n $disk); BENCH_FORCE=1 overwrites it"; fi
}

# An exclusive open, as mount does it: dd has a flag for that.
python_free_exclusive_open() { dd if=/dev/null of="$1" conv=excl,notrunc,nocreat count=0 status=none 2>/dev/null; }

run_here() {
  local folder=$VM_DIR/runs/bench.here
  [ "$(id -u)" = 0 ] || die "needs root"
  [ -n "${BENCH_DISK:-}" ] || die "say BENCH_DISK=/dev/...: a disk that may be overwritten"
  [ -e /dev/ublk-control ] || modprobe -q ublk_drv || die "this machine has no ublk_drv"
  refuse_used_disk "$BENCH_DISK"
  rm -rf "$folder"
  mkdir -p "$folder/tmp"
}
