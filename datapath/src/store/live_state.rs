//! The disk's own live file: which life of the daemon wrote the live state, and how far its journal was.
//!
//! Live state is believed only if all of it agrees with the disk. Words are stored so that every prefix of an update is a valid state.

use std::io;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::open::SessionStart;
use crate::live::{LiveError, LiveFiles, LiveName, LiveSection, SharedWords};
use crate::units::{Epoch, Seq, SlotIndex};
use crate::volume::{Volume, VolumeParts, clusters_of, leaf_groups_of};

/// First word of a complete live file: `BPLIVE`, and the version of the layout.
const COMPLETE: u64 = u64::from_le_bytes(*b"BPLIVE\0\x01");
const HEADER_WORDS: usize = 512;

/// Words of the disk's header.
mod disk {
    pub(super) const COMPLETE: usize = 0;
    pub(super) const BOOT_ID: usize = 1;
    pub(super) const DISK_UUID: usize = 3;
    pub(super) const SESSION: usize = 5;
    pub(super) const NEXT_SESSION: usize = 6;
    pub(super) const DISKSEQ: usize = 7;
    pub(super) const COMMITTED: usize = 8;
    pub(super) const SUBMITTED: usize = 9;
    pub(super) const FAILED: usize = 10;
    pub(super) const KEEPS_CACHE: usize = 11;
}

/// Values of the disk's `FAILED`.
mod failed {
    pub(super) const NO: u64 = 0;
    /// A write or flush of metadata failed.
    pub(super) const YES: u64 = 1;
    /// It failed since the disk had gone.
    pub(super) const BY_LOSS: u64 = 2;
}

/// Words of a volume's header.
mod volume {
    pub(super) const COMPLETE: usize = 0;
    pub(super) const UUID: usize = 1;
    pub(super) const OWNER: usize = 3;
    pub(super) const DISK_UUID: usize = 4;
    pub(super) const SIZE_BYTES: usize = 6;
}

/// The live files of an open disk.
pub(super) struct LiveState {
    files: Box<dyn LiveFiles>,
    /// None before the session began.
    header: Option<SharedWords>,
}

/// What is found of a former life.
pub(super) enum Former {
    /// It is believed: whether the last batch on the disk is one that it knows of is still to be checked.
    Matches {
        committed: Seq,
        submitted: Seq,
        /// What the disk had in its cache may be lost, for this reason: the live state tells of writes that it may not have.
        cache_lost: Option<&'static str>,
    },
    /// It is not; why.
    Not(String),
}

impl LiveState {
    pub fn new(files: Box<dyn LiveFiles>) -> Self {
        Self {
            files,
            header: None,
        }
    }

    /// Whether the live files are of the session that the superblock tells of, on this disk and this boot. `has_left`: the disk is known to
    /// have been away since.
    pub fn former(
        &mut self,
        disk_uuid: Uuid,
        session: u64,
        start: &SessionStart,
        has_left: bool,
    ) -> Result<Former, LiveError> {
        let not = |why: &str| Ok(Former::Not(why.to_owned()));
        self.files.of_disk(disk_uuid)?;
        if !self.files.has(LiveName::Disk)? {
            return not("the live state is gone");
        }
        let words = self
            .files
            .map(LiveName::Disk, LiveSection::Header, HEADER_WORDS)?;
        let word = |at: usize| words[at].load(Ordering::Acquire);
        if word(disk::COMPLETE) != COMPLETE {
            return not("the live state is incomplete");
        }
        if uuid_in(&words, disk::DISK_UUID) != disk_uuid {
            return not("the live state is another disk's");
        }
        if uuid_in(&words, disk::BOOT_ID) != start.boot_id {
            return not("the live state is of another boot");
        }
        // The next session is noted before the superblock tells of it: a crash between leaves either of the two there.
        if word(disk::SESSION) != session && word(disk::NEXT_SESSION) != session {
            return not("the live state is of another session");
        }
        let failed = word(disk::FAILED);
        if failed != failed::NO && failed != failed::BY_LOSS {
            // The kernel tells of a lost write once. The next flush succeeds, and saves nothing of it.
            return not(
                "a write or flush of this disk failed, and what was acknowledged before may not be on it",
            );
        }
        let was_away =
            has_left || failed == failed::BY_LOSS || word(disk::DISKSEQ) != diskseq_word(start);
        let is_kept = word(disk::KEEPS_CACHE) != 0;
        Ok(Former::Matches {
            committed: Seq::new(word(disk::COMMITTED)),
            submitted: Seq::new(word(disk::SUBMITTED)),
            cache_lost: (was_away && !is_kept).then_some(
                "the disk was taken away and came back: what it had in its cache may be lost",
            ),
        })
    }

