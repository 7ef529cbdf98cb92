//! Sizes as people write and read them: IEC units both ways, so that what is printed can be typed.

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const ACCEPTED: &str = "write bytes, or a number with K, M, G, T or P (1024 each; KiB, MiB, ... are the same), \
                        for example 512M or 10G";

/// Reads `4096`, `10G`, `10 GiB`, `1.5T`.
///
/// # Errors
/// A sentence that says what is accepted.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let number_len = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(number_len);
    let unit = unit.trim();
    let shift = shift_of(unit).ok_or_else(|| match unit.to_ascii_uppercase().as_str() {
        "KB" | "MB" | "GB" | "TB" | "PB" => {
            format!("{unit} could mean 1000s or 1024s: {ACCEPTED}")
        }
        _ => format!("{text:?} is no size: {ACCEPTED}"),
    })?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (fraction.is_empty() && number.contains('.')) {
        return Err(format!("{text:?} is no size: {ACCEPTED}"));
    }
    let too_large = || format!("{text:?} is too large: a disk has at most 256 TiB");
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let whole_bytes = whole.checked_mul(1 << shift).ok_or_else(too_large)?;
    let fraction_bytes = fraction_of(fraction, shift)
        .ok_or_else(|| format!("{text:?} is no whole number of bytes"))?;
    whole_bytes
        .checked_add(fraction_bytes)
        .ok_or_else(too_large)
}

/// A new size, or how much more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// This size.
    To(u64),
    /// So much more.
    By(u64),
}

/// Reads `20G` and `+10G`.
///
/// # Errors
/// As [`parse`].
pub fn parse_change(text: &str) -> Result<Change, String> {
    match text.trim().strip_prefix('+') {
        Some(more) => parse(more).map(Change::By),
        None => parse(text).map(Change::To),
    }
}

fn shift_of(unit: &str) -> Option<u32> {
    match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "k" | "kib" => Some(10),
        "m" | "mib" => Some(20),
        "g" | "gib" => Some(30),
        "t" | "tib" => Some(40),
        "p" | "pib" => Some(50),
        _ => None,
    }
}

/// `digits` behind the point, times `2^shift`; `None` where that is no whole number.
fn fraction_of(digits: &str, shift: u32) -> Option<u64> {
    let digits = digits.trim_end_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    let scale = 10u128.checked_pow(u32::try_from(digits.len()).ok()?)?;
    let scaled = digits.parse::<u128>().ok()?.checked_mul(1 << shift)?;
    (scaled % scale == 0)
        .then(|| u64::try_from(scaled / scale).ok())
        .flatten()
}

/// `10 GiB`, `1.5 GiB`, `512 B`: rounded to one decimal, whole numbers without one.
pub fn human(bytes: u64) -> String {
    let mut unit = 0;
    // The first unit in which the rounded number has at most four digits: 1023.96 KiB reads as 1.0 MiB.
    while unit + 1 < UNITS.len() && tenths(bytes, unit) >= 10_240 {
        unit += 1;
    }
    let tenths = tenths(bytes, unit);
    if tenths.is_multiple_of(10) {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

fn tenths(bytes: u64, unit: usize) -> u128 {
    let one = 1u128 << (10 * unit);
    (u128::from(bytes) * 10 + one / 2) / one
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_people_type() {
        let table = [
            ("0", 0),
            ("4096", 4096),
            ("1B", 1),
            ("64K", 64 << 10),
            ("256m", 256 << 20),
            ("10G", 10 << 30),
            ("10GiB", 10 << 30),
            ("10 GiB", 10 << 30),
            ("1.5G", 3 << 29),
            ("0.5k", 512),
            ("2T", 2 << 40),
            ("256P", 256 << 50),
        ];
        for (text, bytes) in table {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_and_told_what_is() {
        for text in [
            "", "G", "ten", "-1", "10X", "1.2.3G", "1.", ".5G", "0x10", "10 G B", "1e9",
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains("for example 512M or 10G"), "{text}: {error}");
        }
        assert!(parse("10GB").expect_err("GB").contains("1000s or 1024s"));
        assert!(
            parse("0.3")
                .expect_err("0.3")
                .contains("whole number of bytes")
        );
        for text in ["99999999999999999999", "99999999P"] {
            assert!(parse(text).expect_err(text).contains("too large"), "{text}");
        }
    }

    #[test]
    fn a_plus_means_more() {
        assert_eq!(parse_change("20G"), Ok(Change::To(20 << 30)));
        assert_eq!(parse_change("+512M"), Ok(Change::By(512 << 20)));
        for text in ["", "+", "++1G", "-1G", "1G+"] {
            assert!(parse_change(text).is_err(), "{text}");
        }
    }

    #[test]
    fn printed_sizes_are_short_and_can_be_typed() {
        let table = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            (1_048_575, "1 MiB"),
            ((256 << 40) - 1, "256 TiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in table {
            assert_eq!(human(bytes), text);
        }
        assert_eq!(parse(&human(3 << 29)), Ok(3 << 29));
    }
}
