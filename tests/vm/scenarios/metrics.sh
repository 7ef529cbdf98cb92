# shellcheck shell=dash disable=SC2034
# What Prometheus gets: counters that agree with what was read and written, states, a checked format; and no address but this machine's own.
GUESTS="quick"
DISKS="256"
MODES="auto user-copy"
TOP_SETTINGS='metrics_listen = "127.0.0.1:9470"'

boot_1() {
  daemon_start
  must bedplate disk format "$(disk 1)"
  make_image "$LAB_TMP/golden.raw" 8 4194304 4194304
  must bedplate image import golden "$LAB_TMP/golden.raw"
  must bedplate volume create vm --image golden --size 16M
  volume=$(bedplate volume attach vm)
  must dd if="$volume" of=/dev/null bs=65536 count=16 iflag=direct
  must dd if=/dev/zero of="$volume" bs=4096 count=8 oflag=direct
  must dd if=/dev/zero of="$volume" bs=4096 count=1 conv=fsync
  scrape
  at_least "bytes read" 1048576 "$(value 'bedplate_device_bytes_total{volume="vm",device="'"${volume#/dev/}"'",operation="read"}')"
  at_least "bytes written" 36864 "$(value 'bedplate_device_bytes_total{volume="vm",device="'"${volume#/dev/}"'",operation="write"}')"
  at_least "flushes" 1 "$(value 'bedplate_device_operations_total{volume="vm",device="'"${volume#/dev/}"'",operation="flush"}')"
  equal "errors" 0 "$(value 'bedplate_device_errors_total{volume="vm",device="'"${volume#/dev/}"'",operation="read"}')"
  equal "in flight" 0 "$(value 'bedplate_device_requests_in_flight{volume="vm",device="'"${volume#/dev/}"'"}')"
  reads=$(value 'bedplate_device_operations_total{volume="vm",device="'"${volume#/dev/}"'",operation="read"}')
  equal "reads in the histogram" "$reads" "$(value 'bedplate_device_latency_seconds_count{volume="vm",device="'"${volume#/dev/}"'",operation="read"}')"
  grep -q '^bedplate_disk_state{.*state="Online"} 1$' "$LAB_TMP/metrics" || fail "no disk is Online"
  grep -q '^bedplate_image_state{image="golden",state="Ready"} 1$' "$LAB_TMP/metrics" || fail "the image is not Ready"
  grep -q '^bedplate_volume_state{volume="vm",state="Ready"} 1$' "$LAB_TMP/metrics" || fail "the volume is not Ready"
  note "$(wc -l <"$LAB_TMP/metrics") lines, $reads reads; $(grep -c '^# TYPE' "$LAB_TMP/metrics") families"

  daemon_kill
  daemon_start
  within 30 volume_ready vm "$volume"
  scrape
  at_least "devices that came back" 1 "$(value bedplate_device_recoveries_total)"
  daemon_stop
  sed -i 's/127.0.0.1:9470/0.0.0.0:9470/' "$LAB_TMP/bedplated.toml"
  must_fail 2 'metrics_listen.*this machine alone' bedplated --config "$LAB_TMP/bedplated.toml" --check-config
}

scrape() { must wget -q -O "$LAB_TMP/metrics" http://127.0.0.1:9470/metrics; }
value() { grep -F "$1 " "$LAB_TMP/metrics" | sed 's/.* //'; }
