//! What opening a disk found out and did.

use std::fmt;

use uuid::Uuid;

use super::object::{Damage, TreePage};
use crate::format::PairCopy;
use crate::units::{ByteOffset, SlotIndex};

/// What opening a disk found out and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenReport {
    /// How the session before this one ended.
    pub previous: PreviousSession,
    /// The session that was opened.
    pub session: u64,
    /// Bad or outdated copies, in the order in which they were found. All of them were written again, unless the disk is
    /// open read-only.
    pub repairs: Vec<Repair>,
    /// Objects that are not served.
    pub held: Vec<Held>,
    /// Volumes whose live state of the session before was taken over.
    pub adopted: Vec<Uuid>,
    /// Volumes that are held now because acknowledged writes may be missing.
    pub lost: Vec<Lost>,
}

/// A volume of which acknowledged writes may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The volume.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// What became of its live state.
    pub why: String,
}

/// How the session before this one ended. From the clean mark and the kernel's boot id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreviousSession {
    /// There was none: the disk is as it was formatted.
    First,
    /// In order.
    Clean,
    /// The daemon died, the kernel did not: everything that was written is there.
    CrashSameBoot,
    /// The kernel went down, or the disk moved here: only what was flushed is sure to be there.
    CrashOtherBoot,
}

/// A copy that was bad or outdated, and is written from its twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Which structure.
    pub what: Repaired,
    /// Disk byte of the copy that was written.
    pub at: ByteOffset,
    /// What was wrong with it.
    pub why: String,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at disk byte {}: {}", self.what, self.at, self.why)
    }
}

/// The structure that a [`Repair`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// A superblock copy, 0 to 3.
    Superblock(u32),
    /// A checkpoint root.
    Root(PairCopy),
    /// A copy of a slot.
    Slot(SlotIndex, PairCopy),
    /// A copy of a page of the object in a slot.
    Page(SlotIndex, TreePage, PairCopy),
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = |copy: &PairCopy| if *copy == PairCopy::A { 'A' } else { 'B' };
        match self {
            Self::Superblock(copy) => write!(f, "superblock copy {copy}"),
            Self::Root(copy) => write!(f, "checkpoint root {}", letter(copy)),
            Self::Slot(slot, copy) => write!(f, "slot {slot} copy {}", letter(copy)),
            Self::Page(slot, page, copy) => {
                write!(f, "{page} copy {} of slot {slot}", letter(copy))
            }
        }
    }
}

/// An object that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its slot.
    pub slot: SlotIndex,
    /// See [`super::Object::uuid`].
    pub uuid: Uuid,
    /// See [`super::Object::name`].
    pub name: String,
    /// Why.
    pub why: Damage,
}
