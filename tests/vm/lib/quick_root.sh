# shellcheck shell=bash
# The quick guest: a busybox initramfs with the modules, Bedplate's binaries and a few tools of the node's root, with its libraries.

# dm-*, brd and xfs are for volumes: slow disks, logged writes, file systems.
QUICK_MODULES="ublk_drv loop raid1 dm-mod dm-delay dm-flakey dm-log-writes brd xfs"
# dash too: the shell of busybox prefers its own programs to those of the same name. nice, pgrep: this busybox has none.
QUICK_TOOLS="/usr/bin/dash /usr/bin/lsblk /usr/sbin/wipefs /usr/sbin/blkid /usr/sbin/mke2fs /usr/sbin/sfdisk /usr/sbin/mkswap /usr/sbin/pvcreate /usr/sbin/mdadm /usr/bin/dd /usr/bin/setpriv /usr/bin/cmp /usr/sbin/e2fsck /usr/sbin/mkfs.xfs /usr/sbin/xfs_repair /usr/sbin/dmsetup /usr/sbin/blkdiscard /usr/bin/fallocate /usr/bin/nice /usr/bin/pgrep"
# fio stands on the libraries of Ceph and others, 60 MB: it has an archive of its own, for the scenarios that say `TOOLS=fio`.
QUICK_EXTRAS="fio"

# copy_libraries STAGE PROGRAM: what the node's root has for it.
copy_libraries() {
  local stage=$1 program=$2 library
  chroot "$NODE_ROOT" ldd "$program" | grep -oE '/[^ ]+' | while read -r library; do
    [ -e "$stage$library" ] || install -D "$NODE_ROOT$library" "$stage$library"
  done
}

quick_image_key() {
  {
    cat "$VM_DIR/done.node-root" "$VM_DIR"/kernel-*/version
    # shellcheck disable=SC2086
    (cd "$BIN_DIR" && sha256sum $QUICK_BINARIES)
    (cd "$TOP" && sha256sum tests/vm/guest/quick-init tests/vm/lib/quick_root.sh)
  } | sha256sum | cut -c1-16
}

build_quick_image() {
  local kernel=$1 stage=$VM_DIR/quick-stage version name module tool
  version=$(kernel_version "$kernel")
  rm -rf "$stage"
  mkdir -p "$stage"/{dev,proc,sys,run,tmp,root,etc,usr/bin,usr/sbin,usr/lib/modules/"$version"}
  ln -s usr/bin "$stage/bin"; ln -s usr/sbin "$stage/sbin"; ln -s usr/lib "$stage/lib"
  [ -e "$NODE_ROOT/usr/lib64" ] && mkdir -p "$stage/usr/lib64" && ln -s usr/lib64 "$stage/lib64"
  cp /bin/busybox "$stage/usr/bin/busybox"
  for name in $(busybox --list); do [ "$name" = busybox ] || ln -s busybox "$stage/usr/bin/$name"; done
  for tool in $QUICK_TOOLS; do
    rm -f "$stage/usr/bin/${tool##*/}"
    install -D "$NODE_ROOT$tool" "$stage$tool"
    copy_libraries "$stage" "$tool"
  done
  ln -sf dash "$stage/usr/bin/sh"
  for name in $QUICK_BINARIES; do
    strip --strip-debug -o "$NODE_ROOT/tmp/$name" "$BIN_DIR/$name"
    copy_libraries "$stage" "/tmp/$name"
    install -m 0755 "$NODE_ROOT/tmp/$name" "$stage/usr/bin/$name"
    rm "$NODE_ROOT/tmp/$name"
  done
  # busybox's modprobe does not read compressed modules.
  for module in $QUICK_MODULES; do
    modprobe -d "$(kernel_dir "$kernel")/modules" -S "$version" --show-depends "$module" | awk '/^insmod/ {print $2}' | while read -r name; do
      module=$stage/usr/lib/modules/$version/$(basename "$name")
      case $name in *.xz) xz -dc "$name" >"${module%.xz}" ;; *.zst) zstd -qdc "$name" >"${module%.zst}" ;; *) cp "$name" "$module" ;; esac
    done
  done
  cp "$(kernel_dir "$kernel")/modules/usr/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$stage/usr/lib/modules/$version/"
  depmod -b "$stage" "$version"
  printf 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$stage/etc/passwd"
  printf 'root:x:0:\nbedplate:x:990:\nnogroup:x:65534:\n' >"$stage/etc/group"
  install -m 0755 "$TOP/tests/vm/guest/quick-init" "$stage/init"
  (cd "$stage" && find . | cpio -o -H newc --quiet) | zstd -q -3 -T2 >"$VM_DIR/quick-$kernel.cpio.zst.new"
  rm -rf "$stage"
  mv "$VM_DIR/quick-$kernel.cpio.zst.new" "$VM_DIR/quick-$kernel.cpio.zst"
}

# build_quick_extra TOOL: what is the same on every kernel.
build_quick_extra() {
  local stage=$VM_DIR/quick-stage tool
  tool=$(chroot "$NODE_ROOT" sh -c "command -v $1")
  rm -rf "$stage"
  mkdir -p "$stage"/usr/{bin,sbin,lib,lib64}
  # As in the quick guest's root, so that unpacking one after the other does not replace a link by a folder.
  ln -s usr/lib "$stage/lib"; ln -s usr/lib64 "$stage/lib64"
  install -D "$NODE_ROOT$tool" "$stage$tool"
  copy_libraries "$stage" "$tool"
  (cd "$stage" && find . -mindepth 1 | cpio -o -H newc --quiet) | zstd -q -3 -T2 >"$VM_DIR/quick-extra-$1.cpio.zst.new"
  rm -rf "$stage"
  mv "$VM_DIR/quick-extra-$1.cpio.zst.new" "$VM_DIR/quick-extra-$1.cpio.zst"
}

build_quick_images() {
  local kernel extra
  for extra in $QUICK_EXTRAS; do build_quick_extra "$extra"; done
  for kernel in $KERNELS; do build_quick_image "$kernel"; done
}
