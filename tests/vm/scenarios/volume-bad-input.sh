# shellcheck shell=dash disable=SC2034
# What cannot be: each with its own words and exit code, and nothing is changed by it.
GUESTS="quick"
DISKS="256"
RUN_KERNELS="backports"

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 91 1048576 524288
  must bedplate image import golden "$LAB_TMP/image"
  printf 'odd' >"$LAB_TMP/odd"
  must bedplate image import odd "$LAB_TMP/odd"
  sizes
  names
  states
  equal "volumes that are there after all that" "kept " "$(bedplate -o json volume list | tr ',{' '\n' | sed -n 's/^ *"name": *"\(.*\)".*/\1/p' | grep -vE '^(golden|odd)$' | sort -u | tr '\n' ' ')"
  must bedplate image verify golden
  daemon_stop
}

refused() {
  must_fail "$@"
  shift 2
  note "$*: $(head -n 1 "$LAB_TMP/out")"
}

sizes() {
  refused 2 'size|image' bedplate volume create none
  refused 1 'zero' bedplate volume create none --size 0
  refused 1 'less' bedplate volume create none --image golden --size 512K
  refused 1 '512' bedplate volume create none --size 1000
  refused 1 '256 TiB' bedplate volume create none --size 257T
  refused 2 'size' bedplate volume create none --size 10Q
  must bedplate volume create round --image odd
  equal "a clone of 3 bytes" 512 "$(volume_field round size_bytes)"
  must bedplate volume delete round
}

names() {
  must bedplate volume create kept --image golden
  refused 4 'kept' bedplate volume create kept --size 1M
  refused 4 'golden' bedplate volume create golden --size 1M
  refused 4 'kept' bedplate image import kept "$LAB_TMP/image"
  refused 2 'name' bedplate volume create 'no/slash' --size 1M
  refused 3 'nothing' bedplate volume create none --image nothing
  refused 3 'nothing' bedplate volume show nothing
  refused 3 'nothing' bedplate volume attach nothing
  refused 3 'nothing' bedplate volume delete nothing
  refused 3 'nothing' bedplate volume resize nothing 1G
  # One set of names, two kinds.
  refused 3 'golden' bedplate volume attach golden
  refused 3 'kept' bedplate image attach kept
}

states() {
  attach_volume kept
  refused 9 'attached' bedplate volume delete kept
  refused 9 'clone' bedplate image delete golden
  refused 1 'short|small|less' bedplate volume resize kept 512K
  refused 1 '512' bedplate volume resize kept 2000000
  refused 1 '256 TiB' bedplate volume resize kept +256T
  refused 2 'size' bedplate volume resize kept +
  equal "its size" 1048576 "$(volume_field kept size_bytes)"
  exec 7<"$DEVICE"
  refused 9 'busy|open|in use' bedplate volume detach kept
  exec 7<&-
  device_is_right "$DEVICE" seed:91:1048576:524288
  # As long as it is already: nothing to do.
  must bedplate volume resize kept 1M
  daemon_stop
  refused 5 'bedplated' bedplate volume list
  daemon_start
  volume_back_on kept "$DEVICE"
}
