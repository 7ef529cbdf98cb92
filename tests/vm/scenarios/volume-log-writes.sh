# shellcheck shell=dash disable=SC2034,SC2153
# Every flush that a disk was sent is a state that a power cut may leave: dm-log-writes notes all writes below the daemon, and a copy of
# the disk is made for flush after flush. Each of them opens, its volume is served, and holds what was flushed by then.
# LAB_ROUNDS: at how many flushes it is looked (all marks besides).
GUESTS="quick"
DISKS="96 512"
# What is written does not depend on the kernel; `make soak` runs it on both.
RUN_KERNELS="${LAB_ROUNDS:+stable }backports"
POINTS=${LAB_ROUNDS:-24}
LIMIT_S=$((200 + POINTS * 12))
LAB_LOOK_EVERYWHERE=false

SIZE=4194304
IMAGE=seed:96:$SIZE:1048576
STEPS="1 2 3 4"

boot_1() {
  must dd if=/dev/zero of="$(disk 1)" bs=1M count=96 oflag=direct
  logged_disk logged "$(disk 1)" "$(disk 2)"
  record
  look_at_all
}

# Steps of a few operations each; at the end of each one a mark, and a copy of the writer's notes.
record() {
  daemon_start
  must bedplate disk format /dev/mapper/logged
  make_image "$LAB_TMP/image" 96 $SIZE 1048576
  must bedplate image import golden "$LAB_TMP/image"
  new_clone vm golden
  fresh=--fresh
  log_mark logged step-0
  for step in $STEPS; do
    # shellcheck disable=SC2086
    must guest-writer write --device "$DEVICE" --journal "$LAB_TMP/notes" --log "$LAB_TMP/w.log" $fresh --base $IMAGE --tag 1 --threads 4 --operations 25 --seed "$step"
    fresh=
    log_mark logged "step-$step"
    cp "$LAB_TMP/notes" "$LAB_TMP/notes-$step"
    [ "$step" != 2 ] || kill_and_start
    [ "$step" != 2 ] || volume_back_on vm "$DEVICE"
  done
  must bedplate volume detach vm
  daemon_stop
  log_mark logged end
  unmap_disk logged
}

look_at_all() {
  pretend_other_boot
  modprobe loop
  log-replay points "$(disk 2)" >"$LAB_TMP/points"
  flushes=$(sed '1,/ step-0$/d' "$LAB_TMP/points" | grep -c ' flush$')
  every=$((flushes / POINTS + 1))
  note "log: $flushes flushes while the volume was written; every $every-th is looked at"
  at_least "flushes" 20 "$flushes"
  truncate -s 96M "$LAB_TMP/replayed"
  done_to=0 step=0 number=0 looked=0
  while read -r entries what; do
    case $what in
      step-*) step=${what#step-} ;;
      end) ;;
      flush)
        [ "$step" != 0 ] || continue
        number=$((number + 1))
        [ $((number % every)) = 0 ] || continue
        ;;
    esac
    must log-replay to "$(disk 2)" "$LAB_TMP/replayed" --from "$done_to" "$entries"
    done_to=$entries
    look
  done <"$LAB_TMP/points"
  note "$looked states of the disk: each opened, each with all that was flushed"
}

# The state that the disk had after $entries entries of the log.
look() {
  looked=$((looked + 1))
  cp --sparse=always "$LAB_TMP/replayed" "$LAB_TMP/copy" 2>/dev/null || cp "$LAB_TMP/replayed" "$LAB_TMP/copy"
  loop=$(losetup -f)
  must losetup "$loop" "$LAB_TMP/copy"
  rm -rf "$LAB_TMP/other"
  other_daemon_start --disk "$loop"
  within 20 other_disk_online
  # It is wanted, so it is attached by itself, but at the flushes of its last detach and after.
  within 20 other_volume_settled
  must other_daemon bedplate volume attach vm
  device=$(other_daemon bedplate -o json volume show vm | json_field device)
  case $what in
    step-0) device_is_right "$device" $IMAGE ;;
    step-*) writer_check "$what, entry $entries" "$device" "$LAB_TMP/notes-$step" --base $IMAGE --exact ;;
    end) writer_check "$what, entry $entries" "$device" "$LAB_TMP/notes" --base $IMAGE --exact ;;
    # Between two marks: at least what the one before promises; discards of the step that was under way may have been done.
    flush) writer_check "flush, entry $entries, after step $step" "$device" "$LAB_TMP/notes-$(next_step)" --base $IMAGE --floor-only ;;
  esac
  must other_daemon bedplate volume detach vm
  # The image is the same at all of them; once is enough.
  [ "$what" != end ] || must other_daemon bedplate image verify golden
  other_daemon_stop
  must losetup -d "$loop"
}
next_step() { if [ -e "$LAB_TMP/notes-$((step + 1))" ]; then echo $((step + 1)); else echo "$step"; fi; }
other_disk_online() { [ "$(other_daemon bedplate -o json disk list | json_field state)" = Online ]; }
other_volume_settled() {
  case $(other_daemon bedplate -o json volume show vm | json_field state) in
    Ready) return 0 ;;
    Detached) [ "$step" = "${STEPS##* }" ] ;;
    *) return 1 ;;
  esac
}
