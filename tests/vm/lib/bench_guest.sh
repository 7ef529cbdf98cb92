# shellcheck shell=bash
# One guest in which something is measured, with release builds and the rivals. BENCH_KERNEL, BENCH_ROUNDS, BENCH_MS: see tests/vm/bench.

# Release builds: what is measured is what users run.
# build_programs MORE...
build_programs() {
  local flags
  flags=$(printf -- '--bin %s ' bedplated bedplate "$@")
  # shellcheck disable=SC2086
  (cd "$TOP" && nice cargo build -q --release $flags)
}

make_bench_guest() {
  once bench-root "$BENCH_PACKAGES" build_bench_root
  once bench-rublk "$RUBLK_VERSION" install_rublk
  once "bench-archive-$BENCH_KERNEL" "$(kernel_version "$BENCH_KERNEL") $BENCH_PACKAGES $BENCH_PROGRAMS $BENCH_MODULES" build_bench_archive "$BENCH_KERNEL"
}

# bench_facts FOLDER IMAGE_MIB MACHINE: for the scenario.
bench_facts() {
  local lab=$1/lab tool
  mkdir -p "$lab/bin"
  cp "$HERE"/bench-guest/*.sh "$lab/"
  # One of them is called as every scenario is in a guest, and need not be this one.
  cp "$SCENARIO_FILE" "$lab/scenario.sh"
  for tool in bedplated bedplate guest-pauses; do
    [ ! -e "$TARGET_DIR/release/$tool" ] || strip --strip-debug -o "$lab/bin/$tool" "$TARGET_DIR/release/$tool"
  done
  cp "$BENCH_TOOLS/bin/rublk" "$lab/bin/"
  printf 'IMAGE_MIB=%s\nBENCH_ROUNDS=%s\nBENCH_MS=%s\nBENCH_SHORT=%s\nBENCH_CLOCK=%s\nBENCH_ONLY="%s"\nBENCH_RIVALS="%s"\nBENCH_DISK="%s"\nBENCH_MACHINE="%s"\nBENCH_VOLUMES=%s\n' \
    "$2" "$BENCH_ROUNDS" "$BENCH_MS" "$BENCH_SHORT" "$BENCH_CLOCK" "${BENCH_ONLY:-*}" "${BENCH_RIVALS:-*}" "${BENCH_DISK:-}" "$3" "${BENCH_VOLUMES:-100}" >"$lab/bench.facts"
}

# How an emulated guest keeps time. `counted`: its clock is the count of its instructions, one processor: what else this machine does has no
# part in the figures, which say how much work a request is. `parallel`: two processors, a host thread each, and the host's clock: a target
# and its client overlap, as they would; on a machine that does anything else, the figures say mostly that.
BENCH_CLOCK=${BENCH_CLOCK:-counted}
clock_options() {
  if [ "$(cat "$VM_DIR/accelerator")" = kvm ]; then
    BENCH_CLOCK=kvm
    return
  fi
  case $BENCH_CLOCK in
    # A second of that clock is 10^9 instructions, so a tenth of the time holds as many requests.
    counted) CPUS=1 TCG_THREADS=single EXTRA_OPTIONS="-icount shift=0,sleep=off" BENCH_MS=$((BENCH_MS / 10)) ;;
    parallel) CPUS=2 TCG_THREADS=multi EXTRA_OPTIONS="" ;;
    *) die "BENCH_CLOCK is counted or parallel" ;;
  esac
  export TCG_THREADS
}

# run_in_guest SCENARIO_FILE: all that it says is printed; its disk and logs are in GUEST_FOLDER.
run_in_guest() {
  local name folder image_mib=64 machine said
  name=$(basename "$1" .sh)
  folder=$VM_DIR/runs/bench-$name.$BENCH_KERNEL
  GUEST_FOLDER=$folder
  # shellcheck disable=SC2034
  CPUS=2 EXTRA_OPTIONS=""
  clock_options
  machine="emulated, clock: $BENCH_CLOCK"
  if [ "$BENCH_CLOCK" = kvm ]; then machine=kvm image_mib=512; fi
  rm -rf "$folder"
  mkdir -p "$folder"
  # shellcheck disable=SC2034
  DISKS=64 MEMORY_MIB=$((1024 + image_mib * 40)) TOOLS="bench-$BENCH_KERNEL" SCENARIO_FILE=$1
  # shellcheck disable=SC2086
  make_disks "$folder" $DISKS
  write_facts "$folder" quick "$BENCH_KERNEL" auto 1
  bench_facts "$folder" "${BENCH_IMAGE_MIB:-$image_mib}" "$machine"
  said=$folder/boot1.said
  trap 'kill -9 ${GUEST_PID:-} ${TAIL_PID:-} 2>/dev/null || true' EXIT
  for _ in 1 2 3 4; do
    start_guest "$folder" quick "$BENCH_KERNEL" 1 1
    tail -n +1 -f "$said" &
    TAIL_PID=$!
    wait_for_end "$said" "${BENCH_LIMIT_S:-3600}" 2>/dev/null
    sleep 0.3
    kill "$TAIL_PID"
    if [ -z "$WORD" ] && died_of_emulation "$folder/boot1"; then
      say "the emulated kernel died while it started; booting it again"
      continue
    fi
    break
  done
}

ended_well() { [ "$WORD" = @@pass ] || die "the bench did not end well: '$WORD'; see $GUEST_FOLDER"; }

