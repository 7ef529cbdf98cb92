# shellcheck shell=dash disable=SC2154
# Disks under device mapper: slow, suspended, logged. A scenario that uses them sets LAB_LOOK_EVERYWHERE=false, so that the daemon knows
# the mapped device only, and not the one below it too.

# map_disk NAME TABLE: /dev/mapper/NAME, where there is no udev to make it too.
map_disk() {
  must dmsetup create "$1" --table "$2"
  [ -e "/dev/mapper/$1" ] || must dmsetup mknodes "$1"
  [ -b "/dev/mapper/$1" ] || fail "no /dev/mapper/$1"
}

# plain_disk NAME DEVICE: as it is, and can be suspended. Its path is /dev/mapper/NAME.
plain_disk() {
  must modprobe dm-mod
  map_disk "$1" "$(linear_table "$2")"
}
linear_table() { printf '0 %s linear %s 0' "$(blockdev --getsz "$1")" "$1"; }

# slow_disk NAME DEVICE WRITE_MS: writes take so much longer; reads and flushes do not.
slow_disk() {
  must modprobe dm-delay
  map_disk "$1" "$(delay_table "$2" "$3")"
}
delay_table() { printf '0 %s delay %s 0 0 %s 0 %s %s 0 0' "$(blockdev --getsz "$1")" "$1" "$1" "$2" "$1"; }

# slow_disk_becomes NAME DEVICE WRITE_MS
slow_disk_becomes() {
  must dmsetup load "$1" --table "$(delay_table "$2" "$3")"
  must dmsetup suspend --nolockfs "$1"
  must dmsetup resume "$1"
}

# logged_disk NAME DEVICE LOG: each write, flush and discard goes into LOG too (dm-log-writes).
logged_disk() {
  must modprobe dm-log-writes
  map_disk "$1" "0 $(blockdev --getsz "$2") log-writes $2 $3"
}
log_mark() { must dmsetup message "$1" 0 mark "$2"; }

# inflight_of NAME: the file that says how many reads and writes of a mapped disk are in flight.
inflight_of() {
  local name
  for name in /sys/block/dm-*/dm/name; do
    if [ "$(cat "$name")" = "$1" ]; then
      echo "${name%/dm/name}/inflight"
      return
    fi
  done
  fail "no mapped disk $1"
}

unmap_disk() {
  within 20 dmsetup remove "$1"
  dmsetup mknodes >/dev/null 2>&1 || true
}
