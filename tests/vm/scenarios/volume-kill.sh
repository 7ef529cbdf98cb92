# shellcheck shell=dash disable=SC2034
# kill -9 again and again, under fio with verification on one clone and a writer that zeroes and discards too on another: no I/O
# error, no wrong byte, the same devices; and all of it again after detach and attach. LAB_KILLS: how many (`make soak`: 30).
GUESTS="quick"
DISKS="512"
MODES="auto user-copy"
QUEUES=2
TOOLS=fio
KILLS=${LAB_KILLS:-8}
LIMIT_S=$((120 + KILLS * 20))

SIZE=16777216
IMAGE=seed:92:$SIZE:6291456

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/image" 92 $SIZE 6291456
  must bedplate image import golden "$LAB_TMP/image"
  rm "$LAB_TMP/image"
  new_clone fio golden --size 32M
  fio=$DEVICE
  new_clone writer golden
  writer=$DEVICE
  fio_start fio "$fio"
  writer_start w "$writer" "$LAB_TMP/notes" --fresh --tag 1 --base $IMAGE --threads 4
  kill_number=0
  while [ "$kill_number" -lt "$KILLS" ]; do
    kill_number=$((kill_number + 1))
    one_kill
  done
  fio_stop fio
  writer_stop w
  fio_write last "$fio"
  kill_and_start
  volume_back_on fio "$fio"
  fio_verify last
  must bedplate volume detach fio
  must bedplate volume detach writer
  attach_volume fio
  equal "device after $KILLS kills" "$fio" "$DEVICE"
  fio_verify last
  attach_volume writer
  writer_check "writer attached again" "$writer" "$LAB_TMP/notes" --base $IMAGE --exact
  must bedplate image verify golden
  must bedplate volume detach fio
  must bedplate volume detach writer
  daemon_stop
}

one_kill() {
  sleep "$((kill_number % 3 + 1)).$((kill_number * 37 % 10))"
  from=$(uptime_ms)
  kill_in_flight "$fio"
  gone=$(($(uptime_ms) - from))
  daemon_start
  answers=$(($(uptime_ms) - from))
  volume_back_on fio "$fio"
  took=$(($(uptime_ms) - from))
  writer_goes_on w
  writer_no_fault w
  fio_no_fault fio
  note "kill $kill_number: $IN_FLIGHT in flight; process gone after $gone ms, the next one answers after $answers, back after $took; fio in pass $(($(cat "$LAB_TMP/fio-fio.passes") + 1))"
}
