//! Text of bounded length, so that encoding a slot cannot fail.

use std::fmt;

/// UTF-8 text of at most `N` bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text<const N: usize>(String);

/// Text that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("text of {len_bytes} bytes is longer than {len_bytes_max}")]
pub struct TextTooLong {
    /// Its length.
    pub len_bytes: usize,
    /// The longest that fits.
    pub len_bytes_max: usize,
}

impl<const N: usize> Text<N> {
    /// Takes text as it is.
    ///
    /// # Errors
    /// If it has more than `N` bytes.
    pub fn new(text: impl Into<String>) -> Result<Self, TextTooLong> {
        let text = text.into();
        if text.len() > N {
            return Err(TextTooLong {
                len_bytes: text.len(),
                len_bytes_max: N,
            });
        }
        Ok(Self(text))
    }

    /// Takes as many whole characters as fit.
    pub fn cut(text: &str) -> Self {
        let end = (0..=N.min(text.len()))
            .rev()
            .find(|&at| text.is_char_boundary(at));
        Self(text[..end.unwrap_or(0)].to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, zero-filled, and its length.
    pub(super) fn to_raw(&self) -> ([u8; N], u16) {
        const { assert!(N <= u16::MAX as usize) };
        let mut raw = [0; N];
        raw[..self.0.len()].copy_from_slice(self.0.as_bytes());
        (raw, u16::try_from(self.0.len()).unwrap_or(u16::MAX))
    }

    /// `None` unless `len_bytes` bytes of UTF-8 are followed by zeros only.
    pub(super) fn from_raw(raw: &[u8; N], len_bytes: u16) -> Option<Self> {
        let (text, rest) = raw.split_at_checked(len_bytes.into())?;
        if rest.iter().any(|&byte| byte != 0) {
            return None;
        }
        Some(Self(std::str::from_utf8(text).ok()?.to_owned()))
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_source_is_cut_between_characters() {
        assert_eq!(Text::<4>::cut("abcé").as_str(), "abc");
        assert_eq!(Text::<5>::cut("abcé").as_str(), "abcé");
        assert_eq!(
            Text::<4>::new("abcé"),
            Err(TextTooLong {
                len_bytes: 5,
                len_bytes_max: 4
            })
        );
    }

    #[test]
    fn raw_text_must_be_utf8_and_zero_filled() {
        assert_eq!(Text::<4>::from_raw(b"ab\0\0", 2).unwrap().as_str(), "ab");
        assert_eq!(Text::<4>::from_raw(b"abc\0", 2), None);
        assert_eq!(Text::<4>::from_raw(b"ab\0\0", 5), None);
        assert_eq!(Text::<4>::from_raw(b"\xff\0\0\0", 1), None);
    }
}
