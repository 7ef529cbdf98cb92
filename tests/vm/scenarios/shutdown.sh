# shellcheck shell=dash disable=SC2034
# The node goes down with a mounted file system and an open reader on its devices: it does not hang, with a daemon or without.
GUESTS="node"
DISKS="512"

boot_1() {
  mkdir -p /var/log/journal
  must journalctl --flush
  must bedplate disk format "$(disk 1)"
  mkdir -p "$LAB_TMP/tree"
  echo "written by $(uname -r)" >"$LAB_TMP/tree/hello"
  # The node's root keeps the image for the later boots to compare with.
  must mke2fs -q -t ext4 -d "$LAB_TMP/tree" "$LAB_KEEP/fs.raw" 24M
  must bedplate image import fs "$LAB_KEEP/fs.raw"
  keep device "$(bedplate image attach fs)"
  in_use
  clone_in_use
}

# A file system on a clone, mounted for writing, with a file that was not synced: systemd unmounts it before the devices go.
clone_in_use() {
  new_clone vm fs --size 48M
  keep vm "$DEVICE"
  must mke2fs -q -F -t ext4 "$DEVICE"
  mkdir -p /mnt/vm
  must mount "$DEVICE" /mnt/vm
  must guest-reader gen --seed 1 --size 3000001 --allocated 3000001 /mnt/vm/file
}

clone_is_whole() {
  volume_back_on vm "$(kept vm)" 60
  must e2fsck -fn "$(kept vm)"
  mkdir -p /mnt/vm
  must mount -o ro "$(kept vm)" /mnt/vm
  must guest-reader gen --seed 1 --size 3000001 --allocated 3000001 "$LAB_TMP/file"
  must cmp "$LAB_TMP/file" /mnt/vm/file
  must umount /mnt/vm
}

# Goes on while the node goes down.
in_use() {
  mkdir -p /mnt/fs
  must mount -o ro,noload "$(kept device)" /mnt/fs
  grep -q 'written by' /mnt/fs/hello || fail "the file system does not hold what it must"
  must systemd-run --quiet --unit=lab-reader --property=KillMode=none --property=SendSIGKILL=no \
    guest-reader read --device "$(kept device)" --expect "$LAB_KEEP/fs.raw" --log /var/tmp/lab/reader.log
  within 20 grep -q reading /var/tmp/lab/reader.log
}

boot_2() {
  back_on fs "$(kept device)" 60
  devices_were_removed
  clone_is_whole
  in_use
  # And now with no daemon: nobody is there who could serve a flush or remove a device.
  daemon=$(daemon_pid)
  must systemctl mask --runtime --quiet bedplated.service
  must kill -9 "$daemon"
  within 20 no_daemon
}

no_daemon() { [ "$(daemon_pid)" = 0 ]; }

boot_3() {
  back_on fs "$(kept device)" 60
  devices_were_removed
  device_is_right "$(kept device)" "$LAB_KEEP/fs.raw"
  clone_is_whole
}

# The unit did its work and ended well, and each of its steps can be read afterwards, with the time since that boot.
devices_were_removed() {
  journalctl -b -1 -u 'bedplate*' --no-pager -o short-monotonic | sed -n '/Stopping bedplate-devices/,$p' >"$LAB_TMP/removal"
  sed 's/bedplate-node //; s/^/  /' "$LAB_TMP/removal"
  grep -q 'bedplate-devices.service: Deactivated successfully' "$LAB_TMP/removal" || fail "bedplate-devices.service did not end well when the node went down"
}
