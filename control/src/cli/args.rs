//! The commands and their options, as clap reads them.

use super::size;
use crate::api::{DEFAULT_SOCKET, ImportFormat};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

const EXIT_CODES: &str = "Exit codes:
  0 done      3 not found            6 corruption                        9 busy
  1 failure   4 exists               7 the kernel lacks what is needed
  2 usage     5 daemon unreachable   8 no space         130 interrupted, the job goes on

Results go to standard output; progress, notes and errors to standard error, so that a script
can keep them apart. With -o json an error is one line of JSON: kind, message, object, disk,
offset, errno, remedy.";

/// VM images and volumes on this node's disks, served as block devices.
#[derive(Debug, Parser)]
#[command(name = "bedplate", version, after_help = EXIT_CODES, arg_required_else_help = true)]
#[command(
    disable_help_subcommand = true,
    disable_help_flag = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// How results and errors are printed
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "table"
    )]
    pub output: OutputFormat,
    /// Socket of the daemon
    #[arg(long, global = true, value_name = "PATH", env = "BEDPLATE_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print results only: no progress, no notes
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Start a job, print its id and return
    #[arg(long, global = true)]
    pub no_wait: bool,
    /// How progress of a job is shown, on standard error; json is one line for each change
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "HOW",
        default_value = "auto"
    )]
    pub progress: ProgressMode,
    // One form of help: clap would otherwise make a long one of the comments below.
    /// Print help
    #[arg(short, long, global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// Form of results and errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Table,
    /// For programs: the API's own JSON.
    Json,
}

/// Form of progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// A bar on a terminal, else nothing.
    Auto,
    /// A line now and then.
    Plain,
    /// The job as JSON, one line for each change.
    Json,
    /// Nothing.
    None,
}

/// Nouns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Disks that hold images and volumes
    #[command(subcommand)]
    Disk(DiskCommand),
    /// Images: import, attach, verify
    #[command(subcommand)]
    Image(ImageCommand),
    /// Volumes: writable disks, clones of an image or blank
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Disks, images, volumes, jobs and problems at a glance
    Status,
    /// What this node lacks to serve devices, and how to get it
    #[command(
        after_help = "Exits 0 when devices can be served, 7 when the kernel lacks what is needed, 1 when \
                            something else stands in the way. Works without the daemon."
    )]
    Doctor,
    /// Long work in the daemon
    #[command(subcommand)]
    Job(JobCommand),
    /// Wait for a state, for what must start after it
    #[command(subcommand)]
    Wait(WaitCommand),
}

/// `bedplate disk`.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Write the format on a disk and bring it online
    #[command(
        after_help = "Refuses a disk that carries a file system, a partition table, LVM, RAID or a Bedplate \
                            format, unless --force is given: then all of it is lost."
    )]
    Format {
        /// Block device, partition or regular file
        path: PathBuf,
        /// Make a regular file of this size (10G is 10 GiB) when nothing is at PATH
        #[arg(long, value_parser = size::parse)]
        size: Option<u64>,
        /// Format whatever the disk carries
        #[arg(long)]
        force: bool,
        /// Write the format only, without the daemon
        #[arg(long)]
        offline: bool,
    },
    /// Bring a formatted disk online
    Add {
        /// Block device, partition or regular file
        path: PathBuf,
    },
    /// List disks
    List,
    /// Show a disk and the last changes of its state
    Show {
        /// UUID or path
        disk: String,
    },
    /// Move what a disk holds to other disks, then take it out of use
    #[command(
        after_help = "Replicas of images are made elsewhere first, as by disk drain. Volumes do not move: a disk that holds \
                            some is refused. With --force nothing is moved: what is on the disk stays on it, out of reach until \
                            the disk is added again."
    )]
    Remove {
        /// UUID or path
        disk: String,
        /// At once, whatever is on it
        #[arg(long)]
        force: bool,
    },
    /// Move the replicas of a disk to other disks; it gets no more
    #[command(
        after_help = "Each replica is made elsewhere before it goes, so that no image has fewer than before. Goes on after \
                            Ctrl-C and after a restart of the daemon; bedplate job cancel ends it, and disk add takes the disk into \
                            use again. Exits 8 when other disks lack the room."
    )]
    Drain {
        /// UUID or path
        disk: String,
    },
    /// Give up a disk that never comes back; replicas are made elsewhere, its volumes are lost
    #[command(
        after_help = "Refused for a disk that is there. Should it come back after all, it is not taken into use by itself."
    )]
    Forget {
        /// UUID or path
        disk: String,
    },
    /// Take over a disk that another node owned, and bring it online
    #[command(
        after_help = "Only when that node is gone for good, or no longer sees the disk: two nodes on one disk destroy it."
    )]
    Adopt {
        /// Block device, partition or regular file
        path: PathBuf,
    },
    /// Give a copied disk an identity of its own, and bring it online
    #[command(
        name = "re-uuid",
        after_help = "For a disk that is refused since another one has its identity, or that is an old copy of itself. Its volumes become \
                            volumes of their own, with new UUIDs and under their old names: name what is there twice by its \
                            UUID. Its images become further copies of the same images. Cut short, it is finished by doing it \
                            again. Exits 9 while the disk is in use, 1 while it is another node's."
    )]
    ReUuid {
        /// Block device, partition or regular file
        path: PathBuf,
    },
}

