//! The disk as the store gets it: before each of its writes and flushes, requests in flight may make some steps. So a commit, a create or a
//! recovery is never alone, though the store is one thread.

use std::cell::RefCell;
use std::rc::Rc;

use bedplate_datapath::medium::{IoFault, Medium};
use bedplate_datapath::units::ByteOffset;

use super::front::Front;
use crate::sim::disk::SimDisk;

/// See the head of this file.
#[derive(Clone)]
pub struct HookedDisk {
    /// The disk.
    pub disk: Rc<RefCell<SimDisk>>,
    /// Whose requests go on.
    pub front: Rc<RefCell<Front>>,
}

impl HookedDisk {
    fn let_others_go_on(&self) {
        if let Ok(mut front) = self.front.try_borrow_mut() {
            front.interleave();
        }
    }
}

impl Medium for HookedDisk {
    fn len_bytes(&self) -> u64 {
        self.disk.borrow().len_bytes()
    }

    fn read(&mut self, at: ByteOffset, into: &mut [u8]) -> Result<(), IoFault> {
        self.disk.borrow_mut().read(at, into)
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.let_others_go_on();
        self.disk.borrow_mut().write(at, from)
    }

    fn write_durable(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.let_others_go_on();
        self.disk.borrow_mut().write_durable(at, from)
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.let_others_go_on();
        self.disk.borrow_mut().write_zeroes(at, len_bytes)
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        self.let_others_go_on();
        self.disk.borrow_mut().flush()
    }
}
