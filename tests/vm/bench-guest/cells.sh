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

# cell KIND SIZE DEPTH DEVICES: all devices, one after the other, each round with another one first.
cell() {
  local kind=$1 size=$2 depth=$3 one count=0 number
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
  for one in "$@"; do
    # shellcheck disable=SC2254
    case $one in ${BENCH_RIVALS:-*}) ;; *) continue ;; esac
    has_device "${one#*=}" || continue
    measure "$kind" "$size" "$depth" "${one%=*}" "$(device "${one#*=}")"
    count=$((count + 1))
  done
  note "round $round: $kind $size depth $depth, $QUEUES queue(s): $count devices"
}

# measure KIND SIZE DEPTH NAME DEVICE
measure() {
  local rw time jobs=$QUEUES base
  base=$RESULTS/$round.$1.$2.$3.$QUEUES.$4
  time="--time_based --runtime=$BENCH_SECONDS"
  case $1 in
    read) rw=randread ;;
    overwrite) rw=randwrite ;;
    # Each block once, as long as there are some: a clone that is written for the second time is no first touch.
    touch) rw=randwrite time="--runtime=$((BENCH_SECONDS * 2))" ;;
    touch-fsync) rw=randwrite time="--runtime=$((BENCH_SECONDS * 2)) --fsync=1" jobs=8 ;;
  esac
  local part=$(($(image_bytes) / jobs))
  # lfsr: every block once, in random order, and no table to look up what was there.
  # The processors' time is read when the threads are ready and when they end: fio's own start is not in it.
  # shellcheck disable=SC2086
  if ! (cd "$LAB_TMP" && fio --name=cell --filename="$5" --rw=$rw --bs="$2" --iodepth="$3" --numjobs="$jobs" --size="$part" \
    --offset_increment="$part" --direct=1 --ioengine=io_uring --random_generator=lfsr --randrepeat=1 --thread --group_reporting \
    --percentile_list=50:99 --exec_prerun='cat /proc/stat' --exec_postrun='cat /proc/stat' $time \
    --output-format=json --output="$base.json" >"$LAB_TMP/fio.out" 2>&1); then
    cat "$LAB_TMP/fio.out" "$base.json"
    fail "fio $1 on $4"
  fi
  head -n 1 "$LAB_TMP/cell.prerun.txt" >"$base.cpu"
  head -n 1 "$LAB_TMP/cell.postrun.txt" >>"$base.cpu"
  if [ "${BENCH_LOUD:-0}" = 1 ]; then
    note "$1 $2 $3 $4: $(sed -n 's/^ *"iops" : \([0-9]*\).*/\1/p' "$base.json" | sort -n | tail -n 1)"
  fi
}
