//! The command line of `bedplated`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError, DEFAULT_CONFIG_PATH};

/// Keeps images on this node's disks and serves them as /dev/ublkbN.
#[derive(Debug, Parser)]
#[command(name = "bedplated", version, about)]
pub struct Args {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings; conf.d/*.toml beside it is read after it.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Check the settings and exit.
    #[arg(long)]
    pub check_config: bool,
    /// A disk of this node, besides those in the settings: a block device or a regular file.
    #[arg(long = "disk", value_name = "PATH")]
    pub disks: Vec<PathBuf>,
    /// The API's Unix socket.
    #[arg(long, value_name = "PATH", env = "BEDPLATE_SOCKET", global = true)]
    pub socket: Option<PathBuf>,
    /// Folder for what does not outlive the boot.
    #[arg(long, value_name = "DIR", global = true)]
    pub run_dir: Option<PathBuf>,
    /// Folder for what outlives the boot.
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Filter of the log, for instance `debug` or `info,bedplate_datapath=trace`.
    #[arg(long, value_name = "FILTER", global = true)]
    pub log: Option<String>,
}

/// What `bedplated` does besides serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Remove every device of Bedplate, with or without a running daemon: for the end of the node.
    RemoveDevices {
        /// How long to try, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        timeout: u64,
    },
    /// Print the name of the image behind a device: for the udev rule.
    UdevName {
        /// /dev/ublkbN, or its kernel name.
        device: String,
    },
}

impl Args {
    /// The settings: files, then what the command line says.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn settings(&self) -> Result<Config, ConfigError> {
        let default = PathBuf::from(DEFAULT_CONFIG_PATH);
        let path = self.config.as_ref().unwrap_or(&default);
        let mut config = Config::load(path, self.config.is_some())?;
        for disk in &self.disks {
            // A disk is known by its absolute path: that is what the API shows and takes.
            let disk = std::path::absolute(disk).map_err(|source| ConfigError::Unreadable {
                path: disk.clone(),
                source,
            })?;
            if !config.disks.contains(&disk) {
                config.disks.push(disk);
            }
        }
        if let Some(socket) = &self.socket {
            config.socket = Some(socket.clone());
        }
        if let Some(run_dir) = &self.run_dir {
            config.run_dir.clone_from(run_dir);
        }
        if let Some(state_dir) = &self.state_dir {
            config.state_dir.clone_from(state_dir);
        }
        if let Some(log) = &self.log {
            config.log.clone_from(log);
        }
        config.check()?;
        Ok(config)
    }
}
