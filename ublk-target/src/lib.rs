//! Everything that knows ublk.
