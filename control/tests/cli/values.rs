//! Fixed values of the API, one of each kind that a user may see.

use bedplate_control::api::{
    ApiError, Attachment, AttachmentState, DataMode, Disk, DiskDetail, DiskState, Image,
    ImageDetail, Job, JobKind, JobPhase, JobState, ParentImage, Progress, Replica, ReplicaState,
    Status, Transition, VerifyReport, Volume, VolumeDetail, VolumeState,
};
use bedplate_control::error_kind::ErrorKind;
use uuid::Uuid;

pub const T0_UNIX_MS: u64 = 1_795_374_000_000;

pub fn uuid(n: u128) -> Uuid {
    Uuid::from_u128(0xbed0_0000_0000_4000_8000_0000_0000_0000 + n)
}

pub fn sha256() -> String {
    "5f".repeat(32)
}

pub fn disk() -> Disk {
    Disk {
        uuid: Some(uuid(1)),
        path: "/dev/nvme0n1".to_owned(),
        state: DiskState::Online,
        why: None,
        read_only: false,
        draining: false,
        size_bytes: Some(512 << 30),
        usable_bytes: Some(511 << 30),
        free_bytes: Some(3 << 37),
        replicas: 2,
        volume_count: 1,
    }
}

pub fn disks() -> Vec<Disk> {
    let absent = Disk {
        uuid: None,
        path: "/dev/disk/by-id/nvme-gone".to_owned(),
        state: DiskState::Absent,
        why: Some("no such file or device".to_owned()),
        size_bytes: None,
        usable_bytes: None,
        free_bytes: None,
        replicas: 0,
        volume_count: 0,
        ..disk()
    };
    let draining = Disk {
        uuid: Some(uuid(3)),
        path: "/dev/nvme2n1".to_owned(),
        draining: true,
        ..disk()
    };
    let latched = Disk {
        uuid: Some(uuid(2)),
        path: "/srv/disk.img".to_owned(),
        read_only: true,
        why: Some("a write of the object table failed: I/O error".to_owned()),
        ..disk()
    };
    vec![absent, disk(), draining, latched]
}

pub fn disk_detail() -> DiskDetail {
    DiskDetail {
        disk: disk(),
        format_version: Some(1),
        session: Some(7),
        previous_session: Some("crash_other_boot".to_owned()),
        repairs: vec!["superblock copy 2 was bad, and was written again".to_owned()],
        images: vec!["debian-13".to_owned(), "ubuntu-24.04".to_owned()],
        volumes: vec!["vm1".to_owned()],
        history: vec![
            transition(0, "disk", "Absent", "Opening", "found at /dev/nvme0n1"),
            transition(41, "disk", "Opening", "Online", "metadata checked"),
        ],
    }
}

fn transition(after_ms: u64, subject: &str, from: &str, to: &str, cause: &str) -> Transition {
    Transition {
        at_unix_ms: T0_UNIX_MS + after_ms,
        subject: subject.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        cause: cause.to_owned(),
    }
}

pub fn attachment(state: AttachmentState, device: Option<&str>) -> Attachment {
    Attachment {
        state,
        why: None,
        wanted: device.is_some(),
        dev_id: device.map(|_| 0),
        device: device.map(str::to_owned),
    }
}

pub fn image(name: &str) -> Image {
    Image {
        name: name.to_owned(),
        uuid: uuid(16),
        state: ReplicaState::Ready,
        percent: None,
        why: None,
        degraded: false,
        degraded_why: None,
        size_bytes: Some(2 << 30),
        stored_bytes: Some(612 << 20),
        copies_wanted: 1,
        copies_ready: 1,
        sha256: Some(sha256()),
        sha512: Some("a7".repeat(64)),
        source: "/srv/images/debian-13.raw".to_owned(),
        created_unix_ms: T0_UNIX_MS,
        attachment: attachment(AttachmentState::Detached, None),
        job: None,
    }
}

pub fn images() -> Vec<Image> {
    let attached = Image {
        attachment: attachment(AttachmentState::Ready, Some("/dev/ublkb0")),
        ..image("debian-13")
    };
    let held = Attachment {
        why: Some("device number 4 is taken by process 812 (rublk)".to_owned()),
        wanted: true,
        dev_id: Some(4),
        ..attachment(AttachmentState::Held, None)
    };
    let in_progress = Image {
        state: ReplicaState::InProgress,
        percent: Some(41),
        stored_bytes: None,
        copies_ready: 0,
        sha256: None,
        sha512: None,
        job: Some(3),
        ..image("fedora")
    };
    let unknown = Image {
        state: ReplicaState::Unknown,
        why: Some("disk /dev/nvme1n1 is Absent".to_owned()),
        degraded: true,
        copies_ready: 0,
        ..image("windows")
    };
    let degraded = Image {
        degraded: true,
        degraded_why: Some("2 copies are wanted, and no other disk has room for one".to_owned()),
        copies_wanted: 2,
        attachment: held,
        ..image("ubuntu-24.04")
    };
    let recovering = Image {
        attachment: attachment(AttachmentState::Recovering, Some("/dev/ublkb7")),
        ..image("tiny")
    };
    vec![attached, in_progress, recovering, degraded, unknown]
}

