//! What is to be done so that each image has the copies that it is to have. Pure: (catalogue, disks, time) in, actions out.
//!
//! The rules, each with a test of its name in [`tests`](self):
//!
//! 1. Nothing is begun for an image while a disk that it names is only late.
//! 2. A copy is made from a Ready one, on the disk with most free space, and never where the image has a copy already.
//! 3. A disk that is gone for longer than the grace time has no copy that counts: one is made elsewhere.
//! 4. An extra copy goes only when enough others are Ready, and never the last Ready one.
//! 5. A disk that is being drained counts for nothing; its copy goes once there are enough elsewhere.
//! 6. Damaged copies are repaired in place, not replaced; Failed ones are replaced, and never deleted.
//! 7. After a failure the same copy is not tried again before its time.

use std::time::Duration;

use uuid::Uuid;

/// How many disks a description can name (the format's limit).
pub const MEMBERS_MAX: usize = 16;

/// Everything that a plan is made of. Times are since an epoch of the caller's choice.
#[derive(Debug, Clone, Default)]
pub struct Situation {
    /// Every known disk.
    pub disks: Vec<DiskNow>,
    /// Every image of the merged catalogue.
    pub images: Vec<ImageNow>,
    /// When it is.
    pub now: Duration,
    /// How long a disk may be away before copies are made elsewhere.
    pub grace: Duration,
}

/// A disk.
#[derive(Debug, Clone)]
pub struct DiskNow {
    /// Identity.
    pub uuid: Uuid,
    /// How it stands.
    pub standing: Standing,
    /// Bytes that a copy may take of it.
    pub room_bytes: u64,
    /// An operator wants it empty.
    pub draining: bool,
}

/// How a disk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In use, and takes changes.
    Usable,
    /// In use, and takes no changes.
    ReadOnly,
    /// Silent, or not there, since then.
    Away(Duration),
}

/// An image.
#[derive(Debug, Clone)]
pub struct ImageNow {
    /// Identity.
    pub uuid: Uuid,
    /// Copies wanted.
    pub wanted: u32,
    /// Disks that its description names.
    pub members: Vec<Uuid>,
    /// What there is of it on disks that are in use.
    pub copies: Vec<CopyNow>,
    /// Bytes that a copy takes.
    pub needs_bytes: u64,
    /// Disks on which a copy failed, and when it may be tried again.
    pub backing_off: Vec<(Uuid, Duration)>,
}

/// A copy.
#[derive(Debug, Clone, Copy)]
pub struct CopyNow {
    /// Its disk.
    pub disk: Uuid,
    /// How it stands.
    pub state: CopyState,
    /// Volumes on the same disk that read from it.
    pub clones: u32,
}

/// How a copy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyState {
    /// Complete and good.
    Ready,
    /// Part of it is there. `working`: a job is at it.
    Building {
        /// A job is at it.
        working: bool,
    },
    /// Known blocks of it are bad.
    Damaged,
    /// Nothing of it can be trusted.
    Failed,
}

/// Something to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The description is to name this disk, too; then the copy is made.
    Name {
        /// The image.
        image: Uuid,
        /// The disk.
        disk: Uuid,
    },
    /// A copy that is named is to be made, or to be finished.
    Build {
        /// The image.
        image: Uuid,
        /// The disk.
        disk: Uuid,
    },
    /// The copy on this disk goes, then its name.
    Remove {
        /// The image.
        image: Uuid,
        /// The disk.
        disk: Uuid,
        /// Why.
        why: Why,
    },
    /// This disk is named, has no copy, and is to have none.
    Unname {
        /// The image.
        image: Uuid,
        /// The disk.
        disk: Uuid,
    },
}

/// Why a copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There are more than wanted.
    Extra,
    /// Its disk is being drained.
    Drained,
    /// It is Failed, and an operator has given it up. Never planned.
    GivenUp,
}

/// Why an image does not get what it wants now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocked {
    /// This disk is late.
    Late(Uuid),
    /// No copy is Ready, so none can be made.
    NoSource,
    /// So many more copies are wanted than there are disks with room.
    NoPlace {
        /// How many.
        missing: u32,
    },
    /// A copy failed, and is tried again at this time.
    BackingOff(Duration),
}

/// What is to be done, and what cannot be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// Images that do not get what they want, one reason each.
    pub blocked: Vec<(Uuid, Blocked)>,
}

