# shellcheck shell=dash disable=SC2034
# ext4 and xfs on clones: used, cut off in the middle of writes, mounted again (journal), checked by their own tools; synced files are
# whole. LAB_ROUNDS: how many cuts (`make soak`: 5).
GUESTS="quick"
DISKS="768 64"
KEEP_DISK=2
MODES="auto user-copy"
QUEUES=2
ROUNDS=${LAB_ROUNDS:-1}
BOOTS=$((ROUNDS + 1))
LIMIT_S=300

IMAGE=seed:94:8388608:4194304
KINDS="ext4 xfs"

boot_1() {
  must modprobe xfs
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 94 8388608 4194304
  must bedplate image import golden "$LAB_TMP/image"
  for kind in $KINDS; do
    new_clone "$kind" golden --size 320M
    keep "device-$kind" "$DEVICE"
    case $kind in
      ext4) must mke2fs -q -F -t ext4 "$DEVICE" ;;
      xfs) must mkfs.xfs -q -f "$DEVICE" ;;
    esac
    mounted "$kind"
    must umount "/mnt/$kind"
    clean "$kind"
    mounted "$kind"
  done
  use_until_the_cut
}

boot_each() {
  must modprobe xfs
  daemon_start
  for kind in $KINDS; do
    volume_back_on "$kind" "$(kept "device-$kind")" 60
    # Replays its journal.
    mounted "$kind"
    synced_files_are_whole "$kind"
    must umount "/mnt/$kind"
    clean "$kind"
    note "$kind, cut $((LAB_BOOT - 1)): $(wc -l <"$LAB_KEEP/sums-$kind") synced files whole, file system clean"
    mounted "$kind"
  done
  must bedplate image verify golden
  if [ "$LAB_BOOT" -lt "$BOOTS" ]; then use_until_the_cut; fi
  # kill -9 is nothing that a file system notices.
  kill_and_start
  for kind in $KINDS; do
    volume_back_on "$kind" "$(kept "device-$kind")" 60
    synced_files_are_whole "$kind"
    must umount "/mnt/$kind"
    clean "$kind"
    must bedplate volume detach "$kind"
  done
  daemon_stop
}

mounted() {
  mkdir -p "/mnt/$1"
  must mount -t "$1" -o discard "$(kept "device-$1")" "/mnt/$1"
}

clean() {
  case $1 in
    ext4) must e2fsck -fn "$(kept "device-$1")" ;;
    xfs) must xfs_repair -n "$(kept "device-$1")" ;;
  esac
}

# Files that are synced, with their sums kept outside; then more that are not, and files that go away, until the plug is pulled.
use_until_the_cut() {
  for kind in $KINDS; do
    folder=/mnt/$kind/round-$LAB_BOOT
    mkdir -p "$folder"
    for number in 1 2 3 4 5 6; do
      must guest-reader gen --seed "$LAB_BOOT$number" --size $((number * 300001)) --allocated $((number * 300001)) "$folder/file-$number"
    done
    must sync -f "$folder"
    (cd "/mnt/$kind" && sha256sum round-*/file-*) >"$LAB_KEEP/sums-$kind"
    churn "$kind" &
  done
  sync "$LAB_KEEP"/*
  sleep 4
  power_cut
}

churn() {
  number=0
  while :; do
    number=$((number + 1))
    guest-reader gen --seed "$number" --size $((number % 7 * 77777 + 1)) --allocated 1000000 "/mnt/$1/churn-$((number % 9))"
    [ $((number % 4)) != 0 ] || rm -f "/mnt/$1/churn-$((number % 5))"
    [ $((number % 6)) != 0 ] || sync "/mnt/$1/churn-$((number % 9))" 2>/dev/null || true
  done
}

synced_files_are_whole() { (cd "/mnt/$1" && must sha256sum -c "$LAB_KEEP/sums-$1"); }
