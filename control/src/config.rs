//! The daemon's settings: `/etc/bedplate/bedplated.toml`, then `conf.d/*.toml` beside it in the order of their names.
//!
//! A later file wins, key by key; lists of disks add up. What is not known is refused, with the file and the line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Where the settings are read from when no `--config` says otherwise.
pub const DEFAULT_CONFIG_PATH: &str = "/etc/bedplate/bedplated.toml";

/// The slowest scrub: a step reads 1 MiB.
const SCRUB_BYTES_PER_S_MIN: u64 = 64 << 10;

/// Every setting of `bedplated`, with its default.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Disks that belong to this node: block devices or regular files. Others are found by their superblock.
    pub disks: Vec<PathBuf>,
    /// Sockets and other files that do not outlive the boot.
    pub run_dir: PathBuf,
    /// Files that outlive the boot: where disks were last seen.
    pub state_dir: PathBuf,
    /// The API's Unix socket; `bedplate.sock` in `run_dir` when absent.
    pub socket: Option<PathBuf>,
    /// Group that may use the socket (mode 0660). Ignored where there is no such group.
    pub socket_group: String,
    /// Address of this machine's own (127.0.0.0/8 or ::1) on which metrics are offered to Prometheus, besides the socket; none when absent.
    pub metrics_listen: Option<SocketAddr>,
    /// What tells this node from others that may see the same disks: any word that never changes. Disks that are formatted or adopted here
    /// carry it, and a disk that carries another one is refused. Without one, disks of any node are used, and none is marked.
    pub node_id: Option<String>,
    /// Filter of the log, in the syntax of `tracing`'s `EnvFilter`.
    pub log: String,
    /// How disks are found.
    pub discovery: Discovery,
    /// How disks are watched.
    pub health: Health,
    /// How images are read in.
    pub import: Import,
    /// How images are served.
    pub ublk: Ublk,
    /// How images are read again.
    pub scrub: Scrub,
    /// Whether devices compare each block of an image that they read with its checksum, before anybody gets it. Their reads are copied then.
    pub verify_reads: bool,
    /// How missing replicas are made.
    pub rebuild: Rebuild,
    /// When a disk counts as nearly full.
    pub space: Space,
    /// How the daemon's memory is kept from being paged out.
    pub memory: Memory,
    /// How many finished jobs are remembered.
    pub jobs_remembered: usize,
}

/// How disks are found.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Discovery {
    /// Time between two looks for disks that are not there, in milliseconds.
    pub interval_ms: u64,
    /// Whether every block device is looked at, or only the paths that are configured or remembered.
    pub all_block_devices: bool,
}

/// How disks are watched: each check reads the disk's own superblock.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// Time between two checks, in milliseconds.
    pub interval_ms: u64,
    /// How long a check may take before it counts as a miss, in milliseconds.
    pub timeout_ms: u64,
    /// Misses in a row that make a disk Suspect.
    pub suspect_after: u32,
    /// How long after the first of the misses in a row a disk is Offline, in milliseconds. Until then it is only late, and nothing is
    /// rebuilt elsewhere.
    pub grace_ms: u64,
    /// Hits in a row that make it Online again.
    pub online_after: u32,
    /// The longest time between two checks of a disk that is Offline, and between two tries to open one that cannot be opened, in
    /// milliseconds.
    pub retry_max_ms: u64,
    /// What `grace_ms` replaced: a number of misses. Refused, with what to write.
    pub offline_after: Option<u32>,
}

/// How images are read in.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Import {
    /// Reads of the source that are in flight at once, 1 MiB each.
    pub reads_in_flight: usize,
    /// Writes to the disk that are in flight at once, up to 1 MiB each.
    pub writes_in_flight: usize,
    /// Imports that run at once; the others wait.
    pub at_once: usize,
}

/// How images are served.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ublk {
    /// Threads that serve devices; 0 means one for each allowed core.
    pub reactors: usize,
    /// Queues of each device.
    pub queues: u16,
    /// Requests in flight in one queue.
    pub queue_depth: u16,
    /// How data gets to the device's clients.
    pub data_mode: DataMode,
    /// Devices that may be attached at once.
    pub devices_max: u32,
    /// How long a device of a dead daemon may take to be handed over, in milliseconds, before this is logged as an error. It goes on being tried.
    pub recovery_warn_ms: u64,
    /// How long a read of an image may take before another copy is asked, in milliseconds; 0 never asks.
    pub read_deadline_ms: u64,
}

