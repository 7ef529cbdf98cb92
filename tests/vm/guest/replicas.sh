# shellcheck shell=dash disable=SC2154
# Copies of images, through the command line only.

# copies_ready IMAGE N: so many copies are Ready, and it has no others.
copies_ready() {
  local shown
  shown=$(bedplate -o json image show "$1") || return 1
  [ "$(printf '%s' "$shown" | json_field copies_ready)" = "$2" ] && [ "$(replica_count "$shown")" = "$2" ]
}

# replica_count JSON: replicas that are shown, whatever their state.
replica_count() { printf '%s' "$1" | tr ',{}[]' '\n' | grep -c '^ *"disk_uuid":'; }

# replicas_in IMAGE STATE: the UUIDs of the disks with a replica in that state, one a line.
replicas_in() {
  bedplate -o json image show "$1" | tr -d '\n' | tr '{}' '\n' | grep '"disk_uuid"' | grep "\"state\": *\"$2\"" | sed -n 's/.*"disk_uuid": *"\([^"]*\)".*/\1/p'
}

# all_jobs, jobs_of KIND: how many of this life of the daemon.
all_jobs() { bedplate -o json job list | grep -c '"kind"' || true; }
jobs_of() { bedplate -o json job list | tr ',{}[]' '\n' | grep -c "^ *\"kind\": *\"$1\"" || true; }

# image_is_degraded IMAGE: it has fewer Ready copies than are wanted.
image_is_degraded() { [ "$(image_field "$1" degraded)" = true ]; }

# copied: bytes of the copy in the making that has come farthest; nothing if there is none.
copied() {
  bedplate -o json job list | tr -d '\n' | tr '{}' '\n' |
    sed -n 's/.*"phase": *"copying".*"done_bytes": *\([0-9]*\).*/\1/p; s/.*"done_bytes": *\([0-9]*\).*"phase": *"copying".*/\1/p' | sort -n | tail -n 1
}

# rebuild_is_beyond BYTES: a copy in the making has come that far.
rebuild_is_beyond() {
  local bytes
  bytes=$(copied)
  [ "${bytes:-0}" -gt "$1" ]
}
