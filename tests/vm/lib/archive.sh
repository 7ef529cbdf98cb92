# shellcheck shell=bash
# Where Debian packages come from: the machine's own apt sources say it, in whichever format they are written
# (`apt-get indextargets` reads both). Needs one `apt-get update` first, since origin and codename are in the release files.

machine_codename() {
  # shellcheck disable=SC1091
  (. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
}

# archive_of SUITE: address of the archive from which this machine takes SUITE's main component; nothing if it does not.
archive_of() {
  # shellcheck disable=SC2016
  apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' |
    awk -F'|' -v suite="$1" '$1 ~ /^Debian/ && $2 == "main" && $3 == suite && !found++ { print $4 }'
}

debian_archive() {
  local address
  address=$(archive_of "$(machine_codename)")
  [ -n "$address" ] || die "no Debian archive in this machine's apt sources (see 'apt-get indextargets'): the harness needs Debian 12 or newer"
  printf '%s' "$address"
}

ARCHIVE_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# apt with a sources list and a state of its own: the machine's stays as it is.
private_apt() {
  local tool=$1
  shift
  "$tool" -o Dir::Etc::sourcelist="$VM_DIR/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$VM_DIR/apt/lists" -o Dir::Cache="$VM_DIR/apt/cache" \
    -o APT::Sandbox::User=root -o Debug::NoLocking=1 "$@"
}

private_apt_update() {
  local archive suite
  archive=$(debian_archive)
  mkdir -p "$VM_DIR/apt/lists/partial" "$VM_DIR/apt/cache/archives/partial"
  for suite in trixie trixie-backports; do
    printf 'deb [signed-by=%s] %s %s main\n' "$ARCHIVE_KEYRING" "$archive" "$suite"
  done >"$VM_DIR/apt/sources.list"
  private_apt apt-get -qq update
}
