# shellcheck shell=bash
# The disks of a scenario: sparse files, shown to the guest as NVMe disks with serials DISK1, DISK2, ...

# make_disks FOLDER MIB...
make_disks() {
  local folder=$1 number=0 mib
  shift
  for mib in "$@"; do
    number=$((number + 1))
    truncate -s "${mib}M" "$folder/disk$number.img"
  done
}

# disk_options FOLDER NUMBER...: in the order in which the guest shall find them. Killing QEMU loses nothing that it was
# given, so the host need not sync: cache=unsafe.
disk_options() {
  local folder=$1 number
  shift
  for number in "$@"; do
    printf -- '-drive file=%s,format=raw,if=none,id=d%s,cache=unsafe,discard=unmap -device nvme,drive=d%s,serial=DISK%s ' \
      "$folder/disk$number.img" "$number" "$number" "$number"
  done
}

# lab_disk FOLDER: a small disk that carries the scenario to a node, as a tar.
lab_disk() {
  tar -C "$1" -cf "$1/lab.img" lab
  truncate -s %1M "$1/lab.img"
}
