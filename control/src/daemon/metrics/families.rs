//! Metric families. Names and base units by the conventions of Prometheus: seconds, bytes, `_total` for what only grows (the encoder adds
//! it), one label `state` with 1 for the state that is and 0 for those that are not.

use std::fmt;

use bedplate_ublk_target::{DeviceStats, OperationKind, OperationStats, latency_below};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::snapshot::{OfDevice, Snapshot};
use crate::api::{DiskState, Job, JobState, ReplicaState, VolumeState};

type Labels = Vec<(&'static str, String)>;

/// One family on its way out.
struct Family<'a> {
    encoder: MetricEncoder<'a>,
}

impl Family<'_> {
    fn gauge(&mut self, labels: &Labels, value: u64) -> fmt::Result {
        self.encoder.encode_family(labels)?.encode_gauge(&value)
    }

    fn float(&mut self, labels: &Labels, value: f64) -> fmt::Result {
        self.encoder.encode_family(labels)?.encode_gauge(&value)
    }

    fn counter(&mut self, labels: &Labels, value: u64) -> fmt::Result {
        self.encoder
            .encode_family(labels)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// One series a state.
    fn states<S: Copy + PartialEq + fmt::Debug>(
        &mut self,
        labels: &Labels,
        all: &[S],
        now: S,
    ) -> fmt::Result {
        for state in all {
            let mut labels = labels.clone();
            labels.push(("state", format!("{state:?}")));
            self.gauge(&labels, u64::from(*state == now))?;
        }
        Ok(())
    }
}

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        fill: impl FnOnce(&mut Family<'_>) -> fmt::Result,
    ) -> fmt::Result {
        fill(&mut Family {
            encoder: self.0.encode_descriptor(name, help, None, kind)?,
        })
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        fill: impl FnOnce(&mut Family<'_>) -> fmt::Result,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Gauge, fill)
    }

    fn counters(
        &mut self,
        name: &str,
        help: &str,
        fill: impl FnOnce(&mut Family<'_>) -> fmt::Result,
    ) -> fmt::Result {
        self.family(name, help, MetricType::Counter, fill)
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out(encoder);
        self.node(&mut out)?;
        self.disks(&mut out)?;
        self.images(&mut out)?;
        self.volumes(&mut out)?;
        self.devices(&mut out)?;
        self.jobs(&mut out)
    }
}

impl Snapshot {
    fn node(&self, out: &mut Out<'_>) -> fmt::Result {
        let status = &self.status;
        out.gauges("build_info", "Which Bedplate this is", |family| {
            let labels = vec![
                ("version", status.version.clone()),
                ("kernel", status.kernel.clone()),
            ];
            family.gauge(&labels, 1)
        })?;
        let none = Labels::new();
        out.gauges(
            "start_time_seconds",
            "When the daemon started, since 1970",
            |family| family.float(&none, seconds(status.started_unix_ms)),
        )?;
        out.gauges("reactors", "Threads that serve devices", |family| {
            family.gauge(&none, status.reactors.into())
        })?;
        out.gauges(
            "problems",
            "What somebody should look at: see `bedplate status`",
            |family| family.gauge(&none, status.problems.len() as u64),
        )?;
        out.counters(
            "device_recoveries",
            "Devices that came back by themselves",
            |family| family.counter(&none, self.devices_recovered),
        )?;
        out.counters(
            "scrub_passes",
            "How often all replicas were read again",
            |family| family.counter(&none, self.scrub_passes),
        )
    }

    fn disks(&self, out: &mut Out<'_>) -> fmt::Result {
        const STATES: [DiskState; 5] = [
            DiskState::Absent,
            DiskState::Opening,
            DiskState::Online,
            DiskState::Suspect,
            DiskState::Offline,
        ];
        let disks = || {
            self.status
                .disks
                .iter()
                .map(|disk| (disk, disk_labels(&disk.path, disk.uuid)))
        };
        out.gauges(
            "disk_state",
            "1 for the state that a disk is in",
            |family| {
                disks().try_for_each(|(disk, labels)| family.states(&labels, &STATES, disk.state))
            },
        )?;
        out.gauges(
            "disk_read_only",
            "1 where a disk takes no more changes",
            |family| {
                disks().try_for_each(|(disk, labels)| family.gauge(&labels, disk.read_only.into()))
            },
        )?;
        out.gauges("disk_usable_bytes", "Bytes for data and maps", |family| {
            disks().try_for_each(|(disk, labels)| maybe(family, &labels, disk.usable_bytes))
        })?;
        out.gauges(
            "disk_free_bytes",
            "Bytes of those that are free",
            |family| disks().try_for_each(|(disk, labels)| maybe(family, &labels, disk.free_bytes)),
        )?;
        out.gauges("disk_used_bytes", "Bytes of those that are not", |family| {
            disks().try_for_each(|(disk, labels)| {
                let used = disk.usable_bytes.zip(disk.free_bytes);
                maybe(
                    family,
                    &labels,
                    used.map(|(all, free)| all.saturating_sub(free)),
                )
            })
        })?;
        let counted = || {
            disks().filter_map(|(disk, labels)| {
                let counters = self.disks.get(&disk.uuid?).cloned();
                Some((counters.unwrap_or_default(), labels))
            })
        };
        out.counters(
            "disk_transitions",
            "Changes of a disk's state, by the new state",
            |family| {
                counted().try_for_each(|(of, labels)| {
                    of.transitions.iter().try_for_each(|(to, count)| {
                        let mut labels = labels.clone();
                        labels.push(("to", to.clone()));
                        family.counter(&labels, *count)
                    })
                })
            },
        )?;
        out.counters(
            "checksum_errors",
            "Blocks of images that were found to be bad on a disk",
            |family| {
                counted().try_for_each(|(of, labels)| family.counter(&labels, of.checksum_errors))
            },
        )?;
        out.counters(
            "blocks_repaired",
            "Blocks that were written again from another replica",
            |family| {
                counted().try_for_each(|(of, labels)| family.counter(&labels, of.blocks_repaired))
            },
        )?;
        out.counters(
            "scrubbed_bytes",
            "Bytes of images that were read again and compared",
            |family| {
                counted().try_for_each(|(of, labels)| family.counter(&labels, of.scrubbed_bytes))
            },
        )
    }

    fn images(&self, out: &mut Out<'_>) -> fmt::Result {
        const STATES: [ReplicaState; 6] = [
            ReplicaState::Pending,
            ReplicaState::InProgress,
            ReplicaState::Ready,
            ReplicaState::Unknown,
            ReplicaState::Damaged,
            ReplicaState::Failed,
        ];
        let images = || {
            self.images
                .iter()
                .map(|detail| (&detail.image, vec![("image", detail.image.name.clone())]))
        };
        out.gauges(
            "image_state",
            "1 for the state that an image is in",
            |family| {
                images()
                    .try_for_each(|(image, labels)| family.states(&labels, &STATES, image.state))
            },
        )?;
        out.gauges("image_size_bytes", "Size of an image", |family| {
            images().try_for_each(|(image, labels)| maybe(family, &labels, image.size_bytes))
        })?;
        out.gauges(
            "image_copies_wanted",
            "Replicas that an image is to have",
            |family| {
                images().try_for_each(|(image, labels)| {
                    family.gauge(&labels, image.copies_wanted.into())
                })
            },
        )?;
        out.gauges("image_copies_ready", "Replicas that are Ready", |family| {
            images()
                .try_for_each(|(image, labels)| family.gauge(&labels, image.copies_ready.into()))
        })?;
        let replicas = || {
            self.images.iter().flat_map(|detail| {
                detail.replicas.iter().map(|replica| {
                    let path = replica.disk_path.clone().unwrap_or_default();
                    let mut labels = vec![("image", detail.image.name.clone())];
                    labels.extend(disk_labels(&path, Some(replica.disk_uuid)));
                    (replica, labels)
                })
            })
        };
        out.gauges(
            "replica_state",
            "1 for the state that a replica is in",
            |family| {
                replicas().try_for_each(|(replica, labels)| {
                    family.states(&labels, &STATES, replica.state)
                })
            },
        )?;
        out.gauges(
            "replica_damaged_blocks",
            "Blocks of a replica that are known to be bad",
            |family| {
                replicas().try_for_each(|(replica, labels)| {
                    let blocks = self.damaged_blocks.get(&replica.uuid);
                    family.gauge(&labels, blocks.copied().unwrap_or_default())
                })
            },
        )
    }

    fn volumes(&self, out: &mut Out<'_>) -> fmt::Result {
        const STATES: [VolumeState; 5] = [
            VolumeState::Detached,
            VolumeState::Attaching,
            VolumeState::Ready,
            VolumeState::Recovering,
            VolumeState::Held,
        ];
        let volumes = || {
            self.status
                .volumes
                .iter()
                .map(|volume| (volume, vec![("volume", volume.name.clone())]))
        };
        out.gauges(
            "volume_state",
            "1 for the state that a volume is in",
            |family| {
                volumes()
                    .try_for_each(|(volume, labels)| family.states(&labels, &STATES, volume.state))
            },
        )?;
        out.gauges("volume_size_bytes", "Size of a volume", |family| {
            volumes().try_for_each(|(volume, labels)| family.gauge(&labels, volume.size_bytes))
        })?;
        out.gauges(
            "volume_allocated_bytes",
            "Bytes that are a volume's own",
            |family| {
                volumes()
                    .try_for_each(|(volume, labels)| family.gauge(&labels, volume.allocated_bytes))
            },
        )
    }

    fn devices(&self, out: &mut Out<'_>) -> fmt::Result {
        let count = |family: &mut Family<'_>, of: fn(&OperationStats) -> u64| {
            self.devices.iter().try_for_each(|device| {
                operations(&device.stats).try_for_each(|(operation, stats)| {
                    family.counter(&device.operation(operation), of(stats))
                })
            })
        };
        out.counters(
            "device_operations",
            "Requests that a device has answered without an error",
            |family| count(family, |stats| stats.done),
        )?;
        out.counters("device_bytes", "Bytes of those", |family| {
            count(family, |stats| stats.bytes)
        })?;
        out.counters(
            "device_errors",
            "Requests that a device has answered with an error",
            |family| count(family, |stats| stats.failed),
        )?;
        out.gauges(
            "device_requests_in_flight",
            "Requests that a device has not answered yet",
            |family| {
                self.devices
                    .iter()
                    .try_for_each(|device| family.gauge(&device.labels(), device.stats.in_flight))
            },
        )?;
        out.family(
            "device_latency_seconds",
            "From a request's delivery to its answer",
            MetricType::Histogram,
            |family| {
                self.devices.iter().try_for_each(|device| {
                    operations(&device.stats).try_for_each(|(operation, stats)| {
                        let labels = device.operation(operation);
                        let mut series = family.encoder.encode_family(&labels)?;
                        latencies(&mut series, stats)
                    })
                })
            },
        )
    }

    fn jobs(&self, out: &mut Out<'_>) -> fmt::Result {
        let labels = |job: &Job| {
            vec![
                ("job", job.id.to_string()),
                ("kind", word(&job.kind)),
                ("image", job.image.clone()),
            ]
        };
        let running = || {
            let jobs = self.status.jobs.iter();
            jobs.filter(|job| matches!(job.state, JobState::Pending | JobState::Running))
        };
        out.gauges(
            "job_done_bytes",
            "Bytes that a job is done with: an import, a rebuild, a verification",
            |family| {
                running().try_for_each(|job| family.gauge(&labels(job), job.progress.done_bytes))
            },
        )?;
        out.gauges("job_total_bytes", "Bytes that a job has to do", |family| {
            running().try_for_each(|job| maybe(family, &labels(job), job.progress.total_bytes))
        })
    }
}

