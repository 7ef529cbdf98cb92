# shellcheck shell=bash
# The node: a Debian root with a full systemd, Bedplate installed in it by `make install`, on a GPT disk image.

# lvm2, mdadm and fdisk make the foreign signatures that `disk format` must refuse; fio, xfsprogs and dmsetup are for volumes.
NODE_PACKAGES="systemd,systemd-sysv,udev,kmod,util-linux,e2fsprogs,procps,dbus,fdisk,lvm2,mdadm,fio,xfsprogs,dmsetup"
# Names of NVMe disks change from boot to boot, so the kernel is told the partition's UUID. It means nothing else.
ROOT_PARTUUID=0c0ffee0-1111-4222-8333-444455556666
ROOT_MIB=1536
NODE_ROOT=$VM_DIR/node-root

build_node_root() {
  local new=$NODE_ROOT.new
  rm -rf "$new" "$NODE_ROOT"
  # What LVM and RAID do to every block device at boot is no part of this test.
  # shellcheck disable=SC2016
  mmdebstrap -q --variant=minbase --include="$NODE_PACKAGES" \
    --customize-hook='rm -f "$1"/usr/lib/udev/rules.d/*-lvm*.rules "$1"/usr/lib/udev/rules.d/*-md-raid*.rules' \
    --customize-hook='chroot "$1" systemctl -q mask lvm2-monitor.service lvm2-lvmpolld.socket mdmonitor.service mdcheck_start.timer mdmonitor-oneshot.timer systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer' \
    --customize-hook='sed -i "s/^root:[^:]*:/root::/" "$1/etc/shadow"; echo bedplate-node >"$1/etc/hostname"' \
    trixie "$new" "deb [signed-by=$ARCHIVE_KEYRING] $(debian_archive) trixie main" >"$VM_DIR/mmdebstrap.log" 2>&1 ||
    die "mmdebstrap failed: see $VM_DIR/mmdebstrap.log"
  rm -rf "$new/var/cache/apt" "$new/var/lib/apt/lists" "$new/usr/share/doc" "$new/usr/share/locale" "$new/usr/share/man"
  mv "$new" "$NODE_ROOT"
}

# Done once on a new root, or good for nothing on a guest without a screen: an emulated one would need half a minute a boot for them.
NOT_STARTED="ldconfig.service systemd-journal-catalog-update.service systemd-update-done.service systemd-binfmt.service
  proc-sys-fs-binfmt_misc.automount e2scrub_reap.service xfs_scrub_all.timer getty@tty1.service
  modprobe@fuse.service modprobe@efi_pstore.service modprobe@configfs.service modprobe@drm.service
  sys-fs-fuse-connections.mount sys-kernel-config.mount systemd-pstore.service"

# node_image_key: what the image is made of. A change of any of it makes a new image.
node_image_key() {
  {
    cat "$VM_DIR/done.node-root" "$VM_DIR"/kernel-*/version
    # shellcheck disable=SC2086
    (cd "$BIN_DIR" && sha256sum $BINARIES)
    (cd "$TOP" && find packaging tests/vm/guest/node-agent tests/vm/guest/bedplate-lab.service tests/vm/lib/node_root.sh Makefile -type f -print0 | sort -z | xargs -0 sha256sum)
  } | sha256sum | cut -c1-16
}

build_node_image() {
  local stage=$VM_DIR/node-stage image=$VM_DIR/node.img kernel tool
  rm -rf "$stage" "$image"
  cp -a "$NODE_ROOT" "$stage"
  for kernel in $KERNELS; do
    mkdir -p "$stage/usr/lib/modules"
    cp -a "$(kernel_dir "$kernel")/modules/usr/lib/modules/." "$stage/usr/lib/modules/"
  done
  make -s -C "$TOP" install-files DESTDIR="$stage" BIN_DIR="$BIN_DIR" STRIP=1
  for tool in $GUEST_BINARIES; do install -m 0755 -s "$BIN_DIR/$tool" "$stage/usr/bin/$tool"; done
  install -d "$stage/usr/lib/bedplate-lab" "$stage/usr/lib/systemd/system/multi-user.target.wants"
  install -m 0755 "$TOP/tests/vm/guest/node-agent" "$stage/usr/lib/bedplate-lab/node-agent"
  install -m 0644 "$TOP/tests/vm/guest/bedplate-lab.service" "$stage/usr/lib/systemd/system/"
  ln -s ../bedplate-lab.service "$stage/usr/lib/systemd/system/multi-user.target.wants/"
  # shellcheck disable=SC2086
  chroot "$stage" systemctl -q mask $NOT_STARTED
  chroot "$stage" sh -eu -c 'systemd-sysusers bedplate.conf; systemctl -q enable bedplated.service bedplate-devices.service' \
    >"$VM_DIR/node-image.log" 2>&1 || die "cannot enable Bedplate in the node's root: see $VM_DIR/node-image.log"
  truncate -s $((ROOT_MIB + 4))M "$image.new"
  printf 'label: gpt\nstart=2048, size=%d, uuid=%s\n' $((ROOT_MIB * 2048)) "$ROOT_PARTUUID" | sfdisk -q "$image.new"
  mke2fs -q -t ext4 -E offset=1048576,lazy_itable_init=1 -d "$stage" "$image.new" "${ROOT_MIB}M"
  rm -rf "$stage"
  mv "$image.new" "$image"
}
