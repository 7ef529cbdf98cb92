//! The body of every answer that is not a success, and the error of a failed job.

use crate::error_kind::ErrorKind;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// What a program matches on.
    pub kind: ErrorKind,
    /// One sentence for people.
    pub message: String,
    /// Image, device or job that it is about.
    pub object: Option<String>,
    /// Disk that it is about: its path, or its UUID where no path is known.
    pub disk: Option<String>,
    /// Byte offset: on the disk where `disk` is given, else in the object.
    pub offset: Option<u64>,
    /// The operating system's error number.
    pub errno: Option<i32>,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl ApiError {
    /// An error with a kind and a sentence, the rest unknown.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            object: None,
            disk: None,
            offset: None,
            errno: None,
            remedy: None,
        }
    }

    /// Names the image, device or job.
    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.object = Some(object.into());
        self
    }

    /// Names the disk.
    #[must_use]
    pub fn disk(mut self, disk: impl Into<String>) -> Self {
        self.disk = Some(disk.into());
        self
    }

    /// Says at which byte.
    #[must_use]
    pub const fn offset(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }

    /// Keeps the operating system's error number.
    #[must_use]
    pub const fn errno(mut self, errno: i32) -> Self {
        self.errno = Some(errno);
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}
