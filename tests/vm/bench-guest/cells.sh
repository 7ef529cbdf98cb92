# shellcheck shell=dash disable=SC2154
# The cells: one kind of request to one device for some seconds. A result is fio's JSON, and the processors' time before and after.

# What is read or written, by whom. NAME=DEVICE: how the report calls it, and which device serves it.
READERS="bare=bare loop=loop rublk-copy=rublk-copy rublk-zc=rublk-zc dm-snapshot=dm-snapshot-t dm-thin=dm-thin-t qcow2-nbd=qcow2-nbd-t
  bedplate-image=bedplate-image bedplate-clone-unwritten=bedplate-clone-t bedplate-clone=bedplate-clone-w"
WRITERS="bare=bare loop=loop rublk-copy=rublk-copy rublk-zc=rublk-zc dm-snapshot=dm-snapshot-w dm-thin=dm-thin-w qcow2-nbd=qcow2-nbd-w
  qcow2-ublk-no-base=qcow2-ublk-w bedplate-clone=bedplate-clone-w"
CLONES="dm-snapshot=dm-snapshot-t dm-thin=dm-thin-t qcow2-nbd=qcow2-nbd-t qcow2-ublk-no-base=qcow2-ublk-t bedplate-clone=bedplate-clone-t"
# Where only the bare targets say something.
FEW_READERS="bare=bare rublk-copy=rublk-copy rublk-zc=rublk-zc bedplate-image=bedplate-image bedplate-clone-unwritten=bedplate-clone-t"
FEW_WRITERS="bare=bare rublk-copy=rublk-copy rublk-zc=rublk-zc bedplate-clone=bedplate-clone-w"
QUEUE_READERS="rublk-copy=rublk-copy rublk-zc=rublk-zc bedplate-image=bedplate-image"
QUEUE_WRITERS="rublk-copy=rublk-copy rublk-zc=rublk-zc bedplate-clone=bedplate-clone-w"

# one_queue_round: all cells with one queue. Reads of unwritten clones come before the clones are written to.
one_queue_round() {
  fresh
  cell read 4k 32 "$READERS"
  cell overwrite 4k 32 "$WRITERS"
  if [ "$BENCH_SHORT" = 0 ]; then
    cell read 4k 1 "$FEW_READERS"
    cell read 4k 128 "$FEW_READERS"
    cell read 128k 8 "$FEW_READERS"
    cell read 1m 4 "$FEW_READERS"
    cell overwrite 4k 1 "$FEW_WRITERS"
    cell overwrite 4k 128 "$FEW_WRITERS"
    cell overwrite 128k 8 "$FEW_WRITERS"
    cell overwrite 1m 4 "$FEW_WRITERS"
  fi
  cell touch 4k 32 "$CLONES"
  fresh
  cell touch-fsync 4k 1 "$CLONES"
}

two_queue_round() {
  cell read 4k 32 "$QUEUE_READERS"
  cell overwrite 4k 32 "$QUEUE_WRITERS"
}

# cell KIND SIZE DEPTH DEVICES: all devices, one after the other, each round with another one first. One fio for all of them: its start costs
# more than a measurement.
cell() {
  local kind=$1 size=$2 depth=$3 one count=0 number rw time jobs=$QUEUES base part
  # BENCH_ONLY: a pattern of cells, for a closer look at one.
  # shellcheck disable=SC2254
  case "$kind-$size-$depth" in ${BENCH_ONLY:-*}) ;; *) return 0 ;; esac
  # shellcheck disable=SC2086
  set -- $4
  number=$((round % $#))
  while [ "$number" -gt 0 ]; do
    one=$1
    shift
    set -- "$@" "$one"
    number=$((number - 1))
  done
  time="time_based=1 runtime=${BENCH_MS}ms"
  case $kind in
    read) rw=randread ;;
    overwrite) rw=randwrite ;;
    # Each block once, as long as there are some: a clone that is written for the second time is no first touch.
    touch) rw=randwrite time="runtime=$((BENCH_MS * 2))ms" ;;
    touch-fsync) rw=randwrite time="runtime=$((BENCH_MS * 2))ms fsync=1" jobs=8 ;;
  esac
  part=$(($(image_bytes) / jobs))
  base=$RESULTS/$round.$kind.$size.$depth.$QUEUES
  # lfsr: every block once, in random order, and no table to look up what was there.
  # The processors' time is read when the threads are ready and when they end: fio's own start is not in it.
  {
    printf '[global]\n'
    printf '%s\n' "rw=$rw" "bs=$size" "iodepth=$depth" "numjobs=$jobs" "size=$part" "offset_increment=$part" direct=1 ioengine=io_uring \
      random_generator=lfsr randrepeat=1 thread=1 group_reporting=1 percentile_list=50:99 "exec_prerun=cat /proc/stat" "exec_postrun=cat /proc/stat"
    # shellcheck disable=SC2086
    printf '%s\n' $time
    for one in "$@"; do
      # shellcheck disable=SC2254
      case $one in ${BENCH_RIVALS:-*}) ;; *) continue ;; esac
      has_device "${one#*=}" || continue
      printf '[%s]\nstonewall\nfilename=%s\n' "${one%=*}" "$(device "${one#*=}")"
    done
  } >"$LAB_TMP/cell.job"
  if ! (cd "$LAB_TMP" && fio --output-format=json --output="$base.json" cell.job >fio.out 2>&1); then
    cat "$LAB_TMP/fio.out" "$base.json"
    fail "fio $kind"
  fi
  for one in "$@"; do
    one=${one%=*}
    [ -e "$LAB_TMP/$one.prerun.txt" ] || continue
    head -n 1 "$LAB_TMP/$one.prerun.txt" >"$base.$one.cpu"
    head -n 1 "$LAB_TMP/$one.postrun.txt" >>"$base.$one.cpu"
    rm "$LAB_TMP/$one.prerun.txt" "$LAB_TMP/$one.postrun.txt"
    count=$((count + 1))
  done
  note "round $round: $kind $size depth $depth, $QUEUES queue(s): $count devices"
}