    /// Whether the live files are of this boot and this disk, and of an earlier session: somebody without them has had the disk since.
    pub fn is_outdated(
        &mut self,
        disk_uuid: Uuid,
        session: u64,
        start: &SessionStart,
    ) -> Result<bool, LiveError> {
        let sessions = self.sessions(disk_uuid, start)?;
        Ok(sessions.is_some_and(|[now, next]| now.max(next) < session))
    }

    /// Whether the live files are of this boot and this disk, and of this session.
    pub fn is_of_session(
        &mut self,
        disk_uuid: Uuid,
        session: u64,
        start: &SessionStart,
    ) -> Result<bool, LiveError> {
        let sessions = self.sessions(disk_uuid, start)?;
        Ok(sessions.is_some_and(|both| both.contains(&session)))
    }

    /// The sessions that the live files tell of, the disk's and the next one, if they are of this boot and this disk.
    fn sessions(
        &mut self,
        disk_uuid: Uuid,
        start: &SessionStart,
    ) -> Result<Option<[u64; 2]>, LiveError> {
        self.files.of_disk(disk_uuid)?;
        if !self.files.has(LiveName::Disk)? {
            return Ok(None);
        }
        let words = self
            .files
            .map(LiveName::Disk, LiveSection::Header, HEADER_WORDS)?;
        let word = |at: usize| words[at].load(Ordering::Acquire);
        let fits = word(disk::COMPLETE) == COMPLETE
            && uuid_in(&words, disk::DISK_UUID) == disk_uuid
            && uuid_in(&words, disk::BOOT_ID) == start.boot_id;
        Ok(fits.then(|| [word(disk::SESSION), word(disk::NEXT_SESSION)]))
    }

    /// Live files are this disk's from here on.
    pub fn of_disk(&mut self, disk_uuid: Uuid) -> Result<(), LiveError> {
        self.files.of_disk(disk_uuid)
    }

    /// Before the superblock tells of session `next`. `is_adopted`: the former live state goes on, and must stay believable.
    pub fn begin(
        &mut self,
        disk_uuid: Uuid,
        next: u64,
        start: &SessionStart,
        committed: Seq,
        is_adopted: bool,
        keeps_cache: bool,
    ) -> Result<(), LiveError> {
        self.files.of_disk(disk_uuid)?;
        if !is_adopted {
            self.files.remove(LiveName::Disk)?;
        }
        let words = self
            .files
            .map(LiveName::Disk, LiveSection::Header, HEADER_WORDS)?;
        let set = |at: usize, value: u64| words[at].store(value, Ordering::Release);
        // The session that the superblock tells of still. Where an open crashed after it told of its own, that one stands in the other word
        // only: it must not be lost with it.
        set(disk::SESSION, next - 1);
        set(disk::NEXT_SESSION, next);
        // What is submitted is never behind what is committed.
        set(disk::SUBMITTED, committed.get());
        set(disk::COMMITTED, committed.get());
        if is_adopted {
            // All of it is believed, wherever the disk was. In this order: whether the cache outlives the disk's absence is said of the former
            // session until nothing tells of an absence any more.
            set(disk::DISKSEQ, diskseq_word(start));
            set(disk::FAILED, failed::NO);
            set(disk::KEEPS_CACHE, keeps_cache.into());
        } else {
            set(disk::DISKSEQ, diskseq_word(start));
            store_uuid(&words, disk::DISK_UUID, disk_uuid);
            store_uuid(&words, disk::BOOT_ID, start.boot_id);
            set(disk::KEEPS_CACHE, keeps_cache.into());
            // Last: from here on it is believed.
            set(disk::COMPLETE, COMPLETE);
        }
        self.header = Some(words);
        Ok(())
    }

