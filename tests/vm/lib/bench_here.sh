# shellcheck shell=bash
# The bench on this machine itself: its ublk, its kernel, a disk of its own. For people with hardware.

# refuse_used_disk DISK: whatever carries something is somebody's, and must be wiped by hand, or given with BENCH_FORCE=1.
refuse_used_disk() {
  local disk=$1 found
  [ -b "$disk" ] || die "BENCH_DISK=$disk is no block device"
  [ "$(lsblk -nro NAME "$disk" | wc -l)" = 1 ] || die "$disk has partitions or is in use: $(lsblk -nro NAME "$disk" | tr '\n' ' ')"
  [ -z "$(lsblk -nro MOUNTPOINTS "$disk" | tr -d ' \n')" ] || die "$disk is mounted"
  found=$(wipefs -n "$disk")
  # Bedplate's own superblock is no signature that wipefs knows.
  [ -n "$found" ] || found=$(dd if="$disk" bs=4096 count=2 status=none | tr -d '\0' | head -c 16 | od -An -tx1)
  if [ -n "$found" ] && [ -z "${BENCH_FORCE:-}" ]; then die "$disk carries something (see 'wipefs -n $disk'); BENCH_FORCE=1 overwrites it"; fi
}

# What it needs besides what `tests/vm/setup` installs.
install_here() {
  # shellcheck disable=SC2086
  missing=$(missing_packages fio qemu-utils dmsetup e2fsprogs)
  # shellcheck disable=SC2086
  [ -z "$missing" ] || apt_install $missing || die "cannot install $missing: see $VM_DIR/apt-install.log"
}

# Everything that the scenario may have left, in the order in which it stands on each other.
leave_here() {
  local folder=$1 name
  if [ -e "$folder/tmp/bedplated.pid" ]; then kill -9 "$(cat "$folder/tmp/bedplated.pid")" 2>/dev/null || true; fi
  "$TARGET_DIR/release/bedplated" remove-devices >/dev/null 2>&1 || true
  for name in 100 101 102 103; do [ ! -e "/dev/ublkb$name" ] || "$BENCH_TOOLS/bin/rublk" del -n "$name" >/dev/null 2>&1 || true; done
  for name in nbd0 nbd1; do [ ! -b "/dev/$name" ] || qemu-nbd --disconnect "/dev/$name" >/dev/null 2>&1 || true; done
  umount "$folder/tmp/qcow" 2>/dev/null || true
  [ ! -e "$folder/tmp/device.loop" ] || losetup -d "$(cat "$folder/tmp/device.loop")" 2>/dev/null || true
  for name in snap-t snap-w snap-origin thin-t thin-w pool; do dmsetup remove "$name" 2>/dev/null || true; done
  for name in $(dmsetup ls 2>/dev/null | awk '/^bench-/ {print $1}'); do dmsetup remove "$name" 2>/dev/null || true; done
}

run_here() {
  local folder=$VM_DIR/runs/bench.here name
  [ "$(id -u)" = 0 ] || die "needs root"
  [ -n "${BENCH_DISK:-}" ] || die "say BENCH_DISK=/dev/...: a disk that may be overwritten"
  [ -e /dev/ublk-control ] || modprobe -q ublk_drv || die "this machine has no ublk_drv: 'make bench' measures in a virtual machine"
  if compgen -G '/dev/ublkc*' >/dev/null; then die "this machine has ublk devices already"; fi
  for name in nbd0 nbd1; do
    if [ -b "/dev/$name" ] && [ "$(cat "/sys/block/$name/size")" != 0 ]; then die "/dev/$name is in use"; fi
  done
  refuse_used_disk "$BENCH_DISK"
  once bench-here-packages 1 install_here
  rm -rf "$folder"
  mkdir -p "$folder/tmp"
  # shellcheck disable=SC2034
  SCENARIO_FILE=$HERE/bench-guest/scenario.sh
  write_facts "$folder" native "$(uname -r)" auto 1
  echo LAB_PATIENCE=1 >>"$folder/lab/facts"
  bench_facts "$folder" "${BENCH_IMAGE_MIB:-2048}" "$(lsblk -dnro MODEL "$BENCH_DISK" | head -n 1), $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)"
  trap 'leave_here "$VM_DIR/runs/bench.here"' EXIT
  (cd "$folder/lab" && LAB_TMP=$folder/tmp LAB_KEEP=$folder/tmp BEDPLATE_SOCKET=$folder/tmp/run/bedplate.sock sh guest-main) 2>&1 | tee "$folder/boot1.said"
  rm -rf "$OUT"
  mkdir -p "$OUT"
  cp -r "$folder/tmp/results" "$OUT/raw"
  [ "$(last_word "$folder/boot1.said")" = @@pass ] || die "the bench did not end well; see $folder"
}
