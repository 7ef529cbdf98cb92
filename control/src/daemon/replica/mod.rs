//! Replicas: which copies there are to be, and what is done about it.
//!
//! ```text
//! plan       (catalogue, disks, time) -> actions; pure
//! backoff    when a copy that failed is tried again; pure
//! throttle   how fast a copy may be; pure
//! ```

mod backoff;
mod plan;
mod throttle;
