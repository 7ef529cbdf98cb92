# shellcheck shell=bash
# What the bench's guest has besides the quick guest: the rivals. Kernel targets are modules, qemu-nbd and fio come from a small Debian
# root, rublk from the Rust registry.

# qemu-utils brings 100 MB of libraries: in a root of its own, it is in nobody else's way.
BENCH_PACKAGES="fio,qemu-utils,dmsetup,e2fsprogs,mount"
BENCH_PROGRAMS="fio qemu-nbd qemu-img dmsetup mke2fs losetup"
BENCH_MODULES="dm-snapshot dm-thin-pool nbd loop ublk_drv"
# A bare loop target over ublk, by the author of ublk's own library. One version, so that figures can be compared over time.
RUBLK_VERSION=0.2.15
BENCH_ROOT=$VM_DIR/bench-root
BENCH_TOOLS=$VM_DIR/bench-tools

build_bench_root() {
  rm -rf "$BENCH_ROOT.new" "$BENCH_ROOT"
  mmdebstrap -q --variant=minbase --include="$BENCH_PACKAGES" trixie "$BENCH_ROOT.new" \
    "deb [signed-by=$ARCHIVE_KEYRING] $(debian_archive) trixie main" >"$VM_DIR/bench-root.log" 2>&1 ||
    die "mmdebstrap failed: see $VM_DIR/bench-root.log"
  mv "$BENCH_ROOT.new" "$BENCH_ROOT"
}

# Without its default feature: that one serves the memory of graphics cards, and needs OpenCL.
install_rublk() {
  nice cargo install -q rublk --version "$RUBLK_VERSION" --locked --no-default-features --root "$BENCH_TOOLS" --target-dir "$VM_DIR/rublk-build" \
    >"$VM_DIR/rublk.log" 2>&1 || die "rublk $RUBLK_VERSION cannot be built: see $VM_DIR/rublk.log"
  rm -rf "$VM_DIR/rublk-build"
}

# build_bench_archive KERNEL: what start_guest adds for `TOOLS=bench-KERNEL`.
build_bench_archive() {
  local kernel=$1 stage=$VM_DIR/bench-stage name file version number=0
  version=$(kernel_version "$kernel")
  rm -rf "$stage"
  mkdir -p "$stage"/usr/{bin,sbin,lib,lib64} "$stage/bench-modules"
  # As in the quick guest's root, so that unpacking one after the other does not replace a link by a folder.
  ln -s usr/lib "$stage/lib"; ln -s usr/lib64 "$stage/lib64"
  for name in $BENCH_PROGRAMS; do
    file=$(chroot "$BENCH_ROOT" sh -c "command -v $name")
    # /bin and /sbin are links: all of it goes to /usr.
    file=/usr/${file#/usr/}; file=${file//\/\//\/}
    install -D "$BENCH_ROOT$file" "$stage$file"
    chroot "$BENCH_ROOT" ldd "$file" | grep -oE '/[^ ]+' | while read -r library; do
      [ -e "$stage$library" ] || install -D "$BENCH_ROOT$library" "$stage$library"
    done
  done
  # QEMU opens block drivers as plug-ins; raw, qcow2 and nbd are built in, and nothing else is asked for.
  # Numbered in the order in which they go in: busybox's modprobe would need the quick guest's list of them to be made anew.
  for name in $BENCH_MODULES; do
    modprobe -d "$(kernel_dir "$kernel")/modules" -S "$version" --show-depends "$name" | awk '/^insmod/ {print $2}'
  done | awk '!seen[$0]++' | while read -r file; do
    number=$((number + 1))
    name=$stage/bench-modules/$(printf '%03d' "$number")-$(basename "$file")
    case $file in *.xz) xz -dc "$file" >"${name%.xz}" ;; *.zst) zstd -qdc "$file" >"${name%.zst}" ;; *) cp "$file" "$name" ;; esac
  done
  (cd "$stage" && find . -mindepth 1 | cpio -o -H newc --quiet) | zstd -q -3 -T2 >"$VM_DIR/quick-extra-bench-$kernel.cpio.zst.new"
  rm -rf "$stage"
  mv "$VM_DIR/quick-extra-bench-$kernel.cpio.zst.new" "$VM_DIR/quick-extra-bench-$kernel.cpio.zst"
}
