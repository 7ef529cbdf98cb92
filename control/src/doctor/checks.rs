//! Judges the facts: each check says what is there, what that means and how to get what is missing. Pure.

use super::facts::{Control, Driver, Facts, Live, Module};
use crate::api::{Check, Verdict};
use crate::cli::size::human;
use nix::errno::Errno;

/// What 1,000 devices need: each a few descriptors, and rings, disks and clients besides.
const FILES_WANTED: u64 = 16_384;
/// Maps of a few TiB; more is needed with more.
const MEMLOCK_WANTED_BYTES: u64 = 256 << 20;
/// Devices that a node may have attached.
const DEVICES_WANTED: u32 = 1_000;

/// Every check, the most important ones first.
pub fn judge(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![module(facts)];
    // Without the driver, what follows from it would only repeat what is said above.
    if facts.module == Module::Loaded {
        checks.push(control(facts.control));
        checks.extend(facts.driver.iter().flat_map(driver));
        checks.extend(facts.ublks_max.map(ublks_max));
    }
    checks.push(io_uring(facts));
    checks.push(memlock(facts.memlock_bytes));
    checks.push(files(facts.files_max));
    checks.push(live(facts));
    checks
}

fn ok(id: &str, found: impl Into<String>, means: &str) -> Check {
    Check {
        id: id.to_owned(),
        verdict: Verdict::Ok,
        found: found.into(),
        means: means.to_owned(),
        remedy: None,
        kernel: false,
    }
}

fn warn(id: &str, found: impl Into<String>, means: &str, remedy: impl Into<String>) -> Check {
    Check {
        verdict: Verdict::Warn,
        remedy: Some(remedy.into()),
        ..ok(id, found, means)
    }
}

fn fail(id: &str, found: impl Into<String>, means: &str, remedy: impl Into<String>) -> Check {
    Check {
        verdict: Verdict::Fail,
        ..warn(id, found, means, remedy)
    }
}

fn kernel_lacks(
    id: &str,
    found: impl Into<String>,
    means: &str,
    remedy: impl Into<String>,
) -> Check {
    Check {
        kernel: true,
        ..fail(id, found, means, remedy)
    }
}

fn module(facts: &Facts) -> Check {
    let id = "ublk_module";
    let release = &facts.kernel_release;
    let means = "The kernel cannot make block devices for Bedplate.";
    match facts.module {
        Module::Loaded => ok(
            id,
            format!("ublk_drv is loaded, Linux {release}"),
            "The kernel can make block devices.",
        ),
        Module::Loadable => kernel_lacks(
            id,
            format!("ublk_drv is not loaded; Linux {release} has it as a module"),
            means,
            "modprobe ublk_drv; bedplated.service does that at each start",
        ),
        Module::Missing => kernel_lacks(
            id,
            format!("Linux {release} comes without ublk_drv"),
            means,
            "boot a kernel that has it (CONFIG_BLK_DEV_UBLK, Linux 6.8 or newer); on Debian 13 or newer: \
             apt install linux-image-amd64 (linux-image-arm64, linux-image-cloud-amd64), then reboot",
        ),
        Module::NoModules => kernel_lacks(
            id,
            format!("ublk_drv is not loaded, and the modules of Linux {release} are not installed"),
            means,
            "install the package of the running kernel (on Debian: apt install linux-image-$(uname -r)), or, after an \
             update of the kernel, reboot; in a container, load ublk_drv on the host",
        ),
    }
}

fn control(control: Control) -> Check {
    let id = "ublk_control";
    let means = "No device can be added.";
    match control {
        Control::Opens => ok(
            id,
            "/dev/ublk-control can be opened",
            "Devices can be added.",
        ),
        Control::Absent => kernel_lacks(
            id,
            "/dev/ublk-control is not there, although the driver is loaded",
            means,
            "see that /dev is a devtmpfs; in a container, pass /dev/ublk-control in",
        ),
        Control::Refused(errno @ (libc::EACCES | libc::EPERM)) => fail(
            id,
            format!("/dev/ublk-control: {}", Errno::from_raw(errno).desc()),
            "This process may not add devices. The daemon must run as root.",
            "run bedplate doctor as root; start the daemon with systemctl start bedplated",
        ),
        Control::Refused(errno) => fail(
            id,
            format!(
                "/dev/ublk-control cannot be opened: {}",
                Errno::from_raw(errno).desc()
            ),
            means,
            "see the kernel's log: dmesg",
        ),
    }
}

