//! Writes of an import in flight: bounded, and all of them are waited for before anybody may give their space back.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::task::JoinHandle;
use tokio_uring::fs::File;

use super::buffer::SharedPart;
use crate::api::ApiError;
use crate::error_kind::ErrorKind;

/// Writes to one disk, through a duplicate of the descriptor that holds the claim on it.
pub struct Writer {
    file: Rc<File>,
    disk: String,
    in_flight: VecDeque<JoinHandle<Result<(), ApiError>>>,
    in_flight_max: usize,
}

impl Writer {
    /// Writes through `claim`; `disk` names it in errors.
    pub fn new(claim: OwnedFd, disk: String, in_flight_max: usize) -> Self {
        let file = Rc::new(File::from_std(std::fs::File::from(claim)));
        Self {
            file,
            disk,
            in_flight: VecDeque::new(),
            in_flight_max,
        }
    }

    /// Starts a write of `part` at byte `at` of the disk, once there is room for it.
    ///
    /// # Errors
    /// That of an earlier write.
    pub async fn write(&mut self, at: u64, part: SharedPart) -> Result<(), ApiError> {
        while self.in_flight.len() >= self.in_flight_max {
            self.first_done().await?;
        }
        let file = Rc::clone(&self.file);
        let disk = self.disk.clone();
        self.in_flight.push_back(tokio_uring::spawn(async move {
            let (result, _part) = file.write_all_at(part, at).await;
            result.map_err(|error| write_failed(&disk, at, &error))
        }));
        Ok(())
    }

    /// Waits until no write is in flight.
    ///
    /// # Errors
    /// The first of those that failed.
    pub async fn drain(&mut self) -> Result<(), ApiError> {
        let mut outcome = Ok(());
        while !self.in_flight.is_empty() {
            outcome = outcome.and(self.first_done().await);
        }
        outcome
    }

    async fn first_done(&mut self) -> Result<(), ApiError> {
        match self.in_flight.pop_front() {
            None => Ok(()),
            Some(write) => match write.await {
                Ok(result) => result,
                Err(error) => Err(write_failed(&self.disk, 0, &io::Error::other(error))),
            },
        }
    }
}

fn write_failed(disk: &str, at: u64, error: &io::Error) -> ApiError {
    let mut failed = ApiError::new(
        ErrorKind::Io,
        format!("{disk}: writing at byte {at} failed: {error}"),
    )
    .disk(disk)
    .offset(at)
    .remedy("look for errors of the disk in the kernel's log (`dmesg`)");
    failed.errno = error.raw_os_error();
    failed
}
