# shellcheck shell=dash disable=SC2034
# Copies on three disks: made, shown, raised, lowered, moved; kill -9 and reboot while they are made and while a disk is drained end Ready, with no
# second import. A clone that reads meanwhile meets no error.
GUESTS="quick"
DISKS="256 256 256 16"
KEEP_DISK=4
TOOLS=
LIMIT_S=600
# Slow enough to be met half way.
MORE_SETTINGS='[rebuild]
limit_bytes_per_s = 8388608'

SIZE=67108864
IMAGE=seed:51:$SIZE:50331648

boot_1() {
  daemon_start
  for number in 1 2 3; do must bedplate disk format "$(disk $number)"; done
  make_image "$LAB_TMP/image" 51 $SIZE 50331648
  must_fail 2 'copies|1\.\.' bedplate image import none "$LAB_TMP/image" --copies 0
  must bedplate image import golden "$LAB_TMP/image" --copies 2
  rm "$LAB_TMP/image"
  equal "state with the first copy" Ready "$(image_field golden state)"
  new_clone vm golden
  keep vm "$DEVICE"
  reader_start vm "$DEVICE" "$IMAGE"
  within 60 rebuild_is_beyond 8388608
  killed_while_copying
  within 120 copies_ready golden 2
  note "two copies after a kill in the middle of the second"
  must bedplate image copies golden 3
  within 60 rebuild_is_beyond 8388608
  reader_stop vm
  # In the middle of the third copy.
  reboot_node
}

killed_while_copying() {
  daemon_kill
  daemon_start
  volume_back_on vm "$(kept vm)"
  equal "imports of the next daemon" 0 "$(jobs_of import)"
}

boot_2() {
  daemon_start
  within 30 image_is_ready
  volume_back_on vm "$(kept vm)"
  within 120 copies_ready golden 3
  equal "imports after a reboot" 0 "$(jobs_of import)"
  reader_start vm "$(kept vm)" "$IMAGE"
  lowered_and_raised
  drained
  reader_stop vm
  must bedplate image verify golden
  must bedplate volume detach vm
  device_is_right "$(bedplate image attach golden)" "$IMAGE"
  must bedplate image detach golden
  daemon_stop
}

image_is_ready() { [ "$(image_field golden state)" = Ready ]; }

# Under the reading clone.
lowered_and_raised() {
  must bedplate image copies golden 1
  within 60 copies_ready golden 1
  must bedplate image copies golden 2 --limit 0
  within 120 copies_ready golden 2
  note "3 -> 1 -> 2 under a reader"
}

# The disk of one of the copies, kill -9 in the middle.
drained() {
  from=$(replicas_in golden Ready | sed -n 1p)
  must bedplate image copies golden 2
  must bedplate --no-wait disk drain "$from"
  within 60 rebuild_is_beyond 4194304
  daemon_kill
  daemon_start
  volume_back_on vm "$(kept vm)"
  within 120 is_drained
  within 60 copies_ready golden 2
  must_fail 8 'cannot be drained' bedplate disk drain "$(replicas_in golden Ready | sed -n 1p)"
  note "drained over a kill; a second drain has no room"
}

is_drained() { ! replicas_in golden Ready | grep -q "$from"; }