/// How missing replicas are made.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rebuild {
    /// Bytes a second that each replica in the making may take of its disks; 0 is no limit. Less than what guests on them notice.
    pub limit_bytes_per_s: u64,
    /// Replicas that are made at once, never two on one disk; the others wait.
    pub at_once: usize,
    /// How full a rebuild may make a disk, in percent: what is left is for volumes.
    pub fill_percent: u8,
}

/// How images are read again and compared with their checksums: in the background, one replica at a time.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scrub {
    /// Whether this is done.
    pub enabled: bool,
    /// Time in which each replica is read once, in seconds.
    pub interval_s: u64,
    /// How much is read in a second.
    pub bytes_per_s: u64,
}

/// When a disk counts as nearly full: a problem in `bedplate status`, and a line in the log.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Space {
    /// Use that is worth a warning, in percent.
    pub warn_percent: u8,
    /// Use at which somebody must act, in percent.
    pub critical_percent: u8,
}

/// How data gets from the disk to a device's client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataMode {
    /// The best that this kernel has.
    Auto,
    /// The disk reads straight into the client's pages.
    ZeroCopy,
    /// Through a buffer of the daemon.
    UserCopy,
}

/// How the daemon's memory is kept from being paged out.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// What is locked.
    pub lock: MemoryLock,
}

/// What of the daemon's memory is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryLock {
    /// Pages stay once they were touched.
    OnFault,
    /// Nothing. For tests: a daemon that is paged out to a disk that it serves itself hangs.
    Off,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            disks: Vec::new(),
            run_dir: PathBuf::from("/run/bedplate"),
            state_dir: PathBuf::from("/var/lib/bedplate"),
            socket: None,
            socket_group: "bedplate".to_owned(),
            metrics_listen: None,
            node_id: None,
            log: "info".to_owned(),
            discovery: Discovery::default(),
            health: Health::default(),
            import: Import::default(),
            ublk: Ublk::default(),
            scrub: Scrub::default(),
            verify_reads: false,
            rebuild: Rebuild::default(),
            space: Space::default(),
            memory: Memory::default(),
            jobs_remembered: 256,
        }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            interval_ms: 5000,
            all_block_devices: true,
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            interval_ms: 5000,
            timeout_ms: 5000,
            suspect_after: 2,
            grace_ms: 60_000,
            online_after: 2,
            retry_max_ms: 60_000,
            offline_after: None,
        }
    }
}

impl Default for Import {
    fn default() -> Self {
        Self {
            reads_in_flight: 12,
            writes_in_flight: 12,
            at_once: 2,
        }
    }
}

impl Default for Ublk {
    fn default() -> Self {
        Self {
            reactors: 0,
            queues: 1,
            queue_depth: 128,
            data_mode: DataMode::Auto,
            devices_max: 1024,
            recovery_warn_ms: 10_000,
            read_deadline_ms: 2000,
        }
    }
}

impl Default for Rebuild {
    fn default() -> Self {
        Self {
            limit_bytes_per_s: 100 << 20,
            at_once: 4,
            fill_percent: 95,
        }
    }
}

impl Default for Scrub {
    fn default() -> Self {
        Self {
            enabled: true,
            interval_s: 14 * 24 * 3600,
            bytes_per_s: 32 << 20,
        }
    }
}

impl Default for Space {
    fn default() -> Self {
        Self {
            warn_percent: 80,
            critical_percent: 95,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            lock: MemoryLock::OnFault,
        }
    }
}

/// Settings that cannot be used: which file, which line, why.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not TOML, or holds what is not a setting.
    #[error("{path}:{line}: {message}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value is outside what can work.
    #[error("{setting}: {message}")]
    OutOfRange {
        /// Its name, as written in the file.
        setting: &'static str,
        /// What is allowed.
        message: String,
    },
}

impl Config {
    /// Reads `path` and the `conf.d/*.toml` beside it. A main file that is absent is no error unless `must_exist`.
    ///
    /// # Errors
    /// When a file cannot be read or holds something that is not a setting.
    pub fn load(path: &Path, must_exist: bool) -> Result<Self, ConfigError> {
        let mut merged = toml::Table::new();
        for file in files_of(path, must_exist)? {
            let text =
                std::fs::read_to_string(&file).map_err(|source| ConfigError::Unreadable {
                    path: file.clone(),
                    source,
                })?;
            // Checked file by file, since the merged table no longer knows lines.
            toml::from_str::<Self>(&text).map_err(|error| malformed(&file, &text, &error))?;
            let table = toml::from_str::<toml::Table>(&text)
                .map_err(|error| malformed(&file, &text, &error))?;
            merge(&mut merged, table);
        }
        let config: Self =
            merged
                .try_into()
                .map_err(|error: toml::de::Error| ConfigError::Malformed {
                    path: path.to_owned(),
                    line: 0,
                    message: error.message().to_owned(),
                })?;
        config.check()?;
        Ok(config)
    }