/// `bedplate image`.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import a raw image from a file or from standard input
    #[command(
        after_help = "The daemon reads the file, under the absolute path that SOURCE has here. Where it cannot \
                            see it (another mount namespace, no permission): bedplate image import NAME - < FILE\n\n\
                            An import from a file goes on after Ctrl-C; one from standard input fails, and its space \
                            is given back."
    )]
    Import {
        /// Name of the new image: letters, digits, '.', '_' and '-', at most 128
        name: String,
        /// File or block device; - is standard input
        source: String,
        /// auto refuses what looks like qcow2, VMDK, gzip, ...; raw takes the bytes as they are
        #[arg(long, value_enum, default_value = "auto")]
        format: FormatArg,
        /// SHA-256 that the content must have, in hexadecimal
        #[arg(long, value_name = "HEX", value_parser = |s: &str| checksum(s, 64))]
        sha256: Option<String>,
        /// SHA-512 that the content must have, in hexadecimal
        #[arg(long, value_name = "HEX", value_parser = |s: &str| checksum(s, 128))]
        sha512: Option<String>,
        /// Copies to keep, each on its own disk
        #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
        copies: u32,
    },
    /// Say how many copies of an image there are to be, each on its own disk
    #[command(
        after_help = "The daemon makes what is missing, or removes what is too much, never the last Ready copy. More copies than \
                            disks are accepted: the image is degraded until there is a disk for each.\n\n\
                            Copies are made at the rate that the settings give ([rebuild] limit_bytes_per_s), so that guests \
                            hardly notice; --limit is another one for this image, until the daemon ends."
    )]
    Copies {
        /// Name of the image
        name: String,
        /// Copies to keep, at least 1
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        copies: u32,
        /// Bytes a second for each copy that is being made: 200M; 0 is no limit
        #[arg(long, value_name = "RATE", value_parser = size::parse)]
        limit: Option<u64>,
    },
    /// List images
    List,
    /// Show an image, its replicas and the last changes of their state
    Show {
        /// Name of the image
        name: String,
    },
    /// Attach an image as a read-only block device, now and after each restart; prints its path
    Attach {
        /// Name of the image
        name: String,
    },
    /// Remove the block device of an image
    Detach {
        /// Name of the image
        name: String,
    },
    /// Read all copies of an image again, compare them with their checksums, repair what another copy has
    Verify {
        /// Name of the image
        name: String,
    },
    /// Read an image again, and trust copies again that were not trusted
    #[command(
        after_help = "As verify, for copies that are Damaged: those that turn out good are Ready again. Nothing is written but \
                            blocks that another copy has as they were imported. Of copies that are Failed the metadata is read \
                            anew first."
    )]
    Recheck {
        /// Name of the image
        name: String,
    },
    /// Delete an image that is not attached, all its copies
    #[command(
        after_help = "With --failed-copies the image stays, attached or not, with every copy that is not Failed; it is refused unless \
                            one of them is Ready. What is missing then is made anew. A copy that lost its slot is listed as an image of \
                            its own, lost-slot-N, and deleted as such."
    )]
    Delete {
        /// Name of the image
        name: String,
        /// Only the copies that are Failed
        #[arg(long)]
        failed_copies: bool,
    },
}

