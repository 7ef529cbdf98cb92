# shellcheck shell=bash
# One run of one scenario: boots the guest, watches what it says, and boots it again until the scenario has ended.

# write_facts FOLDER GUEST KERNEL MODE BOOT: what the guest's side must know.
write_facts() {
  local lab=$1/lab name
  mkdir -p "$lab"
  cp "$HERE"/guest/guest-main "$HERE"/guest/*.sh "$lab/"
  cp "$SCENARIO_FILE" "$lab/scenario.sh"
  {
    printf 'LAB_GUEST=%s\nLAB_KERNEL=%s\nLAB_DATA_MODE=%s\nLAB_BOOT=%s\nLAB_PATIENCE=%s\n' "$2" "$3" "$4" "$5" "$(patience)"
    # Counts other than a scenario's own, and seeds.
    for name in LAB_KILLS LAB_ROUNDS LAB_SEED LAB_DEVICES; do [ -z "${!name:-}" ] || printf '%s=%s\n' "$name" "${!name}"; done
  } >"$lab/facts"
}

# start_guest FOLDER GUEST KERNEL BOOT ORDER: in the background; sets GUEST_PID.
start_guest() {
  local folder=$1 guest=$2 kernel=$3 boot=$4 order=$5 append extra
  local -a options archives
  append="console=ttyS0 quiet panic=-1 mitigations=off $(accelerator_append) modprobe.blacklist=ahci,kvm_amd,kvm_intel $(extra_append "$boot")"
  # shellcheck disable=SC2206,SC2207,SC2046,SC2086
  options=($(accelerator_options) -M q35 -smp "${CPUS:-2}" -m "${MEMORY_MIB:-2048}" ${EXTRA_OPTIONS:-} -nodefaults -display none -no-reboot
    -serial "file:$folder/boot$boot.console" -serial "file:$folder/boot$boot.said" $(disk_options "$folder" $order))
  if [ "$guest" = quick ]; then
    # The kernel unpacks one archive after the other; an uncompressed one goes first, since it ends at a multiple of 512.
    archives=("$VM_DIR/quick-$kernel.cpio.zst")
    for extra in ${TOOLS:-}; do archives+=("$VM_DIR/quick-extra-$extra.cpio.zst"); done
    (cd "$folder" && find lab | cpio -o -H newc --quiet | cat - "${archives[@]}" >initrd)
    options+=(-initrd "$folder/initrd" -append "$append")
  else
    lab_disk "$folder"
    # shellcheck disable=SC2054
    options+=(-drive "file=$folder/root.qcow2,if=none,id=root,cache=unsafe" -device nvme,drive=root,serial=ROOT
      -drive "file=$folder/lab.img,format=raw,if=none,id=lab,readonly=on" -device nvme,drive=lab,serial=LAB
      -append "$append root=PARTUUID=$ROOT_PARTUUID rw systemd.show_status=no")
  fi
  : >"$folder/boot$boot.said"
  qemu-system-x86_64 "${options[@]}" -kernel "$(kernel_dir "$kernel")/vmlinuz" </dev/null >"$folder/boot$boot.qemu" 2>&1 &
  GUEST_PID=$!
}

# A scenario may say which disks there are at a boot, and in which order: order_before_boot_N prints their numbers.
order_of_boot() {
  if declare -F "order_before_boot_$1" >/dev/null; then "order_before_boot_$1"; else seq -s ' ' 1 "$(wc -w <<<"$DISKS")"; fi
}

# ... and what the kernel's command line has besides.
extra_append() {
  if declare -F append_of_boot >/dev/null; then append_of_boot "$1"; fi
}

last_word() { grep -a '^@@' "$1" | tail -n 1 | tr -d '\r'; }

# wait_for_end SAID LIMIT_S: until the guest is down. Sets WORD to the last thing that it said to us.
wait_for_end() {
  local said=$1 until=$((SECONDS + $2)) down_from=
  WORD=
  while kill -0 "$GUEST_PID" 2>/dev/null; do
    WORD=$(last_word "$said" || true)
    case $WORD in
      @@cut) kill -9 "$GUEST_PID" ;;
      @@reboot) [ -n "$down_from" ] || down_from=$(now_s) ;;
    esac
    if [ $SECONDS -gt $until ]; then
      kill -9 "$GUEST_PID"
      WORD="@@fail no end after $2 s, last word '$WORD'"
      break
    fi
    sleep 0.2
  done
  wait "$GUEST_PID" 2>/dev/null || true
  case $WORD in @@fail*) return ;; esac
  WORD=$(last_word "$said" || true)
  if [ -n "$down_from" ]; then
    printf 'down in %s s\n' "$(seconds_since "$down_from")" >>"$said"
    if [ "$(seconds_since "$down_from")" -gt "$((SHUTDOWN_LIMIT_S * $(patience)))" ]; then
      WORD="@@fail going down took $(seconds_since "$down_from") s"
    fi
  fi
}

# Emulated processors sometimes trip over the kernel's changes to its own code while it starts (seen in sched_clock_tick, before
# any module was there). That is no word about us: ublk_drv was not even loaded.
died_of_emulation() {
  [ "$(patience)" != 1 ] && [ ! -s "$1.said" ] && grep -aq 'Kernel panic' "$1.console" && ! grep -aq 'ublk' "$1.console"
}

# run_boots FOLDER GUEST KERNEL MODE: sets WORD to how the scenario ended.
run_boots() {
  local folder=$1 guest=$2 kernel=$3 mode=$4 boot=0 again=0
  # shellcheck disable=SC2086
  make_disks "$folder" $DISKS
  if [ "$guest" = node ]; then
    qemu-img create -q -f qcow2 -F raw -b "$VM_DIR/node.img" "$folder/root.qcow2"
  fi
  while :; do
    boot=$((boot + 1))
    write_facts "$folder" "$guest" "$kernel" "$mode" "$boot"
    if declare -F "host_before_boot_$boot" >/dev/null; then (cd "$folder" && "host_before_boot_$boot"); fi
    start_guest "$folder" "$guest" "$kernel" "$boot" "$(order_of_boot "$boot")"
    # Where the shell would say that QEMU was killed.
    wait_for_end "$folder/boot$boot.said" "$((LIMIT_S * $(patience)))" 2>/dev/null
    case $WORD in
      @@reboot | @@cut) ;;
      "")
        if [ "$again" -lt 2 ] && died_of_emulation "$folder/boot$boot"; then
          again=$((again + 1))
          mv "$folder/boot$boot.console" "$folder/boot$boot.console.died-of-emulation-$again"
          say "the emulated kernel died while it started; booting it again"
          boot=$((boot - 1))
          continue
        fi
        WORD="@@fail the guest went down without a word"
        return
        ;;
      *) return ;;
    esac
  done
}