    /// To be called when a write or flush of metadata failed: from then on this live state is not believed.
    pub fn alarm(&self) -> Box<dyn Fn() + Send> {
        let header = self.header.clone();
        Box::new(move || {
            if let Some(words) = &header {
                words[disk::FAILED].store(failed::YES, Ordering::Release);
            }
        })
    }

    /// The failure that the alarm told of was that the disk had gone.
    pub fn failed_by_loss(&self) {
        self.set(disk::FAILED, failed::BY_LOSS);
    }

    /// The superblock tells of the session now.
    pub fn begun(&self, session: u64) {
        self.set(disk::SESSION, session);
    }

    /// A batch is about to be written.
    pub fn about_to_submit(&self, seq: Seq) {
        self.set(disk::SUBMITTED, seq.get());
    }

    /// A batch is durable.
    pub fn committed(&self, seq: Seq) {
        self.set(disk::COMMITTED, seq.get());
    }

    fn set(&self, at: usize, value: u64) {
        if let Some(words) = &self.header {
            words[at].store(value, Ordering::Release);
        }
    }

    /// The words of a volume's live file, if it is complete and this volume's; its size may be one of before a resize.
    pub fn adopt(&mut self, disk_uuid: Uuid, parts: &Owner) -> Result<Option<Words>, LiveError> {
        let name = LiveName::Volume(parts.uuid);
        if !self.files.has(name)? {
            return Ok(None);
        }
        let header = match self.files.map(name, LiveSection::Header, HEADER_WORDS) {
            Ok(header) => header,
            // Mapping what is there takes no room: it never had a header, its maker died before.
            Err(error) if error.is_no_room() => return Ok(None),
            Err(error) => return Err(error),
        };
        let word = |at: usize| header[at].load(Ordering::Acquire);
        let fits = word(volume::COMPLETE) == COMPLETE
            && uuid_in(&header, volume::UUID) == parts.uuid
            && uuid_in(&header, volume::DISK_UUID) == disk_uuid
            && word(volume::OWNER) == parts.owner_word();
        if !fits {
            return Ok(None);
        }
        // More of each section is mapped where the slot says that the volume is larger: it was being resized.
        self.map(name, parts.size_bytes).map(Some)
    }

    /// A new live file with what `from` holds now. None is left where that fails.
    pub fn make(
        &mut self,
        disk_uuid: Uuid,
        owner: &Owner,
        from: &Volume,
    ) -> Result<Words, LiveError> {
        let name = LiveName::Volume(owner.uuid);
        // Whatever is left of an older one.
        self.files.remove(name)?;
        let made = self.fill(disk_uuid, owner, from);
        if made.is_err() {
            // What it took is the room of all others. The first error is the one to be told.
            let _ = self.files.remove(name);
        }
        made
    }