pub fn image_detail(image: Image) -> ImageDetail {
    let replica = Replica {
        uuid: uuid(32),
        disk_uuid: uuid(1),
        disk_path: Some("/dev/nvme0n1".to_owned()),
        state: ReplicaState::Ready,
        percent: None,
        why: None,
        damaged: Vec::new(),
        verified_unix_ms: None,
    };
    let pending = Replica {
        uuid: Uuid::nil(),
        disk_uuid: uuid(3),
        disk_path: Some("/dev/nvme2n1".to_owned()),
        state: ReplicaState::Pending,
        ..replica.clone()
    };
    let lost = Replica {
        uuid: uuid(33),
        disk_uuid: uuid(2),
        disk_path: None,
        state: ReplicaState::Unknown,
        why: Some("its disk is Absent".to_owned()),
        ..replica.clone()
    };
    ImageDetail {
        image,
        replicas: vec![replica, lost, pending],
        history: vec![
            transition(0, "replica", "Pending", "InProgress", "import began"),
            transition(
                9_000,
                "replica",
                "InProgress",
                "Ready",
                "content matches, sealed",
            ),
            transition(12_000, "attachment", "Detached", "Attaching", "asked for"),
            transition(12_020, "attachment", "Attaching", "Ready", "device is live"),
        ],
    }
}

pub fn volume(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        uuid: uuid(48),
        state: VolumeState::Detached,
        why: None,
        wanted: false,
        size_bytes: 20 << 30,
        allocated_bytes: 384 << 20,
        image: Some(ParentImage {
            name: Some("debian-13".to_owned()),
            uuid: uuid(16),
        }),
        disk_uuid: uuid(1),
        disk_path: "/dev/nvme0n1".to_owned(),
        dev_id: None,
        device: None,
        created_unix_ms: T0_UNIX_MS,
    }
}

pub fn attached_volume(name: &str) -> Volume {
    Volume {
        state: VolumeState::Ready,
        wanted: true,
        dev_id: Some(5),
        device: Some("/dev/ublkb5".to_owned()),
        ..volume(name)
    }
}

pub fn volumes() -> Vec<Volume> {
    let blank = Volume {
        image: None,
        allocated_bytes: 0,
        size_bytes: 1 << 40,
        ..volume("scratch")
    };
    let held = Volume {
        state: VolumeState::Held,
        why: Some(
            "the volume vm2 is held, since writes that were acknowledged may be missing: its live file is gone"
                .to_owned(),
        ),
        wanted: true,
        dev_id: Some(6),
        ..volume("vm2")
    };
    let waiting = Volume {
        state: VolumeState::Recovering,
        why: Some("its disk /dev/nvme1n1 is Absent: no such file or device".to_owned()),
        image: Some(ParentImage {
            name: None,
            uuid: uuid(17),
        }),
        ..attached_volume("vm3")
    };
    vec![blank, attached_volume("vm1"), held, waiting]
}

pub fn volume_detail(volume: Volume) -> VolumeDetail {
    VolumeDetail {
        volume,
        shared_bytes: Some(598 << 20),
        history: vec![
            transition(
                1_000,
                "attachment",
                "Detached",
                "Attaching",
                "asked to attach",
            ),
            transition(
                1_012,
                "attachment",
                "Attaching",
                "Ready",
                "attached as /dev/ublkb5",
            ),
        ],
    }
}

pub fn job(id: u64, state: JobState) -> Job {
    let (phase, done_bytes) = match state {
        JobState::Pending => (JobPhase::Waiting, 0),
        JobState::Done => (JobPhase::Finished, 2 << 30),
        JobState::Running | JobState::Failed | JobState::Cancelled => (JobPhase::Copying, 1 << 29),
    };
    Job {
        id,
        kind: JobKind::Import,
        image: "debian-13".to_owned(),
        disk: None,
        state,
        progress: Progress {
            phase,
            done_bytes,
            total_bytes: Some(2 << 30),
        },
        created_unix_ms: T0_UNIX_MS,
        ended_unix_ms: state.is_final().then_some(T0_UNIX_MS + 9_000),
        error: (state == JobState::Failed).then(no_space),
        verify: None,
    }
}

pub fn no_space() -> ApiError {
    ApiError::new(ErrorKind::NoSpace, "no disk has 1.5 GiB free")
        .object("debian-13")
        .disk("/dev/nvme0n1")
        .remedy("delete images, or add a disk: bedplate disk format PATH")
}

pub fn jobs() -> Vec<Job> {
    let stream = Job {
        progress: Progress {
            phase: JobPhase::Copying,
            done_bytes: 5 << 20,
            total_bytes: None,
        },
        image: "fedora".to_owned(),
        ..job(3, JobState::Running)
    };
    let rebuild = Job {
        kind: JobKind::Rebuild,
        disk: Some("/dev/nvme1n1".to_owned()),
        ..job(5, JobState::Running)
    };
    let drain = Job {
        kind: JobKind::Drain,
        image: String::new(),
        disk: Some("/dev/nvme0n1".to_owned()),
        ..job(6, JobState::Pending)
    };
    vec![
        job(1, JobState::Done),
        job(2, JobState::Failed),
        stream,
        verified(4),
        rebuild,
        drain,
    ]
}

pub fn verified(id: u64) -> Job {
    Job {
        kind: JobKind::Verify,
        verify: Some(VerifyReport {
            replicas: 1,
            bad_block_count: 0,
            repaired_block_count: 0,
            restored_checksum_pages: 0,
            bad_blocks: Vec::new(),
            sha256_expected: sha256(),
            sha256_actual: Some(sha256()),
        }),
        ..job(id, JobState::Done)
    }
}

pub fn status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 812,
        started_unix_ms: T0_UNIX_MS,
        boot_id: uuid(64),
        kernel: "7.3.4-1-cloud-amd64".to_owned(),
        data_mode: Some(DataMode::ZeroCopy),
        reactors: 2,
        disks: disks(),
        images: images(),
        volumes: volumes(),
        jobs: vec![jobs().remove(2)],
        problems: vec![
            ApiError::new(
                ErrorKind::DuplicateDisk,
                "two disks have the same identity, so both are refused",
            )
            .disk("/dev/nvme2n1, /dev/nvme3n1")
            .remedy("take out the copy; the original opens by itself"),
        ],
    }
}
