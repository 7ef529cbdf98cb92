# shellcheck shell=dash disable=SC2034,SC2153,SC2154
# A guest reads an attached clone whose image is on two disks. One of them is unplugged and plugged in again under another name, then the other,
# which is the clone's own, too; then, with both copies of the image elsewhere, each of these; and last a controller that answers nobody until its
# driver resets it. The reader meets no error, and nothing is copied: what is back is Ready as it is.
GUESTS="quick"
DISKS="256 256 256"
MODES="auto user-copy"
LIMIT_S=600
# A disk that is away for so long is late, not lost: no copy is made elsewhere.
MORE_SETTINGS='[health]
interval_ms = 500
grace_ms = 240000
own_disk_wait_ms = 240000'

SIZE=33554432
IMAGE=seed:57:$SIZE:25165824

boot_1() {
  # How long the driver waits for a controller that answers nothing; taken when it finds one.
  echo 6 >/sys/module/nvme_core/parameters/io_timeout
  for number in 1 2 3; do unplug "$number"; done
  plug_in
  for number in 1 2 3; do within 20 find_disk "$number" >/dev/null; done
  daemon_start
  for number in 1 2; do must bedplate disk format "$(disk $number)"; done
  make_image "$LAB_TMP/image" 57 $SIZE 25165824
  must bedplate image import golden "$LAB_TMP/image" --copies 2
  rm "$LAB_TMP/image"
  within 120 copies_ready golden 2
  new_clone vm golden
  vm=$DEVICE
  pid=$(daemon_pid)
  own=$(number_of "$(volume_field vm disk_uuid)")
  reader_start vm "$vm" "$IMAGE"

  away_and_back $((3 - own)) goes_on
  note "the other copy's disk was away"
  away_and_back "$own" waits
  note "the clone's own disk was away"

  # Both copies elsewhere: the clone reads through two other disks.
  must bedplate disk format "$(disk 3)"
  must bedplate disk drain "$(disk "$own")"
  within 60 copies_ready golden 2
  ! replicas_in golden Ready | grep -q "$(disk_field "$own" uuid)" || fail "a copy is still on the drained disk"
  drains=$(all_jobs)
  for number in 3 $((3 - own)); do away_and_back "$number" goes_on; done
  equal "jobs since the drain" "$drains" "$(all_jobs)"
  note "each of the two disks that it reads was away"

  stunned 3
  reader_stop vm
  equal "the daemon" "$pid" "$(daemon_pid)"
  must bedplate image verify golden
  must bedplate volume detach vm
  daemon_stop
}

# number_of UUID: which of the scenario's disks that is.
number_of() {
  local number
  for number in 1 2; do
    [ "$(disk_field $number uuid)" != "$1" ] || { echo $number; return; }
  done
  fail "no disk is $1"
}

# away_and_back NUMBER goes_on|waits: what the reader does meanwhile.
away_and_back() {
  local name jobs_before
  uuid=$(disk_field "$1" uuid)
  name=$(disk "$1")
  jobs_before=$(all_jobs)
  # Whoever keeps it open keeps its name: what is plugged in again gets another one.
  exec 7<"$name"
  unplug "$1"
  within 30 disk_is "$uuid" Offline
  within 20 image_is_degraded golden
  image_is golden Ready || fail "golden is $(image_field golden state)"
  case $2 in
    goes_on) reader_goes_on vm ;;
    waits) within 20 volume_is vm Recovering ;;
  esac
  plug_in
  within 60 disk_is "$uuid" Online
  [ "$(disk "$1")" != "$name" ] || fail "it is $name again: nothing is shown of another name"
  within 30 copies_ready golden 2
  within 60 volume_ready vm "$vm"
  reader_goes_on vm
  equal "jobs" "$jobs_before" "$(all_jobs)"
  exec 7<&-
}

# stunned NUMBER: its controller decodes no address any more, as one that hangs: all that is asked of it waits for the driver's time-out and its reset.
stunned() {
  local controller
  uuid=$(disk_field "$1" uuid)
  controller=$(controller_of "$(disk "$1")")
  printf '\000\000' | dd of="$controller/device/config" bs=1 seek=4 count=2 conv=notrunc 2>/dev/null || fail "the controller's command register"
  within 60 was_reset
  reader_goes_on vm 60
  within 90 disk_is "$uuid" Online
  within 30 copies_ready golden 2
  note "a controller that hung: $(dmesg | grep -ciE 'nvme.*(timeout|reset)') lines of its driver"
}

# controller_of PATH: its folder. The device of a block device is its controller, or, as QEMU has it from version 8 on, the subsystem that it is in.
controller_of() {
  local device one
  device=$(readlink -f "/sys/block/$(basename "$1")/device")
  for one in "$device" "$device"/nvme*; do
    [ ! -e "$one/device/config" ] || { echo "$one"; return; }
  done
  fail "$1 has no controller"
}

was_reset() { dmesg | grep -qiE 'nvme.*(controller is down|reset|timeout)'; }
