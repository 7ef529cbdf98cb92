# shellcheck shell=dash disable=SC2154
# The machine that a scenario runs on: quick guest, systemd node or, with BEDPLATE_TEST_NATIVE=1, the machine itself.

prepare_boot() {
  LAB_TMP=${LAB_TMP:-/tmp/lab}
  # Kept over boots on a node; a quick guest has no memory but its disks.
  LAB_KEEP=${LAB_KEEP:-/var/tmp/lab}
  mkdir -p "$LAB_TMP" "$LAB_KEEP"
  [ "$LAB_GUEST" = node ] && prepare_node
  [ "$LAB_GUEST" = quick ] && [ -n "${KEEP_DISK:-}" ] && prepare_keep_disk
  return 0
}

# A quick guest has no root of its own: what it must know after a boot is on a disk of the scenario.
prepare_keep_disk() {
  [ "$LAB_BOOT" != 1 ] || must mke2fs -q -t ext4 "$(disk "$KEEP_DISK")"
  must mount -t ext4 "$(disk "$KEEP_DISK")" "$LAB_KEEP"
}

# A node's daemon reads its settings before the scenario starts, so those that differ are set on the first boot.
prepare_node() {
  if [ "$LAB_BOOT" = 1 ] && [ "$LAB_DATA_MODE-${QUEUES:-1}" != auto-1 ]; then
    mkdir -p /etc/bedplate/conf.d
    printf '[ublk]\ndata_mode = "%s"\nqueues = %s\n' "$LAB_DATA_MODE" "${QUEUES:-1}" >/etc/bedplate/conf.d/50-lab.toml
    systemctl restart bedplated.service
  fi
}

# disk N: path of the scenario's disk N, whatever it is called on this boot.
disk() { find_disk "$1" || fail "disk $1 is not there"; }

# find_disk N: the same; fails where it is not there.
find_disk() {
  local serial name
  if [ "$LAB_GUEST" = native ]; then
    cat "$LAB_TMP/disk$1"
    return
  fi
  for serial in /sys/block/nvme*/device/serial; do
    name=${serial#/sys/block/}
    name=${name%%/*}
    # nvme0c0n1 is a path of nvme0n1, not a disk.
    if [ -b "/dev/$name" ] && [ "$(tr -d ' ' <"$serial")" = "DISK$1" ]; then
      printf '/dev/%s' "$name"
      return
    fi
  done
  return 1
}

# unplug N: takes disk N away from the running machine.
unplug() {
  local serial
  for serial in /sys/class/nvme/nvme*/serial; do
    if [ "$(tr -d ' ' <"$serial")" = "DISK$1" ]; then
      echo 1 >"${serial%/serial}/device/remove"
      return
    fi
  done
  fail "disk $1 is not there"
}

# plug_in: what was unplugged is there again, when the kernel has found it.
plug_in() { echo 1 >/sys/bus/pci/rescan; }

# The node goes down in order and comes up again; the next boot_N goes on.
reboot_node() {
  sync
  word reboot
  exit 0
}

# The runner pulls the plug as soon as it reads this; the next boot_N goes on.
power_cut() {
  # What this shell keeps for the next boot must be on the disk; nothing else is flushed.
  sync "$LAB_KEEP"/* 2>/dev/null || true
  word cut
  sleep 600
}

leave_guest() {
  case $LAB_GUEST in
    native) ;;
    quick)
      sleep 0.2
      case $word_said in reboot) reboot -f ;; *) poweroff -f ;; esac
      ;;
    node)
      case $word_said in reboot) systemctl --no-block reboot ;; *) systemctl --no-block poweroff --force --force ;; esac
      ;;
  esac
}

# What helps to understand a failure.
show_why() {
  # A daemon that hangs must not keep this from being said.
  for what in status "disk list" "volume list"; do
    # shellcheck disable=SC2086
    timeout 20 bedplate $what 2>&1 || true
  done
  # Daemons that are there, dead ones that the kernel still waits for too.
  pgrep -l bedplated || true
  [ "$LAB_GUEST" = node ] && journalctl -b --no-pager -n 60 -u 'bedplate*' 2>/dev/null
  [ -e "$LAB_TMP/bedplated.log" ] && tail -n 40 "$LAB_TMP/bedplated.log"
  if [ -e "$LAB_TMP/other/bedplated.log" ]; then
    echo "the other daemon:"
    tail -n 20 "$LAB_TMP/other/bedplated.log"
  fi
  dmesg | tail -n 15
  return 0
}
