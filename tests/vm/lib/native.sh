# shellcheck shell=bash
# BEDPLATE_TEST_NATIVE=1: quick scenarios on this machine itself, with loop devices for disks, where it has ublk.

# Why a scenario cannot run here; nothing if it can.
native_obstacle() {
  [ "$(id -u)" = 0 ] || { echo "needs root"; return; }
  [ -e /dev/ublk-control ] || modprobe -q ublk_drv || { echo "this machine has no ublk_drv"; return; }
  if compgen -G '/dev/ublkc*' >/dev/null; then echo "this machine has ublk devices already: scenarios count on the numbers from 0"; return; fi
  case " $GUESTS " in *" quick "*) ;; *) echo "needs a node of its own"; return ;; esac
  if declare -F boot_2 >/dev/null || [ "$BOOTS" -gt 1 ]; then echo "needs a power cut"; return; fi
  if declare -F append_of_boot >/dev/null || grep -q unplug "$SCENARIO_FILE"; then echo "needs another machine"; fi
}

# run_native FOLDER MODE: sets WORD to how the scenario ended.
run_native() {
  local folder=$1 mode=$2 number=0 image
  WORD=$(native_obstacle)
  if [ -n "$WORD" ]; then
    WORD="@@skip $WORD"
    return
  fi
  write_facts "$folder" native "$(uname -r)" "$mode" 1
  mkdir -p "$folder/tmp"
  # shellcheck disable=SC2086
  make_disks "$folder" $DISKS
  for image in "$folder"/disk*.img; do
    number=$((number + 1))
    losetup --find --show --direct-io=on "$image" >"$folder/tmp/disk$number"
  done
  (cd "$folder/lab" && PATH=$BIN_DIR:$PATH LAB_TMP=$folder/tmp LAB_KEEP=$folder/tmp BEDPLATE_SOCKET=$folder/tmp/run/bedplate.sock \
    timeout "$LIMIT_S" sh guest-main) >"$folder/boot1.said" 2>&1 || true
  WORD=$(last_word "$folder/boot1.said" || true)
  if [ -e "$folder/tmp/bedplated.pid" ]; then kill -9 "$(cat "$folder/tmp/bedplated.pid")" 2>/dev/null || true; fi
  "$BIN_DIR/bedplated" remove-devices >/dev/null 2>&1 || true
  for image in "$folder"/tmp/disk[0-9]*; do losetup -d "$(cat "$image")"; done
}
