# shellcheck shell=dash disable=SC2154
# A writer whose sectors say whose they are (tests/src/bin/guest-writer.rs): it knows what its device must hold while it runs, and
# notes in a journal, on another disk, what the device owes after a crash.

# writer_start NAME DEVICE JOURNAL [FLAG...]: in the background; gives way, as readers do. Flags: --fresh on the first round, --tag N, --base seed:..., ...
writer_start() {
  local name=$1 device=$2 journal=$3
  shift 3
  nice -n 19 guest-writer write --device "$device" --journal "$journal" --log "$LAB_TMP/writer-$name.log" "$@" >"$LAB_TMP/writer-$name.out" 2>&1 &
  echo $! >"$LAB_TMP/writer-$name.pid"
  within 30 grep -q '^writes=' "$LAB_TMP/writer-$name.log"
}

writer_line() { grep '^writes=.* longest_pause_ms=[0-9]*$' "$LAB_TMP/writer-$1.log" | tail -n 1; }

# writer_field NAME FIELD: of the last tally in its log.
writer_field() { writer_line "$1" | tr ' ' '\n' | sed -n "s/^$2=//p"; }

writer_wrote_more_than() { [ "$(writer_field "$1" writes)" -gt "$2" ]; }

# writer_goes_on NAME [WRITES]: it does, by so many more.
writer_goes_on() { within 60 writer_wrote_more_than "$1" "$(($(writer_field "$1" writes) + ${2:-20}))"; }

# writer_no_fault NAME: none so far.
writer_no_fault() {
  if grep '^fault' "$LAB_TMP/writer-$1.log"; then fail "writer $1 met a fault"; fi
}

# writer_ends NAME: of itself; it must have met no error and no wrong sector, and at its end all of them are read.
writer_ends() {
  local status=0
  wait "$(cat "$LAB_TMP/writer-$1.pid")" || status=$?
  note "writer $1: $(writer_line "$1")"
  if [ "$status" != 0 ]; then
    cat "$LAB_TMP/writer-$1.out"
    grep '^fault' "$LAB_TMP/writer-$1.log"
    fail "writer $1 ended with $status"
  fi
}

writer_stop() {
  kill -TERM "$(cat "$LAB_TMP/writer-$1.pid")"
  writer_ends "$1"
}

# writer_check WHAT DEVICE JOURNAL [FLAG...]: after a crash. Flags: --base, --exact, --settle, --floor-only.
writer_check() {
  local what=$1 device=$2 journal=$3
  shift 3
  guest-writer check --device "$device" --journal "$journal" "$@" >"$LAB_TMP/check.out" 2>&1 || {
    cat "$LAB_TMP/check.out"
    fail "$what: promises were broken"
  }
  note "$what: $(tail -n 1 "$LAB_TMP/check.out")"
}

# sectors_of TAG DEVICE: how many there are.
sectors_of() { guest-writer count --tag "$1" --device "$2"; }
