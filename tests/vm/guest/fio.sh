# shellcheck shell=dash disable=SC2154
# fio with verification. A scenario that uses it says `TOOLS=fio`.

# The job: eight of them, each with a part of the device of its own; sizes from 512 bytes to 256 KiB; what was written is read again and
# compared while it goes on, and all of it once more at the end of each pass.
FIO_SIZES=512/15:1k/10:2k/10:4k/25:16k/15:64k/15:256k/10
FIO_JOBS=8

# fio_job NAME DEVICE SEED [mixed|written]: on the first FIO_BYTES of DEVICE, or all of it. `mixed`: reads and compares while it writes.
# `written`: writes all, then compares, so that fio_verify can compare again later.
fio_job() {
  local part backlog=verify_backlog=64 rw=randrw
  part=$((${FIO_BYTES:-$(blockdev --getsize64 "$2")} / FIO_JOBS))
  [ "${4:-mixed}" = mixed ] || backlog='' rw=randwrite
  cat >"$LAB_TMP/fio-$1.job" <<TEXT
[global]
filename=$2
allow_file_create=0
direct=1
ioengine=${FIO_ENGINE:-io_uring}
iodepth=4
thread=1
rw=$rw
rwmixread=30
bssplit=$FIO_SIZES
randseed=$3
allrandrepeat=1
verify=crc32c
verify_fatal=1
verify_dump=0
$backlog
do_verify=1
size=$part
offset_increment=$part
numjobs=$FIO_JOBS
group_reporting=0

[verified]
TEXT
}

# fio_is_good NAME: its last run ended well, and no job of it met an error.
fio_is_good() {
  local errors
  errors=$(grep -E '"(error|total_err)"' "$LAB_TMP/fio-$1.json" | grep -vcE ': 0,?$' || true)
  [ "$(cat "$LAB_TMP/fio-$1.status")" = 0 ] && [ "$errors" = 0 ] && grep -q '"jobname"' "$LAB_TMP/fio-$1.json"
}

# fio_once NAME [FLAG...]: runs the job in fio-NAME.job; its status is fio's.
fio_once() {
  local name=$1 status=0
  shift
  fio --output-format=json --output="$LAB_TMP/fio-$name.json" "$@" "$LAB_TMP/fio-$name.job" >"$LAB_TMP/fio-$name.out" 2>&1 || status=$?
  echo "$status" >"$LAB_TMP/fio-$name.status"
  fio_is_good "$name"
}

fio_fault() {
  cat "$LAB_TMP/fio-$1.out"
  grep -E '"error"' "$LAB_TMP/fio-$1.json" | sort | uniq -c
  fail "fio $1 ended with $(cat "$LAB_TMP/fio-$1.status")"
}

# fio_start NAME DEVICE: pass after pass in the background, each with another seed, until fio_stop. fio-NAME.passes counts them.
fio_start() {
  rm -f "$LAB_TMP/fio-$1.stop"
  echo 0 >"$LAB_TMP/fio-$1.passes"
  (
    pass=0
    while [ ! -e "$LAB_TMP/fio-$1.stop" ]; do
      pass=$((pass + 1))
      fio_job "$1" "$2" "$((${LAB_SEED:-1} * 1000 + pass))"
      fio_once "$1" || exit 1
      echo "$pass" >"$LAB_TMP/fio-$1.passes"
    done
  ) &
  echo $! >"$LAB_TMP/fio-$1.pid"
}

fio_runs() { kill -0 "$(cat "$LAB_TMP/fio-$1.pid")" 2>/dev/null; }

# fio_no_fault NAME: it still runs, pass after pass.
fio_no_fault() { fio_runs "$1" || fio_fault "$1"; }

# fio_stop NAME: when the pass that it is in has ended.
fio_stop() {
  touch "$LAB_TMP/fio-$1.stop"
  wait "$(cat "$LAB_TMP/fio-$1.pid")" || fio_fault "$1"
  note "fio $1: $(cat "$LAB_TMP/fio-$1.passes") passes, all right"
}

# fio_write NAME DEVICE: all of it once, and compared; fio_verify does that again.
fio_write() {
  fio_job "$1" "$2" "${LAB_SEED:-1}" written
  fio_once "$1" || fio_fault "$1"
}
fio_verify() { fio_once "$1" --verify_only=1 || fio_fault "$1"; }
