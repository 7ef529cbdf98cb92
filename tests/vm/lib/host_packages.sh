# shellcheck shell=bash
# Debian packages that this machine needs: to build Bedplate, and to make and run guests.

# libublk generates its bindings with clang at build time.
BUILD_PACKAGES="gcc libc6-dev make pkg-config clang libclang-dev"
GUEST_PACKAGES="mmdebstrap debian-archive-keyring busybox-static cpio kmod xz-utils zstd e2fsprogs fdisk util-linux procps"
# valgrind counts instructions.
CHECK_PACKAGES="shellcheck valgrind"
# Yardsticks, for the benches that run on this machine.
BENCH_HOST_PACKAGES="fio"

apt_install() {
  # Nothing that is there is given up for what is missing: apt would, to get two packages of one release.
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends --no-remove "$@" >"$VM_DIR/apt-install.log" 2>&1
}

# Debian 12's own Rust is older than what Cargo.toml asks for.
require_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$TOP/Cargo.toml")
  found=$(cargo --version 2>/dev/null | cut -d' ' -f2)
  [ -n "$found" ] || die "cargo is not in PATH: install Rust $wanted or newer (https://rustup.rs)"
  [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] || die "Rust $found is too old: $wanted or newer (rustup update)"
}

missing_packages() {
  local name
  for name in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || printf '%s ' "$name"
  done
}

# The stable release's qemu-system-x86 does not install beside a qemu-utils that came from backports; then all of it comes from there.
install_qemu() {
  local missing suite archive
  missing=$(missing_packages qemu-system-x86 qemu-utils)
  [ -n "$missing" ] || return 0
  # shellcheck disable=SC2086
  apt_install $missing && return 0
  # A part of QEMU of the stable release that is there already may have to be replaced, never removed.
  suite=$(machine_codename)-backports
  archive=$(archive_of "$suite")
  if [ -z "$archive" ]; then
    archive=$(debian_archive)
    say "set-up: adding $suite to this machine's apt sources (/etc/apt/sources.list.d/bedplate-qemu.list), for QEMU"
    printf 'deb [signed-by=%s] %s %s main\n' "$ARCHIVE_KEYRING" "$archive" "$suite" >/etc/apt/sources.list.d/bedplate-qemu.list
    apt-get -qq update
  fi
  # shellcheck disable=SC2086
  apt_install -t "$suite" $missing || die "QEMU does not install: see $VM_DIR/apt-install.log"
}

install_bench_packages() {
  local missing
  # shellcheck disable=SC2086
  missing=$(missing_packages $BENCH_HOST_PACKAGES)
  # shellcheck disable=SC2086
  [ -z "$missing" ] || apt_install $missing || die "cannot install $missing: see $VM_DIR/apt-install.log"
}

install_host_packages() {
  local missing
  [ "$(id -u)" = 0 ] || die "set-up installs packages and makes a root file system: run it as root"
  # shellcheck disable=SC2086
  missing=$(missing_packages $BUILD_PACKAGES $GUEST_PACKAGES $CHECK_PACKAGES)
  apt-get -qq update
  if [ -n "$missing" ]; then
    # shellcheck disable=SC2086
    apt_install $missing || die "cannot install $missing: see $VM_DIR/apt-install.log"
  fi
  install_qemu
}
