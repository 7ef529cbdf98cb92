//! Live state: words that outlive the process, not the boot. What keeps them is a trait: a tmpfs for the daemon, memory for the simulator.
//!
//! A live file has sections, each an array of words that is zero where nothing was stored. A section grows in place: what was mapped before
//! stays the same memory. A store of one word is never torn, and stores are seen after a crash in the order in which they were made (Release).

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use uuid::Uuid;

/// Words of a section, shared by all who map it.
#[derive(Clone)]
pub struct SharedWords {
    words: NonNull<AtomicU64>,
    len: usize,
    /// Keeps the memory.
    _memory: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the words are atomics in memory that `_memory` keeps for as long as this lives; nothing else is reached through the pointer.
unsafe impl Send for SharedWords {}
// SAFETY: as above.
unsafe impl Sync for SharedWords {}

impl SharedWords {
    /// Words `0..len` from `words` on.
    ///
    /// # Safety
    /// They are valid, aligned, and used as atomics only, as long as `memory` lives.
    pub unsafe fn new(
        words: NonNull<AtomicU64>,
        len: usize,
        memory: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        Self {
            words,
            len,
            _memory: memory,
        }
    }

    /// Words of this process alone.
    pub fn of_memory(words: Arc<[AtomicU64]>) -> Self {
        let len = words.len();
        let first = NonNull::from(&words[..]).cast();
        // SAFETY: the slice lives as long as the `Arc` that is kept with it.
        unsafe { Self::new(first, len, Arc::new(words)) }
    }

    /// Words of this process alone, all zero; those that nobody touches take no memory.
    ///
    /// # Errors
    /// When the kernel refuses so much. The length of a volume's map is an operator's choice, and no reason for the process to end.
    pub fn try_zeroed(len: u64) -> io::Result<Self> {
        const SMALL: usize = 4096;
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len <= SMALL {
            return Ok(Self::in_heap(len));
        }
        let map: memmap2::MmapRaw = memmap2::MmapOptions::new()
            .len(len.saturating_mul(size_of::<u64>()))
            // A sparse map is mostly never touched. Counted in full, one that is longer than memory and swap would be refused.
            .no_reserve_swap()
            .map_anon()?
            .into();
        // Page aligned, as every mapping is.
        #[expect(clippy::cast_ptr_alignment)]
        let first = NonNull::new(map.as_mut_ptr().cast::<AtomicU64>());
        let first = first.ok_or_else(|| io::Error::other("mapped at address 0"))?;
        // SAFETY: the mapping is page aligned, as long as asked for, zeroed, kept with the words, and reached by nothing else.
        Ok(unsafe { Self::new(first, len, Arc::new(map)) })
    }

    /// As [`Self::try_zeroed`], of lengths that do not depend on what an operator asks for: the process ends where there is no memory.
    pub fn zeroed(len: u64) -> Self {
        Self::try_zeroed(len)
            .unwrap_or_else(|_| Self::in_heap(usize::try_from(len).unwrap_or(usize::MAX)))
    }

    fn in_heap(len: usize) -> Self {
        Self::of_memory((0..len).map(|_| AtomicU64::new(0)).collect::<Arc<[_]>>())
    }

    /// The first `len` of them.
    ///
    /// # Panics
    /// If there are fewer.
    #[must_use]
    pub fn first(&self, len: usize) -> Self {
        assert!(len <= self.len, "a part is no longer than the whole");
        Self {
            len,
            ..self.clone()
        }
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: what `new` was promised.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }
}

impl fmt::Debug for SharedWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWords")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Which live file of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LiveName {
    /// The disk's own.
    Disk,
    /// A volume's.
    Volume(Uuid),
}

/// A section of a live file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LiveSection {
    /// What the file is for; see `volume::live_header`.
    Header,
    /// Dirty hints and `draining` bits.
    Dirty,
    /// Clusters of map pages.
    Leaves,
    /// Map entries.
    Entries,
}

