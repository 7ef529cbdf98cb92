//! What a device must hold: the bytes of a file, or those that a seed describes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::pattern::Pattern;

/// Source of the expected bytes.
#[derive(Debug)]
pub enum Expected {
    /// An image file.
    Image(File),
    /// A computed image.
    Computed(Pattern),
}

impl Expected {
    /// Opens `text`: `seed:SEED:SIZE:ALLOCATED`, or else the path of an image.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(text: &str) -> io::Result<Self> {
        match Pattern::parse(text) {
            Some(pattern) => Ok(Self::Computed(pattern)),
            None => File::open(text).map(Self::Image),
        }
    }

    /// Fills `into` with what must be there from `at_bytes` on. Past the image's end that is zeros: a device is rounded up to 512.
    ///
    /// # Errors
    /// Those of the file.
    pub fn fill(&self, at_bytes: u64, into: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Computed(pattern) => pattern.fill(at_bytes, into),
            Self::Image(file) => {
                let mut filled = 0;
                while filled < into.len() {
                    match file.read_at(&mut into[filled..], at_bytes + filled as u64)? {
                        0 => break,
                        count => filled += count,
                    }
                }
                into[filled..].fill(0);
            }
        }
        Ok(())
    }
}
