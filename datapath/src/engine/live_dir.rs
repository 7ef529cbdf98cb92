//! Live files on a tmpfs: one folder a disk, one file a volume, mapped shared.
//!
//! A store to a page of a full tmpfs is SIGBUS, so every range is allocated (`fallocate`) before it is mapped: no room is an error of
//! [`LiveFiles::map`], and never one of a store. A file's sections lie far apart in its address space, so that each can grow in place; what is
//! between them takes no memory.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, fstatfs};
use uuid::Uuid;

use crate::live::{LiveError, LiveFiles, LiveName, LiveSection, SharedWords};
use crate::units::PAGE_BYTES;

/// `RAMFS_MAGIC`, include/uapi/linux/magic.h: an initramfs without tmpfs. `nix` does not name it.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

/// Bytes allocated at a time: one call for a large map would keep the caller for long.
const CHUNK_BYTES: u64 = 1 << 20;

/// Where the sections lie: header, dirty marks, leaves, entries. The largest volume has 2^31 entries, 2^20 words of marks and 2^19 leaves.
const SECTION_AT: [u64; 4] = [0, 1 << 20, 64 << 20, 1 << 30];
const FILE_BYTES: u64 = (1 << 30) + (16 << 30);

/// The live files of one disk, on a tmpfs.
#[derive(Debug)]
pub struct LiveDir {
    live: PathBuf,
    /// Of the disk.
    folder: PathBuf,
}

impl LiveDir {
    /// Live files below `live`; a folder for each disk is made there.
    ///
    /// # Errors
    /// When `live` is not there or is no tmpfs: what is written there must neither outlive the boot nor wait for a disk.
    pub fn open(live: &Path) -> Result<Self, LiveError> {
        let folder = File::open(live).map_err(failed(live, "opening the folder"))?;
        let kind = fstatfs(&folder)
            .map_err(|errno| failed(live, "statfs")(errno.into()))?
            .filesystem_type();
        if kind != TMPFS_MAGIC && kind != RAMFS_MAGIC {
            let source = io::Error::other("it is no tmpfs");
            return Err(failed(live, "using the folder")(source));
        }
        Ok(Self {
            live: live.to_owned(),
            folder: live.to_owned(),
        })
    }

    fn path(&self, file: LiveName) -> PathBuf {
        match file {
            LiveName::Disk => self.folder.join("disk"),
            LiveName::Volume(uuid) => self.folder.join(format!("{uuid}.volume")),
        }
    }
}

/// The error of one step of what is done with a file or a folder. Its text is made when there is one: files are mapped by the thousand.
fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> LiveError {
    move |source| LiveError {
        file: path.display().to_string(),
        doing,
        source,
    }
}

/// Whether a file was made here, and to the end.
fn is_whole(file: &Metadata) -> bool {
    file.len() == FILE_BYTES
}

