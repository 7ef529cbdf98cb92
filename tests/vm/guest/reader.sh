# shellcheck shell=dash disable=SC2154
# A reader that keeps one open file on a device and checks every byte (tests/src/bin/guest-reader.rs).

# reader_start NAME DEVICE IMAGE: in the background; IMAGE holds what must be read. It gives way to the daemon and to the scenario's own
# commands: an emulated guest has no processor to spare, and each command took seconds beside it.
reader_start() {
  nice -n 19 guest-reader read --device "$2" --expect "$3" --threads 4 --log "$LAB_TMP/reader-$1.log" >"$LAB_TMP/reader-$1.out" 2>&1 &
  echo $! >"$LAB_TMP/reader-$1.pid"
  # Its first tally comes 200 ms after it said that it reads.
  within 20 grep -q '^reads=' "$LAB_TMP/reader-$1.log"
}

# reader_field NAME FIELD: of the last tally in its log, such as `reads=12 bytes=4096 ... longest_pause_ms=3`. The log may end with
# another line, or in the middle of one.
reader_field() { grep '^reads=.* longest_pause_ms=[0-9]*$' "$LAB_TMP/reader-$1.log" | tail -n 1 | tr ' ' '\n' | sed -n "s/^$2=//p"; }

# reader_goes_on NAME [SECONDS]: reads more than by now.
reader_read_more_than() { [ "$(reader_field "$1" reads)" -gt "$2" ]; }
reader_goes_on() { within "${2:-30}" reader_read_more_than "$1" "$(reader_field "$1" reads)"; }

# reader_stop NAME: it must have met no error and no wrong byte.
reader_stop() {
  local pid status=0
  pid=$(cat "$LAB_TMP/reader-$1.pid")
  kill -TERM "$pid"
  wait "$pid" || status=$?
  note "reader $1: $(tail -n 1 "$LAB_TMP/reader-$1.log")"
  if [ "$status" != 0 ]; then
    cat "$LAB_TMP/reader-$1.out"
    fail "reader $1 ended with $status"
  fi
}
