//! Devices whose disk has gone: their requests wait for its return, for as long as the settings say, then they are answered with I/O errors;
//! when the disk is back they go on. docs/recovery.md, "A disk that goes away", says what holds of what was not flushed.
//!
//! ```text
//! went   a disk goes: its devices are parked, their time runs
//! back   it was opened anew: they go on, or are held
//! ```
//!
//! A device waits for one disk: its volume's own; or, of an image, of a clone whose image is on other disks, the last one that could have
//! answered. Other disks of its may go meanwhile: a volume goes on only when its own disk is there too, and on what that one has then.

pub mod back;
pub mod went;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bedplate_datapath::store::LeftDisk;
use uuid::Uuid;

/// Devices that wait, and disks that they wait for.
#[derive(Debug, Default)]
pub struct Away(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    devices: HashMap<Uuid, Waiting>,
    left: Vec<LeftDisk>,
    rounds: u64,
}

/// A device that waits for a disk, or has waited long enough.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The disk.
    pub disk: Uuid,
    /// The device's number.
    pub number: u32,
    /// Which wait of all: a clock of an earlier one says nothing of this.
    round: u64,
    /// Its requests are answered with errors by now.
    pub is_over: bool,
    /// Whoever tells the target that the wait has ended, one way or the other: one at a time.
    gate: Arc<tokio::sync::Mutex<()>>,
}

impl Away {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device of an object begins to wait; as it waits, if it does already.
    fn begin(&self, object: Uuid, disk: Uuid, number: u32) -> Result<Waiting, Waiting> {
        let mut inner = self.lock();
        let known = inner.devices.get(&object);
        if let Some(known) = known.filter(|known| known.number == number) {
            return Err(known.clone());
        }
        inner.rounds += 1;
        let waiting = Waiting {
            disk,
            number,
            round: inner.rounds,
            is_over: false,
            gate: Arc::default(),
        };
        inner.devices.insert(object, waiting.clone());
        Ok(waiting)
    }

    /// The wait of this object's device, if it waits.
    pub fn of(&self, object: Uuid) -> Option<Waiting> {
        self.lock().devices.get(&object).cloned()
    }

    /// Every object whose device waits, and for which disk.
    pub fn all(&self) -> Vec<(Uuid, Waiting)> {
        let inner = self.lock();
        let all = inner.devices.iter();
        all.map(|(object, waiting)| (*object, waiting.clone()))
            .collect()
    }

    /// The device has waited long enough; false if that wait has ended before.
    fn end(&self, object: Uuid, waiting: &Waiting) -> bool {
        let mut inner = self.lock();
        match inner.devices.get_mut(&object) {
            Some(known) if known.round == waiting.round && !known.is_over => {
                known.is_over = true;
                true
            }
            _ => false,
        }
    }

    /// The object has no device any more, or it goes on.
    pub fn forget(&self, object: Uuid) {
        self.lock().devices.remove(&object);
    }

    /// A disk that had gone was let go of.
    pub fn note_left(&self, left: LeftDisk) {
        let mut inner = self.lock();
        inner.left.retain(|known| known.disk != left.disk);
        inner.left.push(left);
    }

    /// Disks that had gone, and are not back.
    pub fn left(&self) -> Vec<LeftDisk> {
        self.lock().left.clone()
    }

    /// The disk is back.
    pub fn returned(&self, disk: Uuid) {
        self.lock().left.retain(|known| known.disk != disk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Uuid = Uuid::from_u128(1);
    const DISK: Uuid = Uuid::from_u128(2);

    #[test]
    fn a_device_waits_once_and_the_clock_of_an_earlier_wait_says_nothing() {
        let away = Away::default();
        let first = away.begin(OBJECT, DISK, 3).unwrap();
        assert!(away.begin(OBJECT, DISK, 3).is_err());
        assert_eq!(away.all().len(), 1);
        away.forget(OBJECT);
        assert!(!away.end(OBJECT, &first));
        let second = away.begin(OBJECT, DISK, 3).unwrap();
        assert!(!away.end(OBJECT, &first), "of the first wait");
        assert!(away.end(OBJECT, &second));
        assert!(!away.end(OBJECT, &second), "told once");
        assert!(away.of(OBJECT).unwrap().is_over);
        // Another device of the same object is another wait.
        assert!(away.begin(OBJECT, DISK, 4).is_ok());
    }

    #[test]
    fn of_a_disk_that_left_twice_the_last_time_counts() {
        let away = Away::default();
        let left = |session| LeftDisk {
            disk: DISK,
            session,
            flushed: Vec::new(),
        };
        away.note_left(left(1));
        away.note_left(left(2));
        assert_eq!(away.left(), [left(2)]);
        away.returned(DISK);
        assert_eq!(away.left(), []);
    }
}
