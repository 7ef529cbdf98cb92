# shellcheck shell=dash disable=SC1091,SC2154,SC2034
# The bench, inside the guest (or on a machine that has ublk, with BENCH_HERE=1). What it measured goes to the results disk as a tar.
. ./bench.facts
. ./rivals.sh
. ./cells.sh
PATH=$PWD/bin:$PATH

boot_1() {
  RESULTS=$LAB_TMP/results
  QUEUES=1
  mkdir -p "$RESULTS"
  bench_modules
  note "$(uname -r), image of $IMAGE_MIB MiB, $BENCH_ROUNDS rounds of $BENCH_MS ms a cell"
  printf 'kernel %s\ncpus %s\nimage_mib %s\nrounds %s\ncell_ms %s\nmachine %s\n' "$(uname -r)" "$(grep -c ^processor /proc/cpuinfo)" \
    "$IMAGE_MIB" "$BENCH_ROUNDS" "$BENCH_MS" "$BENCH_MACHINE" >"$RESULTS/facts"
  up_all
  note "all rivals are up: $(cd "$LAB_TMP" && echo device.* | sed 's/device\.//g')"
  round=0
  # Round 0 warms everything up, and is thrown away. A clock that counts instructions sees no caches.
  if [ "$BENCH_CLOCK" != counted ]; then
    one_queue_round
    rm -f "$RESULTS"/0.*
  fi
  while [ "$round" -lt "$BENCH_ROUNDS" ]; do
    round=$((round + 1))
    one_queue_round
    hand_over
  done
  if [ "$BENCH_SHORT" = 0 ]; then
    two_queues
    round=0
    while [ "$round" -lt "$BENCH_ROUNDS" ]; do
      round=$((round + 1))
      two_queue_round
    done
    hand_over
  fi
  daemon_stop
}

# What there is so far, so that an interrupted run is not for nothing.
hand_over() {
  [ "$LAB_GUEST" = native ] || must sh -c "tar -C '$RESULTS' -cf - . | dd of='$(disk 1)' bs=1M oflag=direct iflag=fullblock conv=sync,notrunc"
}