impl OfDevice {
    fn labels(&self) -> Labels {
        vec![
            (self.noun, self.name.clone()),
            ("device", format!("ublkb{}", self.number)),
        ]
    }

    fn operation(&self, operation: OperationKind) -> Labels {
        let name = match operation {
            OperationKind::Read => "read",
            OperationKind::Write => "write",
            OperationKind::Flush => "flush",
            OperationKind::Discard => "discard",
            OperationKind::WriteZeroes => "write_zeroes",
        };
        let mut labels = self.labels();
        labels.push(("operation", name.to_owned()));
        labels
    }
}

fn operations(stats: &DeviceStats) -> impl Iterator<Item = (OperationKind, &OperationStats)> {
    OperationKind::ALL.into_iter().zip(&stats.operations)
}

fn latencies(series: &mut MetricEncoder<'_>, stats: &OperationStats) -> fmt::Result {
    let buckets: Vec<(f64, u64)> = stats
        .latencies
        .iter()
        .enumerate()
        .map(|(number, count)| {
            let bound = latency_below(number).map_or(f64::INFINITY, |bound| bound.as_secs_f64());
            (bound, *count)
        })
        .collect();
    let sum = std::time::Duration::from_nanos(stats.nanos).as_secs_f64();
    // Of the buckets, and not what was counted elsewhere: another thread counts on meanwhile, and these must agree.
    let count = stats.latencies.iter().sum();
    series.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

fn disk_labels(path: &str, uuid: Option<uuid::Uuid>) -> Labels {
    vec![
        ("disk", path.to_owned()),
        (
            "uuid",
            uuid.map(|uuid| uuid.to_string()).unwrap_or_default(),
        ),
    ]
}

/// Nothing, where it is not known.
fn maybe(family: &mut Family<'_>, labels: &Labels, value: Option<u64>) -> fmt::Result {
    value.map_or(Ok(()), |value| family.gauge(labels, value))
}

/// As the API spells it.
fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

fn seconds(unix_ms: u64) -> f64 {
    std::time::Duration::from_millis(unix_ms).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use prometheus_client::registry::Registry;
    use uuid::Uuid;

    use crate::api::{Disk, Status};

    fn snapshot() -> Snapshot {
        let disk = Uuid::from_u128(1);
        let mut stats = DeviceStats::default();
        let reads = &mut stats.operations[OperationKind::Read as usize];
        (reads.done, reads.bytes, reads.nanos) = (3, 12_288, 1_000_000_000);
        (reads.latencies[0], reads.latencies[2]) = (1, 2);
        Snapshot {
            status: Status {
                version: "1".to_owned(),
                pid: 1,
                started_unix_ms: 1500,
                boot_id: disk,
                kernel: "7".to_owned(),
                data_mode: None,
                reactors: 2,
                disks: vec![Disk {
                    uuid: Some(disk),
                    path: "/dev/a \"b\"".to_owned(),
                    state: DiskState::Suspect,
                    why: None,
                    read_only: false,
                    draining: false,
                    size_bytes: None,
                    usable_bytes: Some(100),
                    free_bytes: Some(30),
                    replicas: 0,
                    volume_count: 0,
                }],
                images: Vec::new(),
                volumes: Vec::new(),
                jobs: Vec::new(),
                problems: Vec::new(),
            },
            images: Vec::new(),
            damaged_blocks: BTreeMap::new(),
            disks: BTreeMap::new(),
            devices_recovered: 4,
            scrub_passes: 0,
            devices: vec![OfDevice {
                noun: "volume",
                name: "vm".to_owned(),
                number: 5,
                stats,
            }],
        }
    }

    fn text() -> String {
        let mut registry = Registry::with_prefix("bedplate");
        registry.register_collector(Box::new(snapshot()));
        let mut text = String::new();
        prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn each_series_is_what_was_counted() {
        let text = text();
        let of = "volume=\"vm\",device=\"ublkb5\",operation=\"read\"";
        for line in [
            "bedplate_start_time_seconds 1.5".to_owned(),
            "bedplate_device_recoveries_total 4".to_owned(),
            "bedplate_disk_state{disk=\"/dev/a \\\"b\\\"\",uuid=\"00000000-0000-0000-0000-000000000001\",state=\"Suspect\"} 1".to_owned(),
            "bedplate_disk_state{disk=\"/dev/a \\\"b\\\"\",uuid=\"00000000-0000-0000-0000-000000000001\",state=\"Online\"} 0".to_owned(),
            "bedplate_disk_used_bytes{disk=\"/dev/a \\\"b\\\"\",uuid=\"00000000-0000-0000-0000-000000000001\"} 70".to_owned(),
            format!("bedplate_device_operations_total{{{of}}} 3"),
            format!("bedplate_device_bytes_total{{{of}}} 12288"),
            format!("bedplate_device_latency_seconds_bucket{{{of},le=\"+Inf\"}} 3"),
            format!("bedplate_device_latency_seconds_count{{{of}}} 3"),
            format!("bedplate_device_latency_seconds_sum{{{of}}} 1"),
        ] {
            let float = format!("{line}.0");
            let there = text.lines().any(|there| there == line || there == float);
            assert!(there, "{line} is not in\n{text}");
        }
    }

    #[test]
    fn names_follow_the_conventions_and_each_family_is_described_once() {
        let text = text();
        let mut seen = std::collections::BTreeSet::new();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let mut words = line.split(' ').skip(2);
            let (name, kind) = (words.next().unwrap(), words.next().unwrap());
            assert!(seen.insert(name.to_owned()), "{name} is there twice");
            assert!(name.starts_with("bedplate_"), "{name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            for unit in ["_ms", "_kib", "_percent", "_millis"] {
                assert!(!name.contains(unit), "{name}: no base unit");
            }
        }
        assert!(seen.len() > 20, "{text}");
    }
}