    fn fill(&mut self, disk_uuid: Uuid, owner: &Owner, from: &Volume) -> Result<Words, LiveError> {
        let name = LiveName::Volume(owner.uuid);
        let words = self.map(name, owner.size_bytes)?;
        for (to, entry) in words.entries.iter().zip(from.map().iter()) {
            // Most are empty: untouched memory stays untouched.
            if entry.bits() != 0 {
                to.store(entry.bits(), Ordering::Relaxed);
            }
        }
        for (to, leaf) in words.leaves.iter().zip(from.leaves()) {
            to.store(leaf.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let header = self.files.map(name, LiveSection::Header, HEADER_WORDS)?;
        store_uuid(&header, volume::UUID, owner.uuid);
        store_uuid(&header, volume::DISK_UUID, disk_uuid);
        header[volume::OWNER].store(owner.owner_word(), Ordering::Release);
        header[volume::SIZE_BYTES].store(owner.size_bytes, Ordering::Release);
        // Last: a file without it is rebuilt from the disk.
        header[volume::COMPLETE].store(COMPLETE, Ordering::Release);
        Ok(words)
    }

    /// More of the same file, for a volume that grows. It takes no more memory than before where that fails.
    pub fn grow(
        &mut self,
        uuid: Uuid,
        former_bytes: u64,
        size_bytes: u64,
    ) -> Result<Words, LiveError> {
        let name = LiveName::Volume(uuid);
        let grown = self.map(name, size_bytes);
        if grown.is_err() {
            for (section, words) in sections_of(former_bytes) {
                // The first error is the one to be told.
                let _ = self.files.trim(name, section, words);
            }
        }
        grown
    }

    fn map(&mut self, name: LiveName, size_bytes: u64) -> Result<Words, LiveError> {
        let [entries, dirty, leaves] = sections_of(size_bytes);
        let mut map = |(section, words)| self.files.map(name, section, words);
        Ok(Words {
            entries: map(entries)?,
            dirty: map(dirty)?,
            leaves: map(leaves)?,
        })
    }

    /// Removes a volume's live file.
    pub fn remove(&mut self, uuid: Uuid) -> Result<(), LiveError> {
        self.files.remove(LiveName::Volume(uuid))
    }

    /// Removes live files of volumes that are not in `keep`.
    pub fn remove_others(&mut self, keep: &[Uuid]) -> Result<(), LiveError> {
        for name in self.files.list()? {
            if let LiveName::Volume(uuid) = name
                && !keep.contains(&uuid)
            {
                self.files.remove(name)?;
            }
        }
        Ok(())
    }
}

/// Whose a live file is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub uuid: Uuid,
    pub slot: SlotIndex,
    pub epoch: Epoch,
    pub size_bytes: u64,
}

impl Owner {
    fn owner_word(&self) -> u64 {
        u64::from(self.slot.get()) << 32 | u64::from(self.epoch.get())
    }

    /// What a volume over `words` is made of.
    pub fn parts(&self, words: Words, disk: crate::volume::DiskShared) -> VolumeParts {
        VolumeParts {
            uuid: self.uuid,
            slot: self.slot,
            epoch: self.epoch,
            size_bytes: self.size_bytes,
            entries: words.entries,
            dirty: words.dirty,
            leaves: words.leaves,
            disk,
        }
    }
}

/// The words of a volume.
#[derive(Clone, Debug)]
pub(super) struct Words {
    pub entries: SharedWords,
    pub dirty: SharedWords,
    pub leaves: SharedWords,
}

impl Words {
    /// Words of this process alone, all zero.
    ///
    /// # Errors
    /// When there is no memory for so many.
    pub fn in_memory(size_bytes: u64) -> io::Result<Self> {
        Self::around(
            SharedWords::try_zeroed(clusters_of(size_bytes))?,
            size_bytes,
        )
    }

    /// The same with these entries.
    pub fn around(entries: SharedWords, size_bytes: u64) -> io::Result<Self> {
        let marks = crate::volume::dirty::DirtyBits::words_of(clusters_of(size_bytes));
        Ok(Self {
            entries,
            dirty: SharedWords::try_zeroed(marks)?,
            leaves: SharedWords::try_zeroed(leaf_groups_of(size_bytes))?,
        })
    }
}

/// The sections of a volume's live file beside its header, and how many words each has.
fn sections_of(size_bytes: u64) -> [(LiveSection, usize); 3] {
    let clusters = clusters_of(size_bytes);
    let marks = crate::volume::dirty::DirtyBits::words_of(clusters);
    [
        (LiveSection::Entries, clusters),
        (LiveSection::Dirty, marks),
        (LiveSection::Leaves, leaf_groups_of(size_bytes)),
    ]
    .map(|(section, words)| (section, usize::try_from(words).unwrap_or(usize::MAX)))
}

fn diskseq_word(start: &SessionStart) -> u64 {
    start.diskseq.map_or(0, |diskseq| diskseq.saturating_add(1))
}

fn uuid_in(words: &SharedWords, at: usize) -> Uuid {
    Uuid::from_u64_pair(
        words[at].load(Ordering::Acquire),
        words[at + 1].load(Ordering::Acquire),
    )
}

fn store_uuid(words: &SharedWords, at: usize, uuid: Uuid) {
    let (high, low) = uuid.as_u64_pair();
    words[at].store(high, Ordering::Release);
    words[at + 1].store(low, Ordering::Release);
}
