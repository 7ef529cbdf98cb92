# shellcheck shell=dash disable=SC2154
# What is measured: each target over a slice of the same kind of disk, ready before the first cell. `device NAME` is where it is.
#
# A `w` device was written all over and stays; a `t` device is a new clone that nothing was written to, made anew by `fresh`.

# Slices, their numbers and how many images long each is. All are written once before anything is measured, so that no memory-backed
# page is new to anybody.
SLICES="bare:1 loop:1 copy:1 zc:1 snap:1 snap-w:2 snap-t:2 thin:1 thin-data:3 thin-meta:1 qcow:1 qcow-files:5 bedplate:6"

device() { cat "$LAB_TMP/device.$1"; }
is_device() { printf '%s' "$2" >"$LAB_TMP/device.$1"; }
has_device() { [ -e "$LAB_TMP/device.$1" ]; }

# slice NAME: its path.
slice() {
  local number=0 one
  for one in $SLICES; do
    if [ "${one%:*}" = "$1" ]; then
      if [ -n "${BENCH_DISK:-}" ]; then printf '/dev/mapper/bench-%s' "$1"; else printf '/dev/ram%s' "$number"; fi
      return
    fi
    number=$((number + 1))
  done
  fail "no slice $1"
}

make_slices() {
  local one at=2048 sectors count longest=6
  if [ -z "${BENCH_DISK:-}" ]; then
    # shellcheck disable=SC2086,SC2046
    must modprobe brd rd_nr=$(echo $SLICES | wc -w) rd_size=$((longest * IMAGE_MIB * 1024)) max_part=0
  fi
  for one in $SLICES; do
    count=${one#*:}
    if [ -n "${BENCH_DISK:-}" ]; then
      sectors=$((count * IMAGE_MIB * 2048))
      must dmsetup create "bench-${one%:*}" --table "0 $sectors linear $BENCH_DISK $at"
      at=$((at + sectors))
    fi
    # Those that are filled with data below are not filled twice.
    [ "$count" = 1 ] || must dd if=/dev/zero of="$(slice "${one%:*}")" bs=1M count=$((count * IMAGE_MIB)) oflag=direct
  done
}

# fill DEVICE: all of the image's length, with data that nobody takes for zeros.
fill() { must fio --name=fill --filename="$1" --rw=write --bs=1M --iodepth=4 --ioengine=io_uring --direct=1 --size="${IMAGE_MIB}M"; }

up_all() {
  local name
  make_slices
  for name in bare loop copy zc snap thin qcow; do fill "$(slice "$name")"; done
  is_device bare "$(slice bare)"
  up_loop
  up_snapshot
  up_thin
  up_qcow
  up_bedplate
  up_ublk
  fresh
}

up_loop() {
  local path
  path=$(losetup -f)
  # That of util-linux: busybox's knows no direct I/O.
  must losetup --direct-io=on "$path" "$(slice loop)"
  is_device loop "$path"
}

up_snapshot() {
  sectors=$(($(image_bytes) / 512))
  must dmsetup create snap-origin --table "0 $sectors snapshot-origin $(slice snap)"
  new_snapshot w
  fill /dev/mapper/snap-w
}
# Chunks of 4 KiB: what a first write of 4 KiB copies is nothing, the best that dm-snapshot can do. Persistent, as LVM makes them and as our clones are: a
# transient one (N) forgets at the next boot what was written.
new_snapshot() {
  must dd if=/dev/zero of="$(slice "snap-$1")" bs=4096 count=1 oflag=direct
  must dmsetup create "snap-$1" --table "0 $sectors snapshot $(slice snap) $(slice "snap-$1") P 8"
  [ -e "/dev/mapper/snap-$1" ] || must dmsetup mknodes
  is_device "dm-snapshot-$1" "/dev/mapper/snap-$1"
}

up_thin() {
  must dd if=/dev/zero of="$(slice thin-meta)" bs=1M count="$IMAGE_MIB" oflag=direct
  # Blocks of 64 KiB, the smallest.
  must dmsetup create pool --table "0 $((sectors * 3)) thin-pool $(slice thin-meta) $(slice thin-data) 128 0 1 skip_block_zeroing"
  dmsetup mknodes
  thin_id=0
  new_thin w
  fill /dev/mapper/thin-w
}
new_thin() {
  thin_id=$((thin_id + 1))
  must dmsetup message pool 0 "create_thin $thin_id"
  must dmsetup create "thin-$1" --table "0 $sectors thin /dev/mapper/pool $thin_id $(slice thin)"
  [ -e "/dev/mapper/thin-$1" ] || must dmsetup mknodes
  is_device "dm-thin-$1" "/dev/mapper/thin-$1"
}

up_qcow() {
  must mke2fs -q -t ext4 -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 "$(slice qcow-files)"
  mkdir -p "$LAB_TMP/qcow" /var/lock
  must mount -t ext4 "$(slice qcow-files)" "$LAB_TMP/qcow"
  new_overlay w 0
  fill "$(device qcow2-nbd-w)"
}
# new_overlay NAME NBD: through qemu-nbd, in the way that QEMU's manual recommends for speed.
new_overlay() {
  rm -f "$LAB_TMP/qcow/$1.qcow2"
  must qemu-img create -q -f qcow2 -b "$(slice qcow)" -F raw "$LAB_TMP/qcow/$1.qcow2"
  must qemu-nbd --connect="/dev/nbd$2" --fork --pid-file="$LAB_TMP/nbd-$1.pid" --format=qcow2 --cache=none --aio=native --discard=unmap "$LAB_TMP/qcow/$1.qcow2"
  within 20 nbd_is_there "$2"
  is_device "qcow2-nbd-$1" "/dev/nbd$2"
}
nbd_is_there() { [ "$(cat "/sys/block/nbd$1/size")" -gt 0 ]; }

# What rublk can do of qcow2 has no backing file: reads of it are reads of nothing, so it is written to only.
new_ublk_qcow() {
  rm -f "$LAB_TMP/qcow/ublk-$1.qcow2"
  qemu-img create -q -f qcow2 "$LAB_TMP/qcow/ublk-$1.qcow2" "${IMAGE_MIB}M" || return 1
  add_rublk "qcow2-ublk-$1" "$2" qcow2 -f "$LAB_TMP/qcow/ublk-$1.qcow2"
}

# add_rublk NAME ID TARGET FLAG...: device number ID; what this kernel or this rublk cannot do is left out, and told of.
add_rublk() {
  local name=$1 id=$2 target=$3
  shift 3
  if rublk add "$target" -n "$id" -q "$QUEUES" -d 128 "$@" >"$LAB_TMP/rublk.out" 2>&1 && within_quiet 10 test -b "/dev/ublkb$id"; then
    is_device "$name" "/dev/ublkb$id"
    # As Bedplate and NVMe disks have it.
    echo none >"/sys/block/ublkb$id/queue/scheduler"
  else
    note "no $name here: $(tail -n 2 "$LAB_TMP/rublk.out" | tr '\n' ' ')"
    rm -f "$LAB_TMP/device.$name"
  fi
}
# del_rublk ID: rublk 0.2.15 was seen to panic ("io_uring IO failure") while it removes a device, and to leave it behind. The others go on without it.
del_rublk() { within_quiet 30 rublk_is_gone "$1" || note "rublk does not let go of device $1"; }
rublk_is_gone() {
  [ ! -e "/dev/ublkb$1" ] || rublk del -n "$1"
  [ ! -e "/dev/ublkb$1" ]
}
within_quiet() {
  local until=$(($(uptime_ms) + $1 * 1000 * ${LAB_PATIENCE:-1}))
  shift
  until "$@"; do
    [ "$(uptime_ms)" -lt "$until" ] || return 1
    sleep 0.2
  done
}

# The bare loop targets. Where the kernel has no zero copy rublk takes `-z` and copies all the same: it would be measured twice.
up_rublk() {
  # A buffer of 1 MiB, so that a request of 1 MiB is one.
  add_rublk rublk-copy 100 loop -b 1MiB -f "$(slice copy)"
  case $(bedplate -o json status | json_field data_mode) in
    zero_copy) add_rublk rublk-zc 101 loop -b 1MiB -z -f "$(slice zc)" ;;
    *) note "no rublk-zc here: the kernel has no zero copy" ;;
  esac
}

