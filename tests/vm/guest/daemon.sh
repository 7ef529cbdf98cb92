# shellcheck shell=dash disable=SC2154
# The daemon, as the machine has it: a systemd unit on a node, a child of the scenario elsewhere.

export BEDPLATE_SOCKET="${BEDPLATE_SOCKET:-/run/bedplate/bedplate.sock}"

daemon_is_unit() { [ "$LAB_GUEST" = node ]; }

daemon_pid() {
  if daemon_is_unit; then
    systemctl show -P MainPID bedplated.service
  else
    cat "$LAB_TMP/bedplated.pid"
  fi
}

daemon_settings() {
  printf 'run_dir = "%s"\nstate_dir = "%s"\n' "${BEDPLATE_SOCKET%/*}" "$(state_dir)"
  # Of a scenario that wants more: keys, and sections.
  printf '%s\n%s\n' "${TOP_SETTINGS:-}" "${MORE_SETTINGS:-}"
  printf '[discovery]\ninterval_ms = 500\nall_block_devices = %s\n' "${LAB_LOOK_EVERYWHERE:-true}"
  printf '[ublk]\ndata_mode = "%s"\nqueues = %s\n' "$LAB_DATA_MODE" "${QUEUES:-1}"
}

# A quick guest's own folders are gone after a boot. KEEP_STATE=1, with a KEEP_DISK: these are not.
state_dir() { if [ -n "${KEEP_STATE:-}" ]; then echo "$LAB_KEEP/state"; else echo "$LAB_TMP/state"; fi; }

# One that hangs is no answer, and must not keep the scenario from saying so.
daemon_answers() { timeout 60 bedplate status; }

# daemon_start [FLAG...]: and waits until it answers.
daemon_start() {
  if daemon_is_unit; then
    must systemctl start bedplated.service
  else
    mkdir -p "$(state_dir)"
    daemon_settings >"$LAB_TMP/bedplated.toml"
    bedplated --config "$LAB_TMP/bedplated.toml" "$@" >>"$LAB_TMP/bedplated.log" 2>&1 &
    echo $! >"$LAB_TMP/bedplated.pid"
  fi
  within 30 daemon_answers
}

# SIGKILL. On a node systemd starts the next one by itself; elsewhere the caller does.
daemon_kill() {
  local pid
  pid=$(daemon_pid)
  kill -9 "$pid"
  if ! daemon_is_unit; then
    wait "$pid" 2>/dev/null || true
  fi
}

# kill_in_flight DEVICE: SIGKILL at a moment when DEVICE has requests in flight; sets IN_FLIGHT to their number. Shell built-ins
# only between the look and the kill, so that they are still there.
kill_in_flight() {
  local pid
  pid=$(daemon_pid)
  IN_FLIGHT=0
  while [ "$IN_FLIGHT" = 0 ]; do
    read -r IN_FLIGHT _ <"/sys/block/${1#/dev/}/inflight"
  done
  kill -9 "$pid"
  if ! daemon_is_unit; then
    wait "$pid" 2>/dev/null || true
  fi
}

daemon_stop() {
  local pid
  if daemon_is_unit; then
    must systemctl stop bedplated.service
  else
    pid=$(daemon_pid)
    kill -TERM "$pid"
    wait "$pid" 2>/dev/null || true
  fi
}

daemon_restart() {
  if daemon_is_unit; then
    must systemctl restart bedplated.service
    within 30 daemon_answers
  else
    daemon_stop
    daemon_start "$@"
  fi
}

# other_daemon COMMAND...: runs COMMAND as a client of a second daemon, whose files are all in one folder.
other_daemon() { BEDPLATE_SOCKET="$LAB_TMP/other/bedplate.sock" "$@"; }

# other_daemon_start [FLAG...]: one that knows only the disks that it is given.
other_daemon_start() {
  # Live files need a tmpfs, which a quick guest's /tmp is.
  mkdir -p "$LAB_TMP/other/live"
  printf '[discovery]\nall_block_devices = false\n' >"$LAB_TMP/other/bedplated.toml"
  bedplated --config "$LAB_TMP/other/bedplated.toml" --run-dir "$LAB_TMP/other" --state-dir "$LAB_TMP/other" \
    --socket "$LAB_TMP/other/bedplate.sock" "$@" >"$LAB_TMP/other/bedplated.log" 2>&1 &
  OTHER_PID=$!
  within 30 other_daemon bedplate status
}

other_daemon_stop() {
  kill -TERM "$OTHER_PID"
  wait "$OTHER_PID" 2>/dev/null || true
}
