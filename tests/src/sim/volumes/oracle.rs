//! The oracle: what a sector may hold. Every sector of every volume keeps the writes that it may still show, and each of them knows when
//! it was issued, when it ended, whether it was acknowledged, and whether a flush covers it.
//!
//! Two rules, design section 2. *Seen*: a write is no longer shown once a later one was acknowledged; "later" is issued after it had ended. *Kept*:
//! after a power loss it is no longer shown once a later one was flushed. Zero is a value like any other. Writes that overlap in time are
//! ordered in any way.

use super::word::{Word, WriteId};

/// A moment. Each event of a schedule has its own.
pub type Moment = u32;
/// Not yet.
const NEVER: Moment = Moment::MAX;

/// Which rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// For one who began to look at this moment: nothing older than what was acknowledged before.
    Seen {
        /// When the look began.
        since: Moment,
    },
    /// Nothing older than what was flushed.
    Kept,
}

#[derive(Clone, Copy, Debug)]
struct Write {
    issued: Moment,
    ended: Moment,
    acknowledged: bool,
    /// With FUA, and acknowledged.
    flushed: bool,
    zero: bool,
}

/// What is known of one volume.
#[derive(Debug, Default)]
pub struct Sectors {
    /// Its number in the words.
    object: u8,
    /// The image below: its number, and how many sectors it has.
    base: Option<(u8, usize)>,
    /// Everything that was acknowledged before this moment is flushed.
    flushed_until: Moment,
    /// By sector: the writes that it may show, apart from what was there before.
    lists: Vec<Vec<WriteId>>,
    /// By sector: whether it may show what was there before.
    base_may_show: Vec<bool>,
    /// By sector: the last of its list, or what was there before. Nothing was issued after it, so that nothing hides it.
    latest: Vec<WriteId>,
    /// By sector: nothing but the latest may show.
    is_settled: Vec<bool>,
}

impl Sectors {
    /// What a sector shows before every write.
    fn base_word(&self, sector: usize) -> Word {
        match self.base {
            Some((image, sectors)) if sector < sectors => image_word(image, sector),
            _ => Word::ZERO,
        }
    }
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Oracle {
    now: Moment,
    writes: Vec<Write>,
    volumes: Vec<Sectors>,
    /// Lists of former schedules, for their memory.
    spare: Vec<Vec<WriteId>>,
}

/// A volume of the oracle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which(usize);

impl Oracle {
    /// Forgets everything; keeps its memory.
    pub fn reset(&mut self) {
        self.now = 1;
        self.writes.clear();
        let base = Write {
            issued: 0,
            ended: 0,
            acknowledged: true,
            flushed: true,
            zero: false,
        };
        self.writes.push(base);
        for mut volume in self.volumes.drain(..) {
            self.spare.append(&mut volume.lists);
        }
    }

    /// The next moment.
    pub fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A volume of `sectors` sectors, of which the first ones show the image `base`.
    pub fn add_volume(&mut self, object: u8, base: Option<(u8, usize)>, sectors: usize) -> Which {
        let volume = Sectors {
            object,
            base,
            ..Sectors::default()
        };
        self.volumes.push(volume);
        let which = Which(self.volumes.len() - 1);
        self.grow(which, sectors);
        which
    }

    /// It has so many sectors now; new ones are zero.
    pub fn grow(&mut self, which: Which, sectors: usize) {
        let volume = &mut self.volumes[which.0];
        for _ in volume.lists.len()..sectors {
            let mut list = self.spare.pop().unwrap_or_default();
            list.clear();
            volume.lists.push(list);
        }
        let sectors = sectors.max(volume.base_may_show.len());
        volume.base_may_show.resize(sectors, true);
        volume.latest.resize(sectors, WriteId::BASE);
        volume.is_settled.resize(sectors, true);
    }

    /// Sectors that it has.
    pub fn sectors_of(&self, which: Which) -> usize {
        self.volumes[which.0].lists.len()
    }

