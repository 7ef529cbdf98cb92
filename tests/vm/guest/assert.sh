# shellcheck shell=dash
# What a scenario says and checks. A check that fails ends the scenario.

note() { printf '  %s %s\n' "$(uptime_s)" "$*"; }
uptime_s() { cut -d' ' -f1 /proc/uptime; }
uptime_ms() { awk '{printf "%d", $1 * 1000}' /proc/uptime; }

# The word for the runner, said once: @@pass, @@fail, @@skip, @@reboot, @@cut.
word_said=
word() {
  word_said=$1
  printf '@@%s\n' "$*"
}

fail() {
  printf 'not as it must be: %s\n' "$*"
  show_why
  word fail "$*"
  exit 1
}
skip() {
  word skip "$*"
  exit 0
}
pass() {
  word pass
  exit 0
}

# Called when the scenario's shell ends, on whatever path.
ended() {
  [ -n "$word_said" ] || {
    printf 'the scenario ended early, status %s\n' "$1"
    show_why
    word fail "ended early, status $1"
  }
  leave_guest
}

# must COMMAND...: has to succeed. Its output is shown only if it does not.
must() {
  if ! "$@" >"$LAB_TMP/out" 2>&1; then
    cat "$LAB_TMP/out"
    fail "$*"
  fi
}

# must_fail STATUS PATTERN COMMAND...: has to end with STATUS, and to say something that matches PATTERN.
must_fail() {
  local status=$1 pattern=$2 actual=0
  shift 2
  "$@" >"$LAB_TMP/out" 2>&1 || actual=$?
  if [ "$actual" != "$status" ]; then
    cat "$LAB_TMP/out"
    fail "$*: exit $actual, expected $status"
  fi
  if ! grep -qiE "$pattern" "$LAB_TMP/out"; then
    cat "$LAB_TMP/out"
    fail "$*: does not say '$pattern'"
  fi
}

# equal WHAT EXPECTED ACTUAL
equal() { [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"; }

# at_most WHAT LIMIT ACTUAL (whole numbers)
at_most() { [ "$3" -le "$2" ] || fail "$1: $3, at most $2"; }
at_least() { [ "$3" -ge "$2" ] || fail "$1: $3, at least $2"; }

# within SECONDS COMMAND...: tries until it succeeds. An emulated guest has several times the time.
within() {
  local until seconds=$1
  shift
  until=$(($(uptime_ms) + seconds * 1000 * ${LAB_PATIENCE:-1}))
  while ! "$@" >"$LAB_TMP/out" 2>&1; do
    if [ "$(uptime_ms)" -gt "$until" ]; then
      cat "$LAB_TMP/out"
      fail "not within $seconds s: $*"
    fi
    sleep 0.2
  done
}
