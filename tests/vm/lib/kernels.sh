# shellcheck shell=bash
# The kernels under test, unpacked from Debian packages; nothing is installed on this machine.
# Debian replaces versions every few weeks, so the newest one is looked up at set-up and none is pinned.

# Name of a kernel here -> Debian suite.
KERNELS="stable backports"
suite_of_kernel() {
  case $1 in
    stable) echo trixie ;;
    backports) echo trixie-backports ;;
    *) die "unknown kernel '$1': one of $KERNELS" ;;
  esac
}

kernel_dir() { printf '%s/kernel-%s' "$VM_DIR" "$1"; }
kernel_version() { cat "$(kernel_dir "$1")/version"; }

# newest_kernel SUITE: what the newest linux-image-cloud-amd64 of SUITE stands for, such as 6.12.107+deb13-cloud-amd64.
newest_kernel() {
  local package_version
  package_version=$(private_apt apt-cache madison linux-image-cloud-amd64 |
    awk -F'|' -v suite="$1" '$3 ~ " " suite "/main " && !found++ { gsub(/ /, "", $2); print $2 }')
  [ -n "$package_version" ] || die "no linux-image-cloud-amd64 in $1"
  private_apt apt-cache show "linux-image-cloud-amd64=$package_version" |
    sed -nE 's/^Depends:.*linux-image-([0-9][^ ,]*cloud-amd64).*/\1/p'
}

# Newer releases split the image: whichever of these packages exist hold the kernel.
kernel_packages() {
  local part
  for part in image binary modules base; do
    if private_apt apt-cache show "linux-$part-$1" >/dev/null 2>&1; then printf 'linux-%s-%s ' "$part" "$1"; fi
  done
}

unpack_kernel() {
  local name=$1 version=$2 dir new package modules
  dir=$(kernel_dir "$name")
  new=$dir.new
  rm -rf "$new" "$dir"
  mkdir -p "$new/deb" "$new/tree"
  # shellcheck disable=SC2046
  (cd "$new/deb" && private_apt apt-get -qq download $(kernel_packages "$version"))
  for package in "$new"/deb/*.deb; do dpkg -x "$package" "$new/tree"; done
  cp "$(find "$new/tree" -name "vmlinuz*" -type f -print -quit)" "$new/vmlinuz"
  # /lib/modules in older packages, /usr/lib/modules in newer ones.
  modules=$(find "$new/tree" -type d -path "*lib/modules/$version" -print -quit)
  [ -n "$modules" ] || die "the packages of kernel $version hold no modules"
  mkdir -p "$new/modules/usr/lib/modules"
  ln -s usr/lib "$new/modules/lib"
  mv "$modules" "$new/modules/usr/lib/modules/"
  depmod -b "$new/modules" "$version"
  printf '%s\n' "$version" >"$new/version"
  rm -rf "$new/deb" "$new/tree"
  mv "$new" "$dir"
}
