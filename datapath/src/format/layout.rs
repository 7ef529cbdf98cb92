//! How raw structs are declared: packed, byte-order-safe, size asserted, and with a list of their
//! fields, so that a test can hold the specification against them.

/// A field of a raw struct, for the test that compares code and specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// Its length.
    pub bytes: usize,
}

macro_rules! layout {
    ($(#[$meta:meta])* $name:ident, $size:expr, { $($field:ident: $ty:ty,)* }) => {
        $(#[$meta])*
        ///
        /// The fields are described in `docs/on-disk-format.md`.
        #[derive(
            Clone, Copy,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout,
            zerocopy::Immutable, zerocopy::Unaligned,
        )]
        #[repr(C)]
        #[expect(missing_docs, reason = "the specification describes each field, and a test compares")]
        pub struct $name { $(pub $field: $ty,)* }

        const _: () = assert!(size_of::<$name>() == $size);

        impl $name {
            /// Every field, in order.
            pub const FIELDS: &'static [$crate::format::Field] = &[$(
                $crate::format::Field {
                    name: stringify!($field),
                    offset: std::mem::offset_of!($name, $field),
                    bytes: size_of::<$ty>(),
                },
            )*];
        }
    };
}
