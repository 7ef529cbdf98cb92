//! The disk as the store gets it: before each of its writes and flushes, requests in flight may make some steps. So a commit, a create or a
//! recovery is never alone, though the store is one thread.

use std::cell::RefCell;
use std::panic::resume_unwind;
use std::rc::Rc;

use bedplate_datapath::medium::{IoFault, Medium};
use bedplate_datapath::units::ByteOffset;

use super::front::Front;
use crate::sim::disk::{ESHUTDOWN, SimDisk};

/// See the head of this file.
#[derive(Clone)]
pub struct HookedDisk {
    /// The disk.
    pub disk: Rc<RefCell<SimDisk>>,
    /// Whose requests go on.
    pub front: Rc<RefCell<Front>>,
}

/// What a call of the store unwinds with when the machine stops in the middle of it: a process that is gone handles no error, and stores
/// nothing in its live state any more.
#[derive(Clone, Copy, Debug)]
pub struct Died;

fn or_die(result: Result<(), IoFault>) -> Result<(), IoFault> {
    match result {
        Err(fault) if fault.errno == ESHUTDOWN => resume_unwind(Box::new(Died)),
        result => result,
    }
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
        let result = self.disk.borrow_mut().read(at, into);
        or_die(result)
    }

    fn heads(
        &mut self,
        at: ByteOffset,
        len_bytes: u64,
        head_bytes: usize,
        look: &mut dyn FnMut(ByteOffset, &[u8]),
    ) -> Result<(), IoFault> {
        let result = self
            .disk
            .borrow_mut()
            .heads(at, len_bytes, head_bytes, look);
        or_die(result)
    }

    fn write(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.let_others_go_on();
        let result = self.disk.borrow_mut().write(at, from);
        or_die(result)
    }

    fn write_durable(&mut self, at: ByteOffset, from: &[u8]) -> Result<(), IoFault> {
        self.let_others_go_on();
        let result = self.disk.borrow_mut().write_durable(at, from);
        or_die(result)
    }

    fn write_zeroes(&mut self, at: ByteOffset, len_bytes: u64) -> Result<(), IoFault> {
        self.let_others_go_on();
        let result = self.disk.borrow_mut().write_zeroes(at, len_bytes);
        or_die(result)
    }

    fn flush(&mut self) -> Result<(), IoFault> {
        self.let_others_go_on();
        let result = self.disk.borrow_mut().flush();
        or_die(result)
    }
}
