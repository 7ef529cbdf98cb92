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
}

# The unit did its work and ended well, and each of its steps can be read afterwards, with the time since that boot.
devices_were_removed() {
  journalctl -b -1 -u 'bedplate*' --no-pager -o short-monotonic | sed -n '/Stopping bedplate-devices/,$p' >"$LAB_TMP/removal"
  sed 's/bedplate-node //; s/^/  /' "$LAB_TMP/removal"
  grep -q 'bedplate-devices.service: Deactivated successfully' "$LAB_TMP/removal" || fail "bedplate-devices.service did not end well when the node went down"
}
