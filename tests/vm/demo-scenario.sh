# shellcheck shell=dash disable=SC2034,SC2154
# What `make demo` shows, in the node.

boot_1() {
  began=$(uptime_ms)
  chapter "3. A disk for images"
  shown bedplate disk format "$(disk 1)"

  chapter "4. A real image: Debian 13, with a partition table"
  mkdir -p /srv/library
  must mount -o ro "$(disk 2)" /srv/library
  sum=$(sum_of sha256 /srv/library/debian-13.raw)
  shown bedplate --progress plain image import debian-13 /srv/library/debian-13.raw --sha256 "$sum"
  shown bedplate image list

  chapter "5. Attached: a block device that anything can use"
  shown bedplate image attach debian-13
  device=$(bedplate image attach debian-13)
  keep device "$device"
  keep sum "$sum"
  mkdir -p /mnt/debian
  mount_image
  shown cat /mnt/debian/etc/debian_version
  must umount /mnt/debian
  unmap_image

  chapter "6. kill -9, while a reader compares every byte"
  reader_start demo "$device" /srv/library/debian-13.raw
  sleep 3
  was=$(daemon_pid)
  from=$(uptime_ms)
  say_run "kill -9 $was"
  kill -9 "$was"
  within 60 is_another_daemon
  within 60 daemon_answers
  back_on debian-13 "$device" 60
  say_result "Ready again on $device after $(seconds "$from")"
  sleep 3
  reader_stop demo

  clone

  chapter "8. The node reboots"
  say_run "systemctl reboot"
}

# A disk that a virtual machine would boot: a clone, larger than the image, written to while its daemon dies.
clone() {
  chapter "7. A writable clone, and kill -9 under writes"
  shown bedplate volume create vm1 --image debian-13 --size 2G
  shown bedplate volume attach vm1
  vm=$(bedplate volume attach vm1)
  keep vm "$vm"
  # Past the image's partition there is room for one more; the image's own stays as it is.
  say_run "mkfs.ext4 -E offset=$((640 * 1048576)) $vm; mount; fio, or here: files that a seed describes"
  data=$(losetup --find --show --offset $((640 * 1048576)) "$vm")
  must mke2fs -q -F -t ext4 "$data"
  mkdir -p /mnt/data
  must mount "$data" /mnt/data
  write_files &
  files=$!
  sleep 3
  was=$(daemon_pid)
  from=$(uptime_ms)
  say_run "kill -9 $was"
  kill -9 "$was"
  within 60 is_another_daemon
  within 60 daemon_answers
  volume_back_on vm1 "$vm" 60
  say_result "Ready again on $vm after $(seconds "$from"), under the mounted file system"
  wait "$files" || fail "writing files"
  (cd /mnt/data && sha256sum file-*) >"$LAB_KEEP/files"
  must umount /mnt/data
  must losetup -d "$data"
  shown bedplate volume show vm1
}

write_files() {
  for number in 1 2 3 4 5 6 7 8; do
    guest-reader gen --seed "$number" --size $((number * 2000003)) --allocated $((number * 2000003)) "/mnt/data/file-$number" || return
    sync "/mnt/data/file-$number" || return
  done
}

boot_2() {
  back_on debian-13 "$(kept device)" 120
  say_result "Ready again on $(kept device), by itself, nothing imported"
  volume_back_on vm1 "$(kept vm)" 120
  say_result "vm1 too, on $(kept vm)"
  shown bedplate image list
  shown bedplate volume list
  chapter "9. Is it the same?"
  say_run "sha256sum $(kept device)"
  after=$(sum_of sha256 "$(kept device)")
  printf '    source  %s\n    device  %s\n' "$(kept sum)" "$after"
  equal "SHA-256 of the device" "$(kept sum)" "$after"
  data=$(losetup --find --show --offset $((640 * 1048576)) "$(kept vm)")
  say_run "e2fsck -fn on the clone; its files: sha256sum -c"
  must e2fsck -fn "$data"
  mkdir -p /mnt/data
  must mount -o ro "$data" /mnt/data
  (cd /mnt/data && must sha256sum -c "$LAB_KEEP/files")
  must umount /mnt/data
  must losetup -d "$data"
  say_result "every byte of the image and of the clone is as it was"
}

chapter() { printf '\n\033[1m%s\033[0m\n' "$*"; }
say_run() { printf '  \033[36m# %s\033[0m\n' "$*"; }
say_result() { printf '    -> %s\n' "$*"; }
seconds() { awk -v ms="$(($(uptime_ms) - $1))" 'BEGIN {printf "%.1f s", ms / 1000}'; }

# shown COMMAND...: as a person would see it, with the time that it took.
shown() {
  from=$(uptime_ms)
  say_run "$*"
  "$@" >"$LAB_TMP/shown" 2>&1 || {
    cat "$LAB_TMP/shown"
    fail "$*"
  }
  sed 's/^/    /' "$LAB_TMP/shown"
  printf '    (%s)\n' "$(seconds "$from")"
}

# The device shows its bytes only: the kernel does not look for partitions on it, so the offset is given.
mount_image() {
  say_run "mount -o ro,noload,offset=1048576 $device /mnt/debian"
  loop=$(losetup --find --show --read-only --offset 1048576 "$device")
  must mount -o ro,noload "$loop" /mnt/debian
}
unmap_image() { must losetup -d "$loop"; }

is_another_daemon() {
  pid=$(daemon_pid)
  [ "$pid" != 0 ] && [ "$pid" != "$was" ]
}