    /// A write is about to be issued. `floor`: nobody who began to look before this moment is still looking.
    pub fn issue(
        &mut self,
        which: Which,
        first: usize,
        sectors: usize,
        zero: bool,
        floor: Moment,
    ) -> WriteId {
        let issued = self.tick();
        let id = WriteId(u32::try_from(self.writes.len()).expect("few writes"));
        self.writes.push(Write {
            issued,
            ended: NEVER,
            acknowledged: false,
            flushed: false,
            zero,
        });
        let volume = &mut self.volumes[which.0];
        volume.latest[first..first + sectors].fill(id);
        volume.is_settled[first..first + sectors].fill(false);
        for sector in first..first + sectors {
            if self.volumes[which.0].lists[sector].len() >= 4 {
                self.prune(which, sector, floor);
            }
            self.volumes[which.0].lists[sector].push(id);
        }
        id
    }

    /// A write was acknowledged, `flushed` if with FUA.
    pub fn acknowledge(&mut self, id: WriteId, flushed: bool) {
        let now = self.tick();
        let write = &mut self.writes[id.0 as usize];
        (write.ended, write.acknowledged, write.flushed) = (now, true, flushed);
    }

    /// A write has failed: it may have landed or not, but no longer will.
    pub fn failed(&mut self, id: WriteId) {
        let now = self.tick();
        self.writes[id.0 as usize].ended = now;
    }

    /// A flush that was issued at `issued` was acknowledged.
    pub fn flushed(&mut self, which: Which, issued: Moment) {
        let volume = &mut self.volumes[which.0];
        volume.flushed_until = volume.flushed_until.max(issued);
    }

    /// The bytes of a write.
    pub fn word(&self, which: Which, sector: usize, id: WriteId) -> Word {
        Word::new(self.volumes[which.0].object, sector, id)
    }

    /// Whether the sectors from `first` on may show `found`.
    ///
    /// # Errors
    /// What the first one that may not may show instead.
    pub fn check(
        &self,
        which: Which,
        first: usize,
        found: &[Word],
        rule: Rule,
    ) -> Result<(), String> {
        let volume = &self.volumes[which.0];
        for ((sector, latest), found) in (first..).zip(&volume.latest[first..]).zip(found) {
            // Nearly always.
            if *found != self.shown(volume, sector, *latest) {
                self.check_all(volume, sector, *found, rule)?;
            }
        }
        Ok(())
    }

    fn check_all(
        &self,
        volume: &Sectors,
        sector: usize,
        found: Word,
        rule: Rule,
    ) -> Result<(), String> {
        let explains = |id: WriteId| {
            self.shown(volume, sector, id) == found && self.may_show(volume, sector, id, rule)
        };
        if (volume.base_may_show[sector] && explains(WriteId::BASE))
            || volume.lists[sector].iter().any(|id| explains(*id))
        {
            return Ok(());
        }
        let known: Vec<String> = std::iter::once(WriteId::BASE)
            .filter(|_| volume.base_may_show[sector])
            .chain(volume.lists[sector].iter().copied())
            .map(|id| {
                let write = &self.writes[id.0 as usize];
                let flushed = if self.is_flushed(volume, id) {
                    " flushed"
                } else {
                    ""
                };
                let end = match (write.ended, write.acknowledged) {
                    (NEVER, _) => "in flight".to_owned(),
                    (end, true) => format!("acknowledged {end}"),
                    (end, false) => format!("failed {end}"),
                };
                let what = self.shown(volume, sector, id);
                format!(
                    "{} ({what:?}, issued {}, {end}{flushed})",
                    id.0, write.issued
                )
            })
            .collect();
        Err(format!(
            "volume {} sector {sector} shows {found:?}, rule {rule:?}; writes to it: {}",
            volume.object,
            known.join(", ")
        ))
    }

    /// The sectors from `first` on show `found` for good: what else they might have shown is past.
    ///
    /// # Errors
    /// What the first one that may not show that may show instead.
    pub fn settle(
        &mut self,
        which: Which,
        first: usize,
        found: &[Word],
        rule: Rule,
    ) -> Result<(), String> {
        self.check(which, first, found, rule)?;
        for (sector, found) in (first..).zip(found) {
            if !self.volumes[which.0].is_settled[sector] {
                self.settle_one(which, sector, *found);
            }
        }
        Ok(())
    }