/// `bedplate volume`.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// Make a volume: a clone of an image, or blank
    #[command(
        after_help = "A clone lies on the disk of its image, a blank volume on the disk with most free space. It takes \
                            space only where something is written.\n\n\
                            Sizes are bytes, or a number with K, M, G or T (1024 each), and a multiple of 512."
    )]
    Create {
        /// Name of the new volume: letters, digits, '.', '_' and '-', at most 128
        name: String,
        /// Image that it is a clone of; blank without one
        #[arg(long, required_unless_present = "size")]
        image: Option<String>,
        /// Its size; not less than the image's, which is the default
        #[arg(long, value_parser = size::parse)]
        size: Option<u64>,
        /// Attach it, too; prints the path of its device
        #[arg(long)]
        attach: bool,
    },
    /// List volumes
    List,
    /// Show a volume, what it takes, and the last changes of its state
    Show {
        /// Name of the volume
        name: String,
    },
    /// Attach a volume as a block device, now and after each restart; prints its path
    Attach {
        /// Name of the volume
        name: String,
        /// Go on with what the disk has, though writes that were acknowledged may be missing
        #[arg(long)]
        accept_loss: bool,
    },
    /// Remove the block device of a volume; everything that was written stays
    Detach {
        /// Name of the volume
        name: String,
    },
    /// Let a volume grow, also while it is attached where the kernel can
    #[command(
        after_help = "While it is attached this needs a kernel whose ublk can change a size (exit code 7 where it cannot); \
                            the guest sees the new size at once. A volume is never made smaller."
    )]
    Resize {
        /// Name of the volume
        name: String,
        /// The new size (20G), or by how much it is to grow (+10G)
        #[arg(value_parser = size::parse_change)]
        size: size::Change,
    },
    /// Delete a volume that is not attached
    Delete {
        /// Name of the volume
        name: String,
    },
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// Raw, unless it looks like something else.
    Auto,
    /// Raw, whatever it looks like.
    Raw,
}

impl From<FormatArg> for ImportFormat {
    fn from(arg: FormatArg) -> Self {
        match arg {
            FormatArg::Auto => Self::Auto,
            FormatArg::Raw => Self::Raw,
        }
    }
}

/// `bedplate job`.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List jobs that run and the last ones that ended
    List,
    /// Follow a job until it ends; exits as the command that started it would have
    Wait {
        /// Number of the job
        id: u64,
    },
    /// Cancel a job
    Cancel {
        /// Number of the job
        id: u64,
    },
}

/// `bedplate wait`.
#[derive(Debug, Subcommand)]
pub enum WaitCommand {
    /// Wait until an image is Ready and, where it is to be attached, its device is; prints the path of the device
    #[command(
        after_help = "Waits for the daemon, too, and for an image that is not there yet. Exits 1 when the time \
                            is over, 5 when the daemon never answered."
    )]
    Image {
        /// Name of the image
        name: String,
        /// How long at most: 30s, 5min, 1h; a bare number is seconds
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timeout)]
        timeout: Duration,
    },
    /// Wait until a volume is there and, where it is to be attached, its device is Ready; prints the path of the device
    #[command(after_help = "As for wait image.")]
    Volume {
        /// Name of the volume
        name: String,
        /// How long at most: 30s, 5min, 1h; a bare number is seconds
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timeout)]
        timeout: Duration,
    },
}

fn checksum(text: &str, digits: usize) -> Result<String, String> {
    let text = text.trim();
    if text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(format!("expected {digits} hexadecimal digits"))
    }
}

fn timeout(text: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => humantime::parse_duration(text).map_err(|_| {
            format!("{text:?} is no time: write 30s, 5min, 1h or a number of seconds")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_stand_anywhere() {
        for line in [
            "bedplate -o json disk list",
            "bedplate disk -o json list",
            "bedplate disk list -o json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            assert_eq!(cli.global.output, OutputFormat::Json);
        }
    }

    #[test]
    fn times_and_checksums_are_checked_before_anything_is_sent() {
        assert_eq!(timeout("90"), Ok(Duration::from_secs(90)));
        assert_eq!(timeout("2min"), Ok(Duration::from_secs(120)));
        assert!(timeout("soon").is_err());
        assert_eq!(checksum(&"AB".repeat(32), 64), Ok("ab".repeat(32)));
        assert!(checksum("abc", 64).is_err());
        assert!(checksum(&"xy".repeat(32), 64).is_err());
    }
}