fn driver(driver: &Driver) -> Vec<Check> {
    let newer = "boot Linux 6.16 or newer; on Debian 13: the kernel of trixie-backports";
    if let Some(lacks) = driver.lacks {
        return vec![kernel_lacks(
            "ublk_features",
            format!("the ublk driver lacks {lacks}"),
            "Devices could not be served, or would not survive the daemon.",
            "boot Linux 6.8 or newer",
        )];
    }
    let data_mode = if driver.zero_copy {
        ok(
            "ublk_data_mode",
            "zero copy",
            "Disks read straight into the pages of a request.",
        )
    } else {
        warn(
            "ublk_data_mode",
            "user copy",
            "Works; each request is copied once more than with zero copy.",
            newer,
        )
    };
    let quiesce = if driver.quiesce {
        ok(
            "ublk_quiesce",
            "devices can be quiesced",
            "A restart of the daemon hands devices over at once.",
        )
    } else {
        warn(
            "ublk_quiesce",
            "devices cannot be quiesced",
            "Works; a restart of the daemon drains its requests and leaves, and the kernel notices that a little later.",
            newer,
        )
    };
    let part_scan = if driver.no_part_scan {
        ok(
            "ublk_part_scan",
            "partition scan can be left out",
            "The kernel does not read images by itself.",
        )
    } else {
        ok(
            "ublk_part_scan",
            "the kernel scans for partitions",
            "It reads the start of each image when it is attached.",
        )
    };
    vec![
        ok(
            "ublk_features",
            "recovery with reissue, user copy",
            "Devices survive the daemon.",
        ),
        data_mode,
        quiesce,
        part_scan,
    ]
}

fn ublks_max(max: u32) -> Check {
    let id = "ublks_max";
    let found = format!("ublk_drv.ublks_max is {max}");
    if max >= DEVICES_WANTED {
        return ok(id, found, "Enough devices on every kernel.");
    }
    warn(
        id,
        found,
        "Up to Linux 6.14 no more devices than that can be attached; from 6.15 on it limits unprivileged users only.",
        "echo 'options ublk_drv ublks_max=1024' > /etc/modprobe.d/bedplate.conf; now: \
         echo 1024 > /sys/module/ublk_drv/parameters/ublks_max",
    )
}

fn io_uring(facts: &Facts) -> Check {
    let id = "io_uring";
    match (facts.io_uring, facts.io_uring_disabled) {
        (Ok(()), Some(1)) => warn(
            id,
            "works for this process; kernel.io_uring_disabled is 1",
            "Only privileged processes get rings: the daemon must run as root.",
            "run the daemon as root, or sysctl kernel.io_uring_disabled=0",
        ),
        (Ok(()), _) => ok(id, "works", "Reactors get their rings."),
        (Err(_), Some(disabled @ 1..)) => kernel_lacks(
            id,
            format!("kernel.io_uring_disabled is {disabled}"),
            "Neither disks nor devices can be served.",
            "sysctl kernel.io_uring_disabled=0, and the same line in /etc/sysctl.d/ to keep it",
        ),
        (Err(errno @ (libc::EPERM | libc::EACCES)), _) => fail(
            id,
            format!("refused: {}", Errno::from_raw(errno).desc()),
            "Neither disks nor devices can be served from this process.",
            "in a container, allow io_uring in its seccomp profile; else see the rules of SELinux or AppArmor",
        ),
        (Err(errno @ (libc::ENOMEM | libc::EMFILE | libc::ENFILE)), _) => fail(
            id,
            format!("no ring: {}", Errno::from_raw(errno).desc()),
            "Neither disks nor devices can be served from this process.",
            "free memory, or raise the limits memlock and nofile of this process",
        ),
        (Err(errno), _) => kernel_lacks(
            id,
            format!(
                "no ring as reactors need it: {}",
                Errno::from_raw(errno).desc()
            ),
            "Neither disks nor devices can be served.",
            "boot Linux 6.8 or newer with CONFIG_IO_URING",
        ),
    }
}

fn memlock(bytes: Option<u64>) -> Check {
    let id = "memlock";
    match bytes {
        None => ok(id, "no limit", "Maps stay in memory."),
        Some(bytes) if bytes >= MEMLOCK_WANTED_BYTES => ok(
            id,
            format!("{} may be locked", human(bytes)),
            "Maps stay in memory.",
        ),
        Some(bytes) => warn(
            id,
            format!("only {} may be locked", human(bytes)),
            "Maps could be paged out to a disk that the daemon itself serves, which then waits for itself.",
            "LimitMEMLOCK=infinity, as in bedplated.service; or ulimit -l unlimited",
        ),
    }
}

fn files(max: u64) -> Check {
    let id = "open_files";
    let found = format!("{max} files may be open");
    if max >= FILES_WANTED {
        return ok(id, found, "Enough for 1,000 devices.");
    }
    warn(
        id,
        found,
        "Not enough for 1,000 devices.",
        "LimitNOFILE=1048576, as in bedplated.service; or ulimit -n 1048576",
    )
}

