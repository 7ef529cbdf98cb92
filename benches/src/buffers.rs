//! Memory of the loops: one block for each request in flight.

/// Requests in flight.
pub const DEPTH: u32 = 32;
/// Length of each.
pub const BLOCK: u32 = 4096;
/// Upper half of the executor's `user_data`.
pub(crate) const TAG: u64 = 1 << 32;

/// Memory for [`DEPTH`] requests. Never given back, so that the kernel may use it even after a loop has panicked.
pub(crate) struct Buffers(*mut AlignedBlock);

#[repr(C, align(4096))]
#[derive(Clone)]
struct AlignedBlock([u8; BLOCK as usize]);

impl Buffers {
    pub(crate) fn new() -> Self {
        Self(
            vec![AlignedBlock([0x5a; BLOCK as usize]); DEPTH as usize]
                .leak()
                .as_mut_ptr(),
        )
    }

    /// The buffer of request number `request`, below [`DEPTH`].
    pub(crate) fn of(&self, request: u32) -> *mut u8 {
        assert!(request < DEPTH);
        self.0.wrapping_add(request as usize).cast()
    }
}