/// A live file that cannot be made or mapped.
#[derive(Debug, thiserror::Error)]
#[error("live file {file}: {doing} failed: {source}")]
pub struct LiveError {
    /// Which file.
    pub file: String,
    /// What was tried.
    pub doing: &'static str,
    /// Why not.
    pub source: std::io::Error,
}

impl LiveError {
    /// Whether there was no room for it.
    pub fn is_no_room(&self) -> bool {
        self.source.raw_os_error() == Some(libc::ENOSPC)
    }
}

/// The live files of one disk.
pub trait LiveFiles: Send {
    /// Says which disk they are of; before anything else is asked.
    ///
    /// # Errors
    /// When there is no place for them.
    fn of_disk(&mut self, disk: Uuid) -> Result<(), LiveError> {
        let _ = disk;
        Ok(())
    }

    /// The files that there are.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn list(&mut self) -> Result<Vec<LiveName>, LiveError>;

    /// Whether this is one of them, without a look at the others.
    ///
    /// # Errors
    /// When it cannot be told.
    fn has(&mut self, file: LiveName) -> Result<bool, LiveError>;

    /// At least the first `words` words of a section; file and section are made where there are none. Memory is reserved for all of them: a
    /// store to one never fails.
    ///
    /// # Errors
    /// No room (`ENOSPC`), and then every word that was there is as it was, but memory may have been taken: [`Self::trim`] or
    /// [`Self::remove`] gives it back. Or what the operating system says.
    fn map(
        &mut self,
        file: LiveName,
        section: LiveSection,
        words: usize,
    ) -> Result<SharedWords, LiveError>;

    /// Gives back the memory of a section beyond its first `words` words, which nobody uses.
    ///
    /// # Errors
    /// What the operating system says.
    fn trim(&mut self, file: LiveName, section: LiveSection, words: usize)
    -> Result<(), LiveError>;

    /// Removes a file; what is mapped of it stays until it is let go of. One that is not there is no error.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&mut self, file: LiveName) -> Result<(), LiveError>;
}

type Sections = BTreeMap<(LiveName, LiveSection), SharedWords>;

/// Live files in memory. A clone has the same files: the simulator keeps one over a crash of the process.
#[derive(Clone, Debug, Default)]
pub struct HeapLive {
    sections: Arc<Mutex<Sections>>,
}

impl HeapLive {
    /// Forgets every file: what a power loss does.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Sections> {
        self.sections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LiveFiles for HeapLive {
    fn list(&mut self) -> Result<Vec<LiveName>, LiveError> {
        let mut names: Vec<LiveName> = self.lock().keys().map(|(name, _)| *name).collect();
        names.dedup();
        Ok(names)
    }

    fn has(&mut self, file: LiveName) -> Result<bool, LiveError> {
        Ok(self.lock().keys().any(|(name, _)| *name == file))
    }

    fn map(
        &mut self,
        file: LiveName,
        section: LiveSection,
        words: usize,
    ) -> Result<SharedWords, LiveError> {
        let mut sections = self.lock();
        // Memory cannot grow in place: a section is made with room to spare, and no simulated one grows beyond that.
        let all = sections.entry((file, section)).or_insert_with(|| {
            let room = words.next_power_of_two().max(64) * 4;
            SharedWords::of_memory((0..room).map(|_| AtomicU64::new(0)).collect())
        });
        if all.len() >= words {
            return Ok(all.first(words));
        }
        Err(LiveError {
            file: format!("{file:?}"),
            doing: "growing a section",
            source: std::io::Error::from_raw_os_error(libc::ENOSPC),
        })
    }

    fn trim(&mut self, _: LiveName, _: LiveSection, _: usize) -> Result<(), LiveError> {
        Ok(())
    }

    fn remove(&mut self, file: LiveName) -> Result<(), LiveError> {
        self.lock().retain(|(name, _), _| *name != file);
        Ok(())
    }
}