    /// How long a disk may be away before copies are made elsewhere.
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.health.grace_ms)
    }

    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn check(&self) -> Result<(), ConfigError> {
        at_least_one("discovery.interval_ms", self.discovery.interval_ms)?;
        if let Some(address) = self
            .metrics_listen
            .filter(|address| !address.ip().is_loopback())
        {
            return Err(ConfigError::OutOfRange {
                setting: "metrics_listen",
                message: format!(
                    "must be an address of this machine alone, as 127.0.0.1:9470, not {address}: anybody may ask there"
                ),
            });
        }
        at_least_one("health.interval_ms", self.health.interval_ms)?;
        at_least_one("health.timeout_ms", self.health.timeout_ms)?;
        at_least_one("health.suspect_after", u64::from(self.health.suspect_after))?;
        at_least_one("health.online_after", u64::from(self.health.online_after))?;
        at_least_one("health.grace_ms", self.health.grace_ms)?;
        at_least_one("health.retry_max_ms", self.health.retry_max_ms)?;
        if let Some(misses) = self.health.offline_after {
            let same_ms = u64::from(misses).saturating_mul(self.health.interval_ms);
            return Err(ConfigError::OutOfRange {
                setting: "health.offline_after",
                message: format!(
                    "is a time now: write `grace_ms = {same_ms}` in [health] for what it said"
                ),
            });
        }
        at_least_one("scrub.interval_s", self.scrub.interval_s)?;
        if self.scrub.bytes_per_s < SCRUB_BYTES_PER_S_MIN {
            return Err(ConfigError::OutOfRange {
                setting: "scrub.bytes_per_s",
                message: format!(
                    "must be at least {SCRUB_BYTES_PER_S_MIN}; `enabled = false` in [scrub] ends it"
                ),
            });
        }
        at_least_one("rebuild.at_once", self.rebuild.at_once as u64)?;
        between(
            "rebuild.fill_percent",
            self.rebuild.fill_percent.into(),
            100,
        )?;
        between("space.warn_percent", self.space.warn_percent.into(), 100)?;
        between(
            "space.critical_percent",
            self.space.critical_percent.into(),
            100,
        )?;
        if self.space.critical_percent < self.space.warn_percent {
            return Err(ConfigError::OutOfRange {
                setting: "space.critical_percent",
                message: "must not be less than space.warn_percent".to_owned(),
            });
        }
        between("import.reads_in_flight", self.import.reads_in_flight, 64)?;
        between("import.writes_in_flight", self.import.writes_in_flight, 64)?;
        between("import.at_once", self.import.at_once, 64)?;
        between("ublk.queues", usize::from(self.ublk.queues), 64)?;
        between("ublk.queue_depth", usize::from(self.ublk.queue_depth), 4096)?;
        between("ublk.devices_max", self.ublk.devices_max as usize, 16_384)?;
        between("jobs_remembered", self.jobs_remembered, 100_000)
    }

    /// The API's socket.
    pub fn socket_path(&self) -> PathBuf {
        self.socket
            .clone()
            .unwrap_or_else(|| self.run_dir.join("bedplate.sock"))
    }

    /// Time between two looks for disks.
    pub fn discovery_interval(&self) -> Duration {
        Duration::from_millis(self.discovery.interval_ms)
    }
}

fn at_least_one(setting: &'static str, value: u64) -> Result<(), ConfigError> {
    if value == 0 {
        return Err(ConfigError::OutOfRange {
            setting,
            message: "must be at least 1".to_owned(),
        });
    }
    Ok(())
}

fn between(setting: &'static str, value: usize, most: usize) -> Result<(), ConfigError> {
    if value == 0 || value > most {
        return Err(ConfigError::OutOfRange {
            setting,
            message: format!("must be from 1 to {most}, not {value}"),
        });
    }
    Ok(())
}