up_ublk() {
  up_rublk
  if new_ublk_qcow w 102 && has_device qcow2-ublk-w; then fill "$(device qcow2-ublk-w)"; fi
}

up_bedplate() {
  # shellcheck disable=SC2034
  LAB_LOOK_EVERYWHERE=false
  daemon_start
  must bedplate disk format "$(slice bedplate)"
  must dd if="$(slice qcow)" of="$LAB_TMP/image" bs=1M count="$IMAGE_MIB"
  must bedplate image import golden "$LAB_TMP/image"
  rm "$LAB_TMP/image"
  is_device bedplate-image "$(bedplate image attach golden)"
  new_clone w golden
  is_device bedplate-clone-w "$DEVICE"
  fill "$DEVICE"
}

# fresh: new clones of all who make some.
fresh() {
  if has_device dm-snapshot-t; then must dmsetup remove snap-t; fi
  new_snapshot t
  if has_device dm-thin-t; then
    must dmsetup remove thin-t
    must dmsetup message pool 0 "delete $thin_id"
  fi
  new_thin t
  if has_device qcow2-nbd-t; then
    must qemu-nbd --disconnect /dev/nbd1
    within 20 nbd_is_gone
  fi
  new_overlay t 1
  if has_device qcow2-ublk-w; then
    has_device qcow2-ublk-t && del_rublk 103
    new_ublk_qcow t 103
  fi
  if has_device bedplate-clone-t; then
    must bedplate volume detach t
    must bedplate volume delete t
  fi
  new_clone t golden
  is_device bedplate-clone-t "$DEVICE"
  sync
}
nbd_is_gone() { [ "$(cat /sys/block/nbd1/size)" = 0 ] && ! kill -0 "$(cat "$LAB_TMP/nbd-t.pid")" 2>/dev/null; }

image_bytes() { echo $((IMAGE_MIB * 1048576)); }

# two_queues: those of whom the matrix wants it, once more with two queues.
two_queues() {
  QUEUES=2
  local id
  for id in 100 101; do
    del_rublk "$id"
  done
  up_rublk
  must bedplate volume detach t
  must bedplate volume detach w
  must bedplate image detach golden
  daemon_stop
  daemon_start --disk "$(slice bedplate)"
  within 20 image_is_ready
  is_device bedplate-image "$(bedplate image attach golden)"
  attach_volume w
  is_device bedplate-clone-w "$DEVICE"
}
image_is_ready() { case $(image_field golden state) in Detached | Ready | Available) ;; *) return 1 ;; esac; }

# In a guest in the order of their numbers, elsewhere by name. What is there already is no error. The memory disk comes later, with its size.
bench_modules() {
  local file
  if [ "$LAB_GUEST" = native ]; then
    for file in dm-mod dm-snapshot dm-thin-pool nbd loop ublk_drv; do modprobe -q "$file" || true; done
    return
  fi
  for file in /bench-modules/*; do insmod "$file" 2>/dev/null || true; done
}
