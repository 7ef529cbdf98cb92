# shellcheck shell=dash disable=SC2154
# Images and disks, through the command line only.

# json_field FIELD: the first value of that name in the JSON on standard input.
json_field() { tr ',{}[]' '\n' | sed -n "s/^ *\"$1\": *\"\{0,1\}\([^\"]*\)\"\{0,1\} *\$/\1/p" | sed -n 1p; }

# image_field NAME FIELD, for instance `image_field ubuntu sha256`.
image_field() { bedplate -o json image show "$1" | json_field "$2"; }

# disk_field N FIELD
disk_field() { bedplate -o json disk show "$(disk "$1")" | json_field "$2"; }

# disk_is DISK STATE: a path, or the UUID of one that may be away.
disk_is() { [ "$(bedplate -o json disk show "$1" | json_field state)" = "$2" ]; }

# make_image FILE SEED SIZE ALLOCATED
make_image() { must guest-reader gen --seed "$2" --size "$3" --allocated "$4" "$1"; }

# make_marked_file FILE LINES: text whose lines can be found on a disk, by their numbers.
make_marked_file() {
  local number=0
  while [ "$number" -lt "$2" ]; do
    number=$((number + 1))
    echo "MARK-OF-THE-GOLDEN-IMAGE line $number"
  done >"$1"
}

# The first cluster of a disk of 256 MiB: docs/on-disk-format.md.
CLUSTERS_FROM=18350080

# place_of_mark N LINE: sets PLACE to where that line of a marked file lies on disk N, which has 256 MiB.
place_of_mark() {
  PLACE=$(dd if="$(disk "$1")" bs=4096 skip=$((CLUSTERS_FROM / 4096)) count=16384 2>/dev/null | strings -t d -n 30 | awk "/MARK-OF-THE-GOLDEN-IMAGE line $2\$/ {print \$1; exit}")
  [ -n "$PLACE" ] || fail "cannot find the image's data on disk $1"
  PLACE=$((CLUSTERS_FROM + PLACE))
}

# image_is NAME STATE
image_is() { [ "$(image_field "$1" state)" = "$2" ]; }

# device_is_right DEVICE EXPECTED: reads all of it once, past the page cache, and compares every byte.
device_is_right() { must guest-reader read --once --device "$1" --expect "$2" --log "$LAB_TMP/once.log"; }

# only_block_fails DEVICE EXPECTED BLOCK: that block of 4096 bytes gives EIO, and the ones beside it what the file EXPECTED has.
only_block_fails() {
  local device=$1 expected=$2 block=$3 beside
  ! dd if="$device" of="$LAB_TMP/block" bs=4096 skip="$block" count=1 iflag=direct 2>"$LAB_TMP/out" || fail "$device: block $block was read"
  grep -qi 'input/output error' "$LAB_TMP/out" || fail "not EIO: $(cat "$LAB_TMP/out")"
  for beside in $((block - 1)) $((block + 1)); do
    must dd if="$device" of="$LAB_TMP/block" bs=4096 skip="$beside" count=1 iflag=direct
    dd if="$expected" bs=4096 skip="$beside" count=1 2>/dev/null | cmp -s - "$LAB_TMP/block" || fail "$device: block $beside is wrong"
  done
}

# ready NAME DEVICE: the image is Ready, and its device is the same as ever.
is_ready() {
  [ "$(image_field "$1" state)" = Ready ] && [ "$(bedplate image show "$1" -o json | json_field device)" = "$2" ]
}
back_on() {
  within "${3:-30}" is_ready "$1" "$2"
  must bedplate wait image "$1" --timeout 30s
}

sum_of() { "$1sum" "$2" | cut -d' ' -f1; }

# kept NAME VALUE / kept NAME: a value that the next boot of a node finds again.
keep() { printf '%s' "$2" >"$LAB_KEEP/$1"; }
kept() { cat "$LAB_KEEP/$1"; }

# flip_byte N OFFSET: spoils one byte of disk N.
flip_byte() {
  local old
  old=$(dd if="$(disk "$1")" bs=1 skip="$2" count=1 2>/dev/null | od -An -tu1 | tr -d ' ')
  # shellcheck disable=SC2059
  printf "\\$(printf '%03o' $((old ^ 1)))" | dd of="$(disk "$1")" bs=1 seek="$2" conv=notrunc,fsync 2>/dev/null
}

# zero_block N OFFSET: destroys 4 KiB of disk N.
zero_block() { must dd if=/dev/zero of="$(disk "$1")" bs=4096 seek=$(($2 / 4096)) count=1 conv=notrunc,fsync; }