fn files_of(path: &Path, must_exist: bool) -> Result<Vec<PathBuf>, ConfigError> {
    let mut files = Vec::new();
    if must_exist || path.exists() {
        files.push(path.to_owned());
    }
    let folder = path.with_file_name("conf.d");
    match std::fs::read_dir(&folder) {
        Ok(entries) => {
            let mut more: Vec<PathBuf> = entries
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .filter(|file| file.extension().is_some_and(|ext| ext == "toml"))
                .collect();
            more.sort();
            files.extend(more);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(ConfigError::Unreadable {
                path: folder,
                source,
            });
        }
    }
    Ok(files)
}

fn malformed(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let upto = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.get(..upto).unwrap_or(text).matches('\n').count() + 1;
    ConfigError::Malformed {
        path: path.to_owned(),
        line,
        message: error.message().trim().replace('\n', "; "),
    }
}

fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (Some(toml::Value::Array(old)), toml::Value::Array(new)) => old.extend(new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_file_is_right_when_all_of_it_is_uncommented() {
        let text = include_str!("../../packaging/bedplated.toml");
        let is_setting = |line: &str| {
            let key = line.split(" = ").next().unwrap_or_default();
            line.starts_with('[') || (line.contains(" = ") && !key.contains(' '))
        };
        let uncommented: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| is_setting(line))
            .collect();
        assert!(uncommented.len() > 25, "{uncommented:?}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bedplated.toml");
        std::fs::write(&path, uncommented.join("\n")).unwrap();
        let config = Config::load(&path, true).unwrap();
        assert!(!config.verify_reads);
        assert_eq!(
            config.ublk.read_deadline_ms,
            Ublk::default().read_deadline_ms
        );
    }

    fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("conf.d")).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn later_file_wins_and_disks_add_up() {
        let folder = folder_with(&[
            (
                "bedplated.toml",
                "disks = ['/dev/a']\n[discovery]\ninterval_ms = 100\nall_block_devices = false\n",
            ),
            (
                "conf.d/10-more.toml",
                "disks = ['/dev/b']\n[discovery]\ninterval_ms = 7\n",
            ),
            ("conf.d/ignored.txt", "this is = not = toml"),
        ]);
        let config = Config::load(&folder.path().join("bedplated.toml"), true).unwrap();
        assert_eq!(
            config.disks,
            [PathBuf::from("/dev/a"), PathBuf::from("/dev/b")]
        );
        assert_eq!(config.discovery.interval_ms, 7);
        assert!(!config.discovery.all_block_devices);
    }

    #[test]
    fn unknown_setting_is_refused_with_file_and_line() {
        let folder = folder_with(&[(
            "conf.d/20-typo.toml",
            "log = 'info'\n\n[discovery]\nintervall_ms = 3\n",
        )]);
        let error = Config::load(&folder.path().join("bedplated.toml"), false)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("conf.d/20-typo.toml:4: unknown field `intervall_ms`"),
            "{error}"
        );
    }

    #[test]
    fn absent_file_that_was_named_is_an_error() {
        let folder = folder_with(&[]);
        let path = folder.path().join("bedplated.toml");
        assert!(Config::load(&path, true).is_err());
        assert!(Config::load(&path, false).is_ok());
    }

    #[test]
    fn what_was_counted_in_misses_is_refused_with_the_time_to_write() {
        let folder = folder_with(&[(
            "bedplated.toml",
            "[health]\ninterval_ms = 1000\noffline_after = 7\n",
        )]);
        let error = Config::load(&folder.path().join("bedplated.toml"), true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("health.offline_after"), "{error}");
        assert!(error.contains("grace_ms = 7000"), "{error}");
    }

    #[test]
    fn metrics_are_for_this_machine_alone() {
        for (address, good) in [
            ("127.0.0.1:9470", true),
            ("[::1]:9470", true),
            ("0.0.0.0:9470", false),
            ("192.0.2.1:9470", false),
            ("[::]:9470", false),
        ] {
            let text = format!("metrics_listen = '{address}'\n");
            let folder = folder_with(&[("bedplated.toml", &text)]);
            let loaded = Config::load(&folder.path().join("bedplated.toml"), true);
            assert_eq!(loaded.is_ok(), good, "{address}: {loaded:?}");
        }
    }

    #[test]
    fn value_out_of_range_is_refused() {
        let folder = folder_with(&[("bedplated.toml", "[import]\nreads_in_flight = 0\n")]);
        let error = Config::load(&folder.path().join("bedplated.toml"), true)
            .unwrap_err()
            .to_string();
        assert!(error.contains("import.reads_in_flight"), "{error}");
    }
}