    fn settle_one(&mut self, which: Which, sector: usize, found: Word) {
        let volume = &mut self.volumes[which.0];
        let latest = volume.latest[sector];
        // Nearly always. No other write has the same word, nor has what was there before.
        if latest != WriteId::BASE && found == Word::new(volume.object, sector, latest) {
            volume.base_may_show[sector] = false;
            volume.is_settled[sector] = true;
            let list = &mut volume.lists[sector];
            list.clear();
            list.push(latest);
            return;
        }
        let mut list = std::mem::take(&mut volume.lists[sector]);
        let volume = &self.volumes[which.0];
        // All that are left look the same.
        list.retain(|id| self.shown(volume, sector, *id) == found);
        let base_may_show = volume.base_may_show[sector] && volume.base_word(sector) == found;
        let volume = &mut self.volumes[which.0];
        volume.base_may_show[sector] = base_may_show;
        volume.latest[sector] = list.last().copied().unwrap_or(WriteId::BASE);
        volume.is_settled[sector] = match list[..] {
            [] => true,
            [_] => !base_may_show,
            _ => false,
        };
        volume.lists[sector] = list;
    }

    /// Everything that was settled counts as acknowledged and flushed.
    pub fn settled(&mut self, which: Which) {
        let now = self.tick();
        let volume = &mut self.volumes[which.0];
        for id in volume.lists.iter().flatten() {
            let write = &mut self.writes[id.0 as usize];
            write.ended = write.ended.min(now);
            write.acknowledged = true;
        }
        volume.flushed_until = now + 1;
        self.now += 1;
    }

    fn shown(&self, volume: &Sectors, sector: usize, id: WriteId) -> Word {
        if id == WriteId::BASE {
            volume.base_word(sector)
        } else if self.writes[id.0 as usize].zero {
            Word::ZERO
        } else {
            Word::new(volume.object, sector, id)
        }
    }

    fn is_flushed(&self, volume: &Sectors, id: WriteId) -> bool {
        let write = &self.writes[id.0 as usize];
        write.acknowledged && (write.flushed || write.ended < volume.flushed_until)
    }

    fn may_show(&self, volume: &Sectors, sector: usize, id: WriteId, rule: Rule) -> bool {
        let ended = self.writes[id.0 as usize].ended;
        !volume.lists[sector].iter().any(|later| {
            let later_write = &self.writes[later.0 as usize];
            let hides = match rule {
                Rule::Seen { since } => later_write.acknowledged && later_write.ended < since,
                Rule::Kept => self.is_flushed(volume, *later),
            };
            hides && ended < later_write.issued
        })
    }

    /// Forgets writes that neither rule will ever show again.
    fn prune(&mut self, which: Which, sector: usize, floor: Moment) {
        let mut list = std::mem::take(&mut self.volumes[which.0].lists[sector]);
        let volume = &self.volumes[which.0];
        let hidden = |id: WriteId, list: &[WriteId]| {
            let ended = self.writes[id.0 as usize].ended;
            list.iter().any(|later| {
                let write = &self.writes[later.0 as usize];
                ended < write.issued && write.ended < floor && self.is_flushed(volume, *later)
            })
        };
        let base_is_hidden = hidden(WriteId::BASE, &list);
        if list.iter().any(|id| hidden(*id, &list)) {
            let all = list.clone();
            list.retain(|id| !hidden(*id, &all));
        }
        let volume = &mut self.volumes[which.0];
        volume.base_may_show[sector] &= !base_is_hidden;
        volume.lists[sector] = list;
    }
}

/// What an image has in a sector: two blocks of three are stored.
pub fn image_word(image: u8, sector: usize) -> Word {
    if sector / 8 % 3 == 2 {
        Word::ZERO
    } else {
        Word::new(image, sector, WriteId(1))
    }
}
