# shellcheck shell=dash disable=SC2034
# The plug is pulled under writers: every flushed and FUA write is there, every other sector holds its old or its new content, and
# what was there after one power cut is there after the next. LAB_ROUNDS: how many (`make soak`: 10).
GUESTS="quick"
# The disk, and two that note what was flushed.
DISKS="512 64 64"
MODES="auto user-copy"
QUEUES=2
ROUNDS=${LAB_ROUNDS:-2}
BOOTS=$((ROUNDS + 1))

SIZE=16777216
IMAGE=seed:93:$SIZE:6291456

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 93 $SIZE 6291456
  must bedplate image import golden "$LAB_TMP/image"
  rm "$LAB_TMP/image"
  new_clone vm golden
  new_blank scratch 8M
  write_until_the_cut --fresh
}

boot_each() {
  daemon_start
  volume_back_on vm "$(vm)" 60
  volume_back_on scratch "$(scratch)" 60
  equal "previous session" crash_other_boot "$(disk_field 1 previous_session)"
  writer_check "clone, cut $((LAB_BOOT - 1))" "$(vm)" "$(disk 2)" --base $IMAGE --settle
  writer_check "blank, cut $((LAB_BOOT - 1))" "$(scratch)" "$(disk 3)" --settle
  must bedplate image verify golden
  if [ "$LAB_BOOT" -lt "$BOOTS" ]; then write_until_the_cut; fi
  # A kill, and the orderly way down, keep all that too.
  kill_and_start
  volume_back_on vm "$(vm)"
  must bedplate volume detach vm
  attach_volume vm
  writer_check "clone at the end" "$DEVICE" "$(disk 2)" --base $IMAGE --exact
  writer_check "blank at the end" "$(scratch)" "$(disk 3)" --exact
  daemon_stop
}

vm() { echo /dev/ublkb0; }
scratch() { echo /dev/ublkb1; }

write_until_the_cut() {
  writer_start vm "$(vm)" "$(disk 2)" --tag 1 --base $IMAGE --threads 6 --seed "$LAB_BOOT" "$@"
  writer_start scratch "$(scratch)" "$(disk 3)" --tag 2 --threads 2 --seed "$LAB_BOOT" "$@"
  sleep "$((LAB_BOOT % 3 + 3)).$((LAB_BOOT * 7 % 10))"
  writer_no_fault vm
  writer_no_fault scratch
  note "cut: $(writer_line vm)"
  power_cut
}
