//! What is printed, against golden files: help of every command, tables, JSON.

use crate::golden;
use crate::values::{self, T0_UNIX_MS};
use bedplate_control::api::{DiskList, ImageList, JobList, VolumeList};
use bedplate_control::cli::args::Cli;
use bedplate_control::cli::output::Paint;
use bedplate_control::cli::{render, render_volume};
use bedplate_control::doctor::facts::{Control, Driver, Facts, Live, Module};
use bedplate_control::doctor::{checks, report};
use clap::CommandFactory as _;
use serde::Serialize;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const PLAIN: Paint = Paint(false);

#[test]
fn help_of_every_command() {
    let mut text = String::new();
    let mut root = Cli::command();
    // Else the golden file would depend on the terminal, the environment and the name of the program.
    root = root.term_width(100).bin_name("bedplate");
    root.build();
    add_help(&mut root, &mut text);
    golden::check("help.txt", &text);
}

fn add_help(command: &mut clap::Command, text: &mut String) {
    let help = command.render_help().to_string();
    // Said once, at the top.
    let own = if text.is_empty() {
        help.as_str()
    } else {
        help.split("Global options:").next().unwrap_or_default()
    };
    let after = command
        .get_after_help()
        .map(ToString::to_string)
        .filter(|_| !text.is_empty())
        .unwrap_or_default();
    let name = command.get_bin_name().unwrap_or_default();
    let _ = write!(text, "$ {name} --help\n{}\n", own.trim_end());
    if !after.is_empty() {
        let _ = write!(text, "\n{after}\n");
    }
    text.push('\n');
    for subcommand in command.get_subcommands_mut() {
        add_help(subcommand, text);
    }
}

#[test]
fn tables() {
    golden::check("disk-list.txt", &render::disks(&values::disks(), PLAIN));
    golden::check(
        "disk-show.txt",
        &render::disk(&values::disk_detail(), PLAIN),
    );
    golden::check("image-list.txt", &render::images(&values::images(), PLAIN));
    let attached = values::images().remove(0);
    golden::check(
        "image-show.txt",
        &render::image(&values::image_detail(attached), PLAIN),
    );
    golden::check(
        "volume-list.txt",
        &render_volume::volumes(&values::volumes(), PLAIN),
    );
    let show = |volume| render_volume::volume(&values::volume_detail(volume), PLAIN);
    golden::check("volume-show.txt", &show(values::attached_volume("vm1")));
    golden::check("job-list.txt", &render::jobs(&values::jobs(), PLAIN));
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(T0_UNIX_MS + 3_725_000);
    golden::check("status.txt", &render::status(&values::status(), now, PLAIN));
}

#[test]
fn json() {
    fn text(value: &impl Serialize) -> String {
        serde_json::to_string_pretty(value).expect("JSON") + "\n"
    }
    golden::check(
        "disk-list.json",
        &text(&DiskList {
            disks: values::disks(),
        }),
    );
    golden::check("disk-show.json", &text(&values::disk_detail()));
    golden::check(
        "image-list.json",
        &text(&ImageList {
            images: values::images(),
        }),
    );
    golden::check(
        "image-show.json",
        &text(&values::image_detail(values::image("debian-13"))),
    );
    golden::check(
        "volume-list.json",
        &text(&VolumeList {
            volumes: values::volumes(),
        }),
    );
    golden::check(
        "volume-show.json",
        &text(&values::volume_detail(values::attached_volume("vm1"))),
    );
    golden::check(
        "job-list.json",
        &text(&JobList {
            jobs: values::jobs(),
        }),
    );
    golden::check("status.json", &text(&values::status()));
    golden::check("error.json", &text(&values::no_space()));
}

#[test]
fn doctor_on_a_bare_machine_and_on_an_older_kernel() {
    let older = Facts {
        kernel_release: "6.12.48+deb13-cloud-amd64".to_owned(),
        module: Module::Loaded,
        control: Control::Opens,
        driver: Some(Driver {
            lacks: None,
            zero_copy: false,
            quiesce: false,
            no_part_scan: false,
        }),
        ublks_max: Some(64),
        io_uring: Ok(()),
        io_uring_disabled: Some(0),
        memlock_bytes: None,
        files_max: 1 << 20,
        live_dir: PathBuf::from("/run/bedplate/live"),
        live: Live::Tmpfs,
    };
    let bare = Facts {
        kernel_release: "6.1.0-cloud-amd64".to_owned(),
        module: Module::Missing,
        control: Control::Absent,
        driver: None,
        ublks_max: None,
        io_uring: Err(libc::EPERM),
        io_uring_disabled: Some(2),
        memlock_bytes: Some(8 << 20),
        files_max: 1024,
        live: Live::Absent,
        ..older.clone()
    };
    golden::check(
        "doctor-older.txt",
        &render::doctor(&report(checks::judge(&older), "test"), PLAIN),
    );
    golden::check(
        "doctor-bare.txt",
        &render::doctor(&report(checks::judge(&bare), "test"), PLAIN),
    );
}
