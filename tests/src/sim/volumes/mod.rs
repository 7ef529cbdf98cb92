//! Crash tests of writable volumes. The store, the volumes, the write requests and the read planner are the daemon's own; only the
//! disk and the live files are not. Where to begin: [`schedule`] for what one seed does, [`oracle`] for what must hold.
//!
//! ```text
//! word      what a sector holds: who wrote it, where, when
//! oracle    what a sector may hold
//! request   a request on its way
//! front     the requests in flight, and who goes on next
//! hooked    the store's disk: requests go on in the middle of what the store does
//! node      a node with volumes: its operations, crashes, recoveries
//! schedule  what one seed does
//! trace     short scripts, crashed everywhere
//! bare      volumes without a store, without crashes
//! ```

pub mod bare;
pub mod front;
pub mod hooked;
pub mod node;
pub mod oracle;
pub mod request;
pub mod schedule;
pub mod trace;
pub mod word;
