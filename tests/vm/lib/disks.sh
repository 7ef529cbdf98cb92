# shellcheck shell=bash
# The disks of a scenario: sparse files, shown to the guest as NVMe disks with serials DISK1, DISK2, ... `MIB:BLOCK` in DISKS is a disk
# with logical blocks of BLOCK bytes.

# make_disks FOLDER MIB[:BLOCK]...
make_disks() {
  local folder=$1 number=0 mib
  shift
  for mib in "$@"; do
    number=$((number + 1))
    truncate -s "${mib%%:*}M" "$folder/disk$number.img"
  done
}

# disk_options FOLDER NUMBER...: in the order in which the guest shall find them. Killing QEMU loses nothing that it was
# given, so the host need not sync: cache=unsafe.
disk_options() {
  local folder=$1 number block
  local -a sizes
  shift
  read -ra sizes <<<"$DISKS"
  for number in "$@"; do
    block=${sizes[number - 1]}
    case $block in *:*) block=${block#*:} ;; *) block=512 ;; esac
    printf -- '-drive file=%s,format=raw,if=none,id=d%s,cache=unsafe,discard=unmap -device nvme,drive=d%s,serial=DISK%s,logical_block_size=%s,physical_block_size=%s ' \
      "$folder/disk$number.img" "$number" "$number" "$number" "$block" "$block"
  done
}

# lab_disk FOLDER: a small disk that carries the scenario to a node, as a tar.
lab_disk() {
  tar -C "$1" -cf "$1/lab.img" lab
  truncate -s %1M "$1/lab.img"
}
