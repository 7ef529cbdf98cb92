# shellcheck shell=dash disable=SC1091,SC2154,SC2034
# How long volumes do not answer after `kill -9`, each with a request in flight: from the start of the next daemon, which comes as soon as the old
# process has gone. Beside it the same of one bare ublk loop target (rublk), from the start of its recovery.
. ./bench.facts
. ./rivals.sh
PATH=$PWD/bin:$PATH

VOLUMES=${BENCH_VOLUMES:-100}
VOLUME_MIB=4

boot_1() {
  QUEUES=1 LAB_LOOK_EVERYWHERE=false
  bench_modules
  # A disk has a slot for each 16 MiB; what is not written takes no memory.
  must modprobe brd rd_nr=2 rd_size=$((1024 * (1024 + VOLUMES * 32))) max_part=0
  daemon_start
  must bedplate disk format /dev/ram0
  make_image "$LAB_TMP/image" 7 $((VOLUME_MIB * 1048576)) $((VOLUME_MIB * 524288))
  must bedplate image import golden "$LAB_TMP/image"
  bedplate -o json status | sed -n 's/.*"data_mode": *"\([^"]*\)".*/data mode: \1/p'
  devices=""
  number=0
  while [ "$number" -lt "$VOLUMES" ]; do
    number=$((number + 1))
    new_clone "v$number" golden
    devices="$devices $DEVICE"
  done
  note "$VOLUMES volumes, one process, one reactor for each of $(grep -c ^processor /proc/cpuinfo) processors"
  round=0
  while [ "$round" -lt "$BENCH_ROUNDS" ]; do
    round=$((round + 1))
    ours
    bare
  done
  daemon_stop
}

ours() {
  # shellcheck disable=SC2086
  pauses_start $devices
  daemon_kill
  from=$(guest-pauses)
  bedplated --config "$LAB_TMP/bedplated.toml" >>"$LAB_TMP/bedplated.log" 2>&1 &
  echo $! >"$LAB_TMP/bedplated.pid"
  within 60 all_ready
  pauses_stop
  summary "Bedplate, $VOLUMES volumes" "$from"
}
all_ready() { [ "$(bedplate -o json volume list | grep -c '"state": *"Ready"')" = "$VOLUMES" ]; }

# Another way than for ours: rublk has no unit, and its devices fail what is in flight when it dies. So the request comes after the kill.
bare() {
  rublk add loop -n 200 -q 1 -d 128 --user-recovery -f /dev/ram1 >"$LAB_TMP/rublk.out" 2>&1 || {
    note "no bare target here: $(tail -n 2 "$LAB_TMP/rublk.out" | tr '\n' ' ')"
    return
  }
  within 20 test -b /dev/ublkb200
  pid=$(rublk list -n 200 | sed -n 's/.*daemon pid \([0-9]*\).*/\1/p')
  kill -9 "$pid"
  while kill -0 "$pid" 2>/dev/null; do sleep 0.01; done
  pauses_start /dev/ublkb200
  from=$(guest-pauses)
  rublk recover -n 200 >"$LAB_TMP/rublk.out" 2>&1 || note "recover: $(tail -n 2 "$LAB_TMP/rublk.out")"
  sleep 1
  pauses_stop
  summary "rublk, 1 device" "$from"
  del_rublk 200
}

pauses_start() {
  guest-pauses "$@" >"$LAB_TMP/pauses" 2>"$LAB_TMP/pauses.err" &
  pauses=$!
  sleep 2
}
pauses_stop() {
  kill -TERM "$pauses"
  wait "$pauses" || fail "requests failed: $(head -n 3 "$LAB_TMP/pauses.err")"
}

# summary WHO FROM_MS: of what pauses_stop left. A device whose longest request ended before FROM was never away.
summary() {
  sed -n 's/.*ended_ms=\([0-9.]*\) longest_ms=\([0-9.]*\).*/\1 \2/p' "$LAB_TMP/pauses" | sort -n | awk -v who="$1" -v from="$2" '
    { n++; took[n] = $1 - from; if ($2 > longest) longest = $2 }
    END { printf "%s: answered %.1f ms (half), %.1f ms (all) after the start; longest pause of a request %.1f ms\n", who, took[int((n + 1) / 2)], took[n], longest }' | while read -r line; do note "$line"; done
}
