# shellcheck shell=dash disable=SC2154
# Volumes, through the command line only; and how they come through kills.

# volume_field NAME FIELD, for instance `volume_field vm1 allocated_bytes`.
volume_field() { bedplate -o json volume show "$1" | json_field "$2"; }

# new_clone NAME IMAGE [FLAG...]: attached; sets DEVICE.
new_clone() {
  local name=$1 image=$2
  shift 2
  must bedplate volume create "$name" --image "$image" "$@"
  attach_volume "$name"
}

# new_blank NAME SIZE: attached; sets DEVICE.
new_blank() {
  must bedplate volume create "$1" --size "$2"
  attach_volume "$1"
}

# attach_volume NAME [FLAG...]: sets DEVICE.
attach_volume() {
  DEVICE=$(bedplate volume attach "$@" 2>"$LAB_TMP/out") || {
    cat "$LAB_TMP/out"
    fail "bedplate volume attach $*"
  }
  [ -b "$DEVICE" ] || fail "attach of $1 says '$DEVICE', which is no block device"
}

# volume_is NAME STATE
volume_is() { [ "$(volume_field "$1" state)" = "$2" ]; }

# One call only: under full load each takes seconds in an emulated guest.
volume_ready() {
  timeout 60 bedplate -o json volume show "$1" >"$LAB_TMP/shown" && [ "$(json_field state <"$LAB_TMP/shown")" = Ready ] &&
    [ "$(json_field device <"$LAB_TMP/shown")" = "$2" ]
}

# volume_back_on NAME DEVICE [SECONDS]: Ready again, on the same device.
volume_back_on() { within "${3:-30}" volume_ready "$1" "$2"; }

# kill_and_start [FLAG...]: SIGKILL, whatever is in flight, and the next daemon.
kill_and_start() {
  daemon_kill
  daemon_start "$@"
}

# reads_as_zero DEVICE [AT_BYTES [LEN_BYTES]]: to its end without a length.
reads_as_zero() {
  local size=${3:-$(($(blockdev --getsize64 "$1") - ${2:-0}))}
  cmp -s -n "$size" -i "${2:-0}:0" "$1" /dev/zero
}

# drop_caches: what the page cache knows of devices says nothing about the disk.
drop_caches() {
  sync
  echo 3 >/proc/sys/vm/drop_caches
}

# pretend_other_boot: from now on daemons think that this is another boot of the kernel, so that a copied disk is one after a
# power cut, and not one of a crashed daemon whose live state is missing.
pretend_other_boot() {
  cat /proc/sys/kernel/random/uuid >"$LAB_TMP/boot_id"
  must mount --bind "$LAB_TMP/boot_id" /proc/sys/kernel/random/boot_id
}
