# shellcheck shell=dash disable=SC2034
# What only the live files knew is gone while the daemon is dead: the volume is held and says why, its device waits and is not removed,
# nothing is resumed silently; --accept-loss resumes it with what the disk has. Another volume does not care.
GUESTS="quick"
DISKS="256"
RUN_KERNELS="backports"

SIZE=4194304
IMAGE=seed:97:$SIZE:2097152
LIVE=/run/bedplate/live

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 97 $SIZE 2097152
  must bedplate image import golden "$LAB_TMP/image"
  new_clone vm golden
  vm=$DEVICE
  new_clone other golden
  other=$DEVICE
  live=$LIVE/$(disk_field 1 uuid)
  [ -d "$live" ] || fail "no live files in $live: $(ls -R $LIVE)"
  find "$live" -type f | sed 's/^/  /'
  uuid=$(volume_field vm uuid)
  one=$(find "$live" -type f -name "*$uuid*" | head -n 1)
  [ -n "$one" ] || fail "no live file of vm ($uuid)"
  fresh=--fresh
  for damage in deleted emptied flipped zeroed shortened; do held_after "$damage" "$one" vm; done
  # All of them, the directory too: both are held.
  held_after all_deleted "$live" vm other
  must bedplate image verify golden
  must bedplate volume detach vm
  must bedplate volume detach other
  daemon_stop
}

deleted() { rm "$1"; }
emptied() { truncate -s 0 "$1"; }
# Its header only: the file is sparse, and its sections lie far apart.
shortened() { truncate -s 4096 "$1"; }
flipped() { printf '\377\252\125' | dd of="$1" bs=1 seek=40 conv=notrunc 2>/dev/null; }
zeroed() { dd if=/dev/zero of="$1" bs=4096 count=1 conv=notrunc 2>/dev/null; }
all_deleted() { rm -r "$1"; }

# held_after DAMAGE FILE VOLUME...
held_after() {
  damage=$1 file=$2
  shift 2
  # Flushed by the writer at its end ...
  # shellcheck disable=SC2086
  must guest-writer write --device "$vm" --journal "$LAB_TMP/notes" --log "$LAB_TMP/w.log" $fresh --base $IMAGE --tag 1 --threads 2 --operations 30 --bytes 2097152
  # ... and acknowledged, not flushed.
  must dd if=/dev/urandom of="$vm" bs=4096 count=64 seek=768 oflag=direct conv=notrunc
  fresh=
  daemon_kill
  "$damage" "$file"
  daemon_start
  for name in "$@"; do within 30 volume_is "$name" Held; done
  must_fail 0 'loss|missing' bedplate volume show vm
  note "$damage: $(volume_field vm why)"
  must_fail 0 'vm' bedplate status
  must_fail 1 'accept-loss' bedplate volume attach vm
  [ -b "$vm" ] || fail "$vm is gone"
  dd if="$vm" of="$LAB_TMP/waited" bs=4096 count=1 iflag=direct 2>/dev/null &
  waiting=$!
  case " $* " in *" other "*) ;; *)
    volume_back_on other "$other"
    device_is_right "$other" $IMAGE
    ;;
  esac
  sleep 2
  kill -0 $waiting 2>/dev/null || fail "a read of a held volume ended"
  # Still held by the next daemon: nothing is forgotten.
  kill_and_start
  for name in "$@"; do within 30 volume_is "$name" Held; done
  kill -0 $waiting 2>/dev/null || fail "a read of a held volume ended"
  for name in "$@"; do must bedplate volume attach "$name" --accept-loss; done
  volume_back_on vm "$vm"
  volume_back_on other "$other"
  wait $waiting || fail "the read that waited failed"
  drop_caches
  writer_check "$damage, accepted" "$vm" "$LAB_TMP/notes" --base $IMAGE
  device_is_right "$other" $IMAGE
}
