//! An atomic word, as a trait: the same transitions run on mapped memory in the daemon and under loom in the models.

use std::sync::atomic::{AtomicU64, Ordering};

/// A word that threads share.
pub trait Word {
    /// Reads it; sees all that was written before the value that it reads was stored.
    fn load(&self) -> u64;
    /// Stores `new` if it holds `current`; else tells what it holds.
    ///
    /// # Errors
    /// The value that it holds.
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
    /// Sets bits; answers with the value before.
    fn fetch_or(&self, bits: u64) -> u64;
    /// Keeps only these bits; answers with the value before.
    fn fetch_and(&self, bits: u64) -> u64;
    /// Stores `new`; answers with the value before.
    fn swap(&self, new: u64) -> u64;
}

// SeqCst throughout: the marks of `dirty` are Dekker-like (mark, then look at the entry; clear, then look at the entry), and a weaker order would
// let the committer miss an entry. On x86 it costs nothing for what is a locked instruction anyway.
impl Word for AtomicU64 {
    #[inline]
    fn load(&self) -> u64 {
        self.load(Ordering::SeqCst)
    }

    #[inline]
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }

    #[inline]
    fn fetch_or(&self, bits: u64) -> u64 {
        self.fetch_or(bits, Ordering::SeqCst)
    }

    #[inline]
    fn fetch_and(&self, bits: u64) -> u64 {
        self.fetch_and(bits, Ordering::SeqCst)
    }

    #[inline]
    fn swap(&self, new: u64) -> u64 {
        self.swap(new, Ordering::SeqCst)
    }
}
