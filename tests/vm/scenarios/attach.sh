# shellcheck shell=dash disable=SC2034
# One image, from format to delete: what is served, what is refused, what the block layer shows.
GUESTS="quick"
DISKS="512"

SIZE=9437697
IMAGE=seed:11:$SIZE:3145728

boot_1() {
  daemon_start
  mode=$(bedplate -o json status | json_field data_mode)
  note "data mode: $mode"
  case $LAB_KERNEL-$LAB_DATA_MODE in
    backports-auto) equal "data mode" zero_copy "$mode" ;;
    *) equal "data mode" user_copy "$mode" ;;
  esac
  must bedplate disk format "$(disk 1)"
  equal "state of the disk" Online "$(disk_field 1 state)"
  free=$(disk_field 1 free_bytes)

  one_byte
  whole_image
  limits
  refusals
  from_standard_input
  must bedplate image delete one-byte
  must bedplate image delete golden
  equal "free space after all images are deleted" "$free" "$(disk_field 1 free_bytes)"
  daemon_stop
}

one_byte() {
  printf 'B' >"$LAB_TMP/one-byte"
  must bedplate image import one-byte "$LAB_TMP/one-byte"
  equal "exact size" 1 "$(image_field one-byte size_bytes)"
  device=$(bedplate image attach one-byte)
  equal "device" /dev/ublkb0 "$device"
  equal "size of the device" 512 "$(blockdev --getsize64 "$device")"
  equal "its byte" B "$(dd if="$device" bs=1 count=1 2>/dev/null)"
  device_is_right "$device" "$LAB_TMP/one-byte"
  must bedplate image detach one-byte
  [ ! -e "$device" ] || fail "$device is still there after detach"
  must bedplate image detach one-byte
  note "one byte: served as 512"
}

whole_image() {
  make_image "$LAB_TMP/golden.raw" 11 "$SIZE" 3145728
  must bedplate image import golden "$LAB_TMP/golden.raw" --sha256 "$(sum_of sha256 "$LAB_TMP/golden.raw")"
  equal "exact size" "$SIZE" "$(image_field golden size_bytes)"
  equal "SHA-256" "$(sum_of sha256 "$LAB_TMP/golden.raw")" "$(image_field golden sha256)"
  equal "SHA-512" "$(sum_of sha512 "$LAB_TMP/golden.raw")" "$(image_field golden sha512)"
  at_most "bytes stored of 3 MiB of data" 4194304 "$(image_field golden stored_bytes)"
  golden=$(bedplate image attach golden)
  equal "a second attach" "$golden" "$(bedplate image attach golden)"
  device_is_right "$golden" "$IMAGE"
  must guest-reader read --device "$golden" --expect "$IMAGE" --seconds 3 --log "$LAB_TMP/random.log"
  note "golden: $(tail -n 1 "$LAB_TMP/random.log")"
}

limits() {
  name=${golden#/dev/}
  queue=/sys/block/$name/queue
  equal "read-only" 1 "$(cat "/sys/block/$name/ro")"
  equal "logical block" 512 "$(cat "$queue/logical_block_size")"
  equal "physical block" 4096 "$(cat "$queue/physical_block_size")"
  case $(cat "$queue/scheduler") in *"[none]"* | none) ;; *) fail "scheduler is $(cat "$queue/scheduler")" ;; esac
  at_least "longest request, KiB" 128 "$(cat "$queue/max_sectors_kb")"
  must lsblk -t "$golden"
  sed 's/^/  /' "$LAB_TMP/out"
  must_fail 1 'read-only|not permitted|denied' sh -c "printf x | dd of=$golden bs=512 count=1 conv=sync oflag=direct"
  # Even when the block layer's read-only mark is taken away, the daemon refuses.
  if blockdev --setrw "$golden" 2>/dev/null; then
    must_fail 1 'error|not permitted|denied|read-only' sh -c "printf x | dd of=$golden bs=512 count=1 conv=sync,fsync oflag=direct"
    blockdev --setro "$golden"
  fi
  device_is_right "$golden" "$IMAGE"
}

refusals() {
  exec 7<"$golden"
  must_fail 9 'busy|open|in use' bedplate image detach golden
  exec 7<&-
  must_fail 9 'attached' bedplate image delete golden
  must_fail 4 'golden' bedplate image import golden "$LAB_TMP/golden.raw"
  must_fail 2 'name' bedplate image import 'no/slash' "$LAB_TMP/golden.raw"
  must_fail 3 'nothing' bedplate image show nothing
  must_fail 3 '/no/such/file' bedplate image import missing /no/such/file
  must_fail 1 'directory' bedplate image import folder "$LAB_TMP"
  : >"$LAB_TMP/empty"
  must_fail 1 'empty' bedplate image import empty "$LAB_TMP/empty"
  must_fail 6 'sha256|checksum' bedplate image import wrong "$LAB_TMP/golden.raw" --sha256 "$(printf 0 | sha256sum | cut -d' ' -f1)"
  must_fail 3 'wrong' bedplate image show wrong
  second_daemon_is_refused
  must bedplate image detach golden
  note "refusals: as they must be"
}

# Another daemon that is pointed at the same disk must keep its hands off it, and the first one goes on.
second_daemon_is_refused() {
  must_fail 1 'another|already|running|lock' bedplated --config "$LAB_TMP/bedplated.toml"
  other_daemon_start --disk "$(disk 1)"
  sleep 2
  state=$(other_daemon bedplate -o json disk list | json_field state)
  [ "$state" != Online ] || fail "a second daemon brought the disk online"
  note "a second daemon says: $state, $(other_daemon bedplate -o json disk list | json_field why)"
  device_is_right "$golden" "$IMAGE"
  other_daemon_stop
}

from_standard_input() {
  bedplate image import streamed - <"$LAB_TMP/golden.raw" >/dev/null 2>&1 || fail "import from standard input"
  equal "SHA-256 of the stream" "$(image_field golden sha256)" "$(image_field streamed sha256)"
  equal "size of the stream" "$SIZE" "$(image_field streamed size_bytes)"
  streamed=$(bedplate image attach streamed)
  device_is_right "$streamed" "$IMAGE"
  must bedplate image verify streamed
  must bedplate image detach streamed
  must bedplate image delete streamed
}