impl LiveFiles for LiveDir {
    fn of_disk(&mut self, disk: Uuid) -> Result<(), LiveError> {
        let folder = self.live.join(disk.to_string());
        let made = std::fs::DirBuilder::new().mode(0o700).create(&folder);
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed(&folder, "making the disk's folder")(error))
            }
            _ => {
                self.folder = folder;
                Ok(())
            }
        }
    }

    fn list(&mut self) -> Result<Vec<LiveName>, LiveError> {
        let listing = |error| failed(&self.folder, "listing")(error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(listing)? {
            let entry = entry.map_err(listing)?;
            if !is_whole(&entry.metadata().map_err(listing)?) {
                continue;
            }
            let name = entry.file_name();
            // What has another name is somebody else's.
            match name.to_str() {
                Some("disk") => names.push(LiveName::Disk),
                Some(name) => {
                    let uuid = name
                        .strip_suffix(".volume")
                        .and_then(|uuid| uuid.parse().ok());
                    names.extend(uuid.map(LiveName::Volume));
                }
                None => {}
            }
        }
        Ok(names)
    }

    fn has(&mut self, file: LiveName) -> Result<bool, LiveError> {
        let path = self.path(file);
        match std::fs::symlink_metadata(&path) {
            Ok(found) => Ok(is_whole(&found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&path, "looking for the file")(error)),
        }
    }

    fn map(
        &mut self,
        file: LiveName,
        section: LiveSection,
        words: usize,
    ) -> Result<SharedWords, LiveError> {
        let path = self.path(file);
        let open = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path, "opening"))?;
        // The length says nothing on a tmpfs: what was not allocated takes no memory.
        open.set_len(FILE_BYTES)
            .map_err(failed(&path, "setting the length"))?;
        let at = SECTION_AT[section as usize];
        let len_bytes = bytes_of(words);
        check_room(&open, len_bytes).map_err(failed(&path, "allocating memory"))?;
        allocate(&open, at, len_bytes).map_err(failed(&path, "allocating memory"))?;
        let map = MmapOptions::new()
            .offset(at)
            .len(usize::try_from(len_bytes).unwrap_or(usize::MAX))
            .map_raw(&open)
            .map_err(failed(&path, "mapping"))?;
        words_of(map, words).map_err(failed(&path, "mapping"))
    }

    fn trim(
        &mut self,
        file: LiveName,
        section: LiveSection,
        words: usize,
    ) -> Result<(), LiveError> {
        let path = self.path(file);
        let open = match OpenOptions::new().write(true).open(&path) {
            Ok(open) => open,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&path, "opening")(error)),
        };
        let begin = SECTION_AT[section as usize];
        let end = SECTION_AT
            .get(section as usize + 1)
            .map_or(FILE_BYTES, |next| *next);
        // The page that a last word lies in stays; of a page that is punched in part the rest is zeroed, not given back.
        let from = begin + bytes_of(words).next_multiple_of(PAGE_BYTES as u64);
        let signed = |value: u64| i64::try_from(value).map_err(io::Error::other);
        let punched = signed(from)
            .and_then(|from| Ok((from, signed(end)? - from)))
            .and_then(|(from, len_bytes)| {
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                match fallocate(&open, flags, from, len_bytes) {
                    // A ramfs cannot: it has no limit to run into either.
                    Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            });
        punched.map_err(failed(&path, "giving memory back"))
    }

    fn remove(&mut self, file: LiveName) -> Result<(), LiveError> {
        let path = self.path(file);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(&path, "removing")(error))
            }
            _ => Ok(()),
        }
    }
}

fn bytes_of(words: usize) -> u64 {
    (words.max(1) as u64).saturating_mul(size_of::<u64>() as u64)
}

/// Refuses what can never fit before any of it is allocated: until it failed, it would take the room of all other volumes. `len_bytes`: of a
/// section, of which the file may have as much as it has in all.
fn check_room(file: &File, len_bytes: u64) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let room = fstatfs(file)?;
    if room.blocks() == 0 {
        // No limit.
        return Ok(());
    }
    let free_bytes = room
        .blocks_free()
        .saturating_mul(u64::try_from(room.block_size()).unwrap_or(0));
    let has_bytes = file.metadata()?.blocks() * 512;
    if len_bytes.saturating_sub(has_bytes) > free_bytes {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    Ok(())
}

/// Allocates a range, in chunks; what is allocated already stays as it is.
fn allocate(file: &File, at: u64, len_bytes: u64) -> io::Result<()> {
    let mut done = 0;
    while done < len_bytes {
        let chunk = CHUNK_BYTES.min(len_bytes - done);
        let signed = |value: u64| i64::try_from(value).map_err(io::Error::other);
        match fallocate(
            file,
            FallocateFlags::empty(),
            signed(at + done)?,
            signed(chunk)?,
        ) {
            Ok(()) => done += chunk,
            Err(nix::errno::Errno::EINTR) => {}
            // A ramfs has no limit to run into, and cannot allocate.
            Err(nix::errno::Errno::EOPNOTSUPP) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn words_of(map: MmapRaw, words: usize) -> io::Result<SharedWords> {
    // Page aligned, as every mapping is.
    #[expect(clippy::cast_ptr_alignment)]
    let first = NonNull::new(map.as_mut_ptr().cast::<AtomicU64>());
    let first = first.ok_or_else(|| io::Error::other("mapped at address 0"))?;
    // SAFETY: the mapping is page aligned and at least so long, its range of the file is allocated, and it is kept with the words. The files
    // are this daemon's alone (mode 0600, below a folder of mode 0700) and never shortened while mapped; others reach the same memory as
    // atomics only.
    Ok(unsafe { SharedWords::new(first, words, Arc::new(map)) })
}
