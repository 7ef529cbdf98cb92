# shellcheck shell=dash disable=SC2034,SC2153
# A disk full of one tenant's sectors, whose volume is deleted; new volumes on that space never show one of them: not untouched, not while
# they are written in small pieces, not after a kill or a power cut in the middle of first touches.
GUESTS="quick"
DISKS="192 64"
# User copy on 6.12, zero copy on 7.x.
MODES="auto"
QUEUES=2
ROUNDS=${LAB_ROUNDS:-2}
BOOTS=$((ROUNDS + 1))

TENANT=77

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  new_blank tenant 512M
  must guest-writer fill --device "$DEVICE" --tag $TENANT
  note "the tenant's volume: $(cat "$LAB_TMP/out")"
  grep -q no_space=1 "$LAB_TMP/out" || fail "the disk is not full"
  must bedplate volume detach tenant
  must bedplate volume delete tenant
  left=$(sectors_of $TENANT "$(disk 1)")
  note "sectors of the tenant that the disk still has: $left"
  at_least "of them" 100000 "$left"

  new_blank killed 24M
  nothing_of_the_tenant "$DEVICE"
  writer_start k "$DEVICE" "$LAB_TMP/notes" --fresh --tag 1
  for number in 1 2 3; do
    sleep 1.$((number * 3))
    kill_in_flight "$DEVICE"
    daemon_start
    volume_back_on killed "$DEVICE"
    nothing_of_the_tenant "$DEVICE"
    writer_goes_on k
  done
  writer_stop k
  nothing_of_the_tenant "$DEVICE"
  must bedplate volume detach killed
  touch_until_the_cut
}

boot_each() {
  daemon_start
  name=touched-$((LAB_BOOT - 1))
  within 60 volume_is "$name" Ready
  device=$(volume_field "$name" device)
  nothing_of_the_tenant "$device"
  writer_check "$name after the cut" "$device" "$(disk 2)" --settle
  must bedplate volume detach "$name"
  must bedplate volume delete "$name"
  if [ "$LAB_BOOT" -lt "$BOOTS" ]; then touch_until_the_cut; fi
  at_least "sectors of the tenant that the disk still has" 1 "$(sectors_of $TENANT "$(disk 1)")"
  daemon_stop
}

# A volume that is new on each boot: most writes are first touches.
touch_until_the_cut() {
  new_blank "touched-$LAB_BOOT" 32M
  writer_start t "$DEVICE" "$(disk 2)" --fresh --tag $((LAB_BOOT + 1)) --seed "$LAB_BOOT"
  sleep 2.$((LAB_BOOT * 3 % 10))
  writer_no_fault t
  power_cut
}

nothing_of_the_tenant() {
  drop_caches
  equal "sectors of the tenant in $1" 0 "$(sectors_of $TENANT "$1")"
}