fn live(facts: &Facts) -> Check {
    let id = "live_state";
    let at = facts.live_dir.display();
    let means = "State that is to live as long as the boot would be lost with the daemon, or outlive the boot.";
    let mount =
        "systemctl start run-bedplate-live.mount; bedplated.service does that at each start";
    match facts.live {
        Live::Tmpfs => ok(
            id,
            format!("{at} is a tmpfs"),
            "State outlives the daemon, and not the boot.",
        ),
        Live::Other => warn(id, format!("{at} is no tmpfs"), means, mount),
        Live::Absent => warn(id, format!("{at} is not there"), means, mount),
        Live::Hidden(errno) => warn(
            id,
            format!(
                "{at} cannot be looked at: {}",
                Errno::from_raw(errno).desc()
            ),
            "It may be in order.",
            "run bedplate doctor as root",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn good() -> Facts {
        Facts {
            kernel_release: "7.3.4".to_owned(),
            module: Module::Loaded,
            control: Control::Opens,
            driver: Some(Driver {
                lacks: None,
                zero_copy: true,
                quiesce: true,
                no_part_scan: true,
            }),
            ublks_max: Some(1024),
            io_uring: Ok(()),
            io_uring_disabled: Some(0),
            memlock_bytes: None,
            files_max: 1 << 20,
            live_dir: PathBuf::from("/run/bedplate/live"),
            live: Live::Tmpfs,
        }
    }

    fn check(facts: &Facts, id: &str) -> Check {
        judge(facts)
            .into_iter()
            .find(|check| check.id == id)
            .expect(id)
    }

    #[test]
    fn a_node_in_order_has_nothing_to_say() {
        assert!(
            judge(&good())
                .iter()
                .all(|check| check.verdict == Verdict::Ok)
        );
    }

    #[test]
    fn each_lack_is_a_failure_with_its_own_remedy() {
        let cases: [(&str, Facts, &str, bool); 8] = [
            (
                "ublk_module",
                Facts {
                    module: Module::Loadable,
                    ..good()
                },
                "modprobe ublk_drv",
                true,
            ),
            (
                "ublk_module",
                Facts {
                    module: Module::Missing,
                    ..good()
                },
                "linux-image-amd64",
                true,
            ),
            (
                "ublk_module",
                Facts {
                    module: Module::NoModules,
                    ..good()
                },
                "uname -r",
                true,
            ),
            (
                "ublk_control",
                Facts {
                    control: Control::Absent,
                    ..good()
                },
                "devtmpfs",
                true,
            ),
            (
                "ublk_control",
                Facts {
                    control: Control::Refused(libc::EACCES),
                    ..good()
                },
                "as root",
                false,
            ),
            (
                "io_uring",
                Facts {
                    io_uring: Err(libc::EPERM),
                    io_uring_disabled: Some(2),
                    ..good()
                },
                "sysctl kernel.io_uring_disabled=0",
                true,
            ),
            (
                "io_uring",
                Facts {
                    io_uring: Err(libc::EPERM),
                    ..good()
                },
                "seccomp",
                false,
            ),
            (
                "io_uring",
                Facts {
                    io_uring: Err(libc::ENOSYS),
                    ..good()
                },
                "CONFIG_IO_URING",
                true,
            ),
        ];
        for (id, facts, remedy, kernel) in cases {
            let check = check(&facts, id);
            assert_eq!(
                (check.verdict, check.kernel),
                (Verdict::Fail, kernel),
                "{check:?}"
            );
            assert!(
                check.remedy.as_ref().expect("remedy").contains(remedy),
                "{check:?}"
            );
        }
    }

    #[test]
    fn a_kernel_without_recovery_fails_and_one_without_zero_copy_only_warns() {
        let with = |driver| Facts {
            driver: Some(driver),
            ..good()
        };
        let old = Driver {
            lacks: None,
            zero_copy: false,
            quiesce: false,
            no_part_scan: false,
        };
        assert_eq!(check(&with(old), "ublk_data_mode").verdict, Verdict::Warn);
        assert_eq!(check(&with(old), "ublk_quiesce").verdict, Verdict::Warn);
        let too_old = Driver {
            lacks: Some("UBLK_F_USER_COPY"),
            ..old
        };
        let lacking = check(&with(too_old), "ublk_features");
        assert!(
            lacking.kernel
                && lacking.verdict == Verdict::Fail
                && lacking.found.contains("UBLK_F_USER_COPY")
        );
    }

    #[test]
    fn small_limits_warn() {
        let facts = Facts {
            ublks_max: Some(64),
            memlock_bytes: Some(8 << 20),
            files_max: 1024,
            live: Live::Other,
            ..good()
        };
        for id in ["ublks_max", "memlock", "open_files", "live_state"] {
            assert_eq!(check(&facts, id).verdict, Verdict::Warn, "{id}");
        }
        assert!(check(&facts, "memlock").found.contains("8 MiB"));
    }
}