/// What is to be done now.
pub fn plan(situation: &Situation) -> Plan {
    let mut plan = Plan::default();
    // What is promised in this plan is no room for the next image.
    let mut room: Vec<(Uuid, u64)> = situation
        .disks
        .iter()
        .map(|disk| (disk.uuid, disk.room_bytes))
        .collect();
    for image in &situation.images {
        ForImage {
            situation,
            image,
            plan: &mut plan,
            room: &mut room,
        }
        .decide();
    }
    plan
}

/// When a plan may come out different though nothing happened: a grace time or a back-off ends.
pub fn next_look(situation: &Situation) -> Option<Duration> {
    let graces = situation
        .disks
        .iter()
        .filter_map(|disk| match disk.standing {
            Standing::Away(since) => Some(since + situation.grace),
            Standing::Usable | Standing::ReadOnly => None,
        });
    let backs = situation
        .images
        .iter()
        .flat_map(|image| image.backing_off.iter().map(|(_, until)| *until));
    graces.chain(backs).filter(|at| *at > situation.now).min()
}

struct ForImage<'a> {
    situation: &'a Situation,
    image: &'a ImageNow,
    plan: &'a mut Plan,
    room: &'a mut [(Uuid, u64)],
}

impl ForImage<'_> {
    fn decide(&mut self) {
        if let Some(late) = self.late() {
            self.block(Blocked::Late(late));
            return;
        }
        let ready = self.disks_of(|state| state == CopyState::Ready);
        if ready.is_empty() {
            self.block(Blocked::NoSource);
            return;
        }
        // Kept whatever happens: an image whose only Ready copies lie on disks that are being drained, for instance.
        let staying: Vec<Uuid> = self.of_staying_disks(&ready);
        let wanted = usize::try_from(self.image.wanted.max(1)).unwrap_or(usize::MAX);
        if staying.len() >= wanted {
            self.drop_unfinished(|_| true);
            self.drop_ready(&ready, &staying, wanted);
            return;
        }
        self.drop_unfinished(|disk| disk.draining);
        let unfinished = self.unfinished_that_stay();
        let damaged = self.disks_of(|state| state == CopyState::Damaged);
        let damaged = self.of_staying_disks(&damaged).len();
        let coming = staying.len() + damaged;
        // Wanted copies were lowered, or a disk came back, while more were on their way: those that are furthest stay.
        let keep = wanted.saturating_sub(coming).min(unfinished.len());
        for disk in &unfinished[keep..] {
            self.drop_one(*disk);
        }
        let mut waits = None;
        for disk in &unfinished[..keep] {
            match self.backs_off(*disk) {
                Some(until) => waits = Some(until),
                None => self.build(*disk),
            }
        }
        let missing = wanted.saturating_sub(coming + keep);
        let placed = self.place(missing);
        if placed < missing {
            let missing = u32::try_from(missing - placed).unwrap_or(u32::MAX);
            self.block(Blocked::NoPlace { missing });
        } else if let Some(until) = waits {
            self.block(Blocked::BackingOff(until));
        }
    }

    fn block(&mut self, why: Blocked) {
        self.plan.blocked.push((self.image.uuid, why));
    }

    fn disk(&self, uuid: Uuid) -> Option<&DiskNow> {
        self.situation.disks.iter().find(|disk| disk.uuid == uuid)
    }

    fn copy(&self, disk: Uuid) -> Option<&CopyNow> {
        self.image.copies.iter().find(|copy| copy.disk == disk)
    }

    /// A disk of this image that may be back any moment.
    fn late(&self) -> Option<Uuid> {
        let named = self.image.members.iter().copied();
        let mut all = named.chain(self.image.copies.iter().map(|copy| copy.disk));
        all.find(|disk| match self.disk(*disk).map(|disk| disk.standing) {
            Some(Standing::Away(since)) => self.situation.now < since + self.situation.grace,
            // One that nobody knows has been away for longer than anybody remembers.
            Some(Standing::Usable | Standing::ReadOnly) | None => false,
        })
    }

    /// Disks in use with a copy in such a state.
    fn disks_of(&self, is: impl Fn(CopyState) -> bool) -> Vec<Uuid> {
        self.image
            .copies
            .iter()
            .filter(|copy| is(copy.state))
            .map(|copy| copy.disk)
            .filter(|disk| self.is_in_use(*disk))
            .collect()
    }

    fn is_in_use(&self, disk: Uuid) -> bool {
        self.disk(disk)
            .is_some_and(|disk| !matches!(disk.standing, Standing::Away(_)))
    }

    fn is_usable(&self, disk: Uuid) -> bool {
        self.disk(disk)
            .is_some_and(|disk| disk.standing == Standing::Usable)
    }

    fn of_staying_disks(&self, disks: &[Uuid]) -> Vec<Uuid> {
        disks
            .iter()
            .copied()
            .filter(|disk| self.disk(*disk).is_some_and(|disk| !disk.draining))
            .collect()
    }

    /// Disks in use that are named and have no copy, or one that is being made; those that are furthest first.
    fn unfinished(&self) -> Vec<Uuid> {
        let building = self.disks_of(|state| matches!(state, CopyState::Building { .. }));
        let pending = self
            .image
            .members
            .iter()
            .copied()
            .filter(|disk| self.copy(*disk).is_none() && self.is_in_use(*disk));
        let mut all: Vec<Uuid> = building.iter().copied().chain(pending).collect();
        all.sort_by_key(|disk| {
            let state = self.copy(*disk).map(|copy| copy.state);
            match state {
                Some(CopyState::Building { working: true }) => 0,
                Some(_) => 1,
                None => 2,
            }
        });
        all
    }

    fn unfinished_that_stay(&self) -> Vec<Uuid> {
        self.unfinished()
            .into_iter()
            .filter(|disk| {
                self.disk(*disk)
                    .is_some_and(|disk| !disk.draining && disk.standing == Standing::Usable)
            })
            .collect()
    }

    /// What is not complete is worth nothing to anybody.
    fn drop_unfinished(&mut self, which: impl Fn(&DiskNow) -> bool) {
        for disk in self.unfinished() {
            if self
                .disk(disk)
                .is_some_and(|disk| disk.standing == Standing::Usable && which(disk))
            {
                self.drop_one(disk);
            }
        }
    }

    fn drop_one(&mut self, disk: Uuid) {
        let image = self.image.uuid;
        let why = match self.disk(disk) {
            Some(disk) if disk.draining => Why::Drained,
            _ => Why::Extra,
        };
        let action = match self.copy(disk) {
            Some(_) => Action::Remove { image, disk, why },
            None => Action::Unname { image, disk },
        };
        self.plan.actions.push(action);
    }

    /// Ready copies that are not needed: on disks that are being drained, then those above the wanted number, the fullest disk first,
    /// and rather where no volume reads from it.
    fn drop_ready(&mut self, ready: &[Uuid], staying: &[Uuid], wanted: usize) {
        let mut going: Vec<Uuid> = ready
            .iter()
            .copied()
            .filter(|disk| !staying.contains(disk))
            .collect();
        let mut extra = staying.to_vec();
        extra.retain(|disk| self.is_usable(*disk));
        extra.sort_by_key(|disk| {
            (
                self.copy(*disk).map_or(0, |copy| copy.clones) > 0,
                self.disk(*disk).map_or(0, |disk| disk.room_bytes),
                *disk,
            )
        });
        extra.truncate(staying.len() - wanted);
        going.extend(extra);
        going.retain(|disk| self.is_usable(*disk));
        // Rule 4, whatever was computed above.
        going.truncate(ready.len() - 1);
        for disk in going {
            self.drop_one(disk);
        }
    }

    fn backs_off(&self, disk: Uuid) -> Option<Duration> {
        let entry = self.image.backing_off.iter().find(|(at, _)| *at == disk);
        entry
            .map(|(_, until)| *until)
            .filter(|until| *until > self.situation.now)
    }

    fn build(&mut self, disk: Uuid) {
        let working = CopyState::Building { working: true };
        if self.copy(disk).is_none_or(|copy| copy.state != working) {
            let image = self.image.uuid;
            self.plan.actions.push(Action::Build { image, disk });
        }
    }

    /// Names so many more disks, if there are any; answers with how many there were.
    fn place(&mut self, count: usize) -> usize {
        let names_left = MEMBERS_MAX.saturating_sub(self.image.members.len());
        let mut places: Vec<(u64, Uuid)> = self
            .room
            .iter()
            .filter(|(disk, room)| *room >= self.image.needs_bytes && self.is_place(*disk))
            .map(|(disk, room)| (*room, *disk))
            .collect();
        places.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        places.truncate(count.min(names_left));
        for (_, disk) in &places {
            if let Some((_, room)) = self.room.iter_mut().find(|(uuid, _)| uuid == disk) {
                *room = room.saturating_sub(self.image.needs_bytes);
            }
            self.plan.actions.push(Action::Name {
                image: self.image.uuid,
                disk: *disk,
            });
        }
        places.len()
    }

    fn is_place(&self, disk: Uuid) -> bool {
        let fits = self
            .disk(disk)
            .is_some_and(|disk| disk.standing == Standing::Usable && !disk.draining);
        fits && !self.image.members.contains(&disk)
            && self.copy(disk).is_none()
            && self.backs_off(disk).is_none()
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
