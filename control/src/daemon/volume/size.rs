//! Lengths that a volume can have. Pure.

use crate::api::{ApiError, ResizeVolume};
use crate::error_kind::ErrorKind;

/// Granularity of a volume's length: a sector.
pub const SECTOR_BYTES: u64 = 512;
/// The longest volume that the format allows.
pub const SIZE_BYTES_MAX: u64 = 256 << 40;

/// The length of a new volume. `image` is the name and length of its image.
///
/// # Errors
/// `BadSize`; `BadRequest` where nothing says how long it is to be.
pub fn of_new(name: &str, asked: Option<u64>, image: Option<(&str, u64)>) -> Result<u64, ApiError> {
    match (asked, image) {
        (None, None) => Err(
            ApiError::new(ErrorKind::BadRequest, "a blank volume needs a size")
                .object(name)
                .remedy(
                    "say how long it is to be: `--size 10G`; or whose clone it is: `--image NAME`",
                ),
        ),
        (None, Some((_, image_bytes))) => {
            let size = image_bytes.next_multiple_of(SECTOR_BYTES);
            check(name, size).map(|()| size)
        }
        (Some(size), image) => {
            check(name, size)?;
            match image {
                Some((image, image_bytes)) if size < image_bytes => Err(bad(
                    name,
                    format!("{size} bytes are less than the image {image} has ({image_bytes})"),
                    "leave the size out to get the image's, or ask for more",
                )),
                _ => Ok(size),
            }
        }
    }
}

/// The length of a volume that is to grow from `now`.
///
/// # Errors
/// `BadSize`; `BadRequest` where not exactly one of the two ways is given.
pub fn of_grown(name: &str, now: u64, asked: &ResizeVolume) -> Result<u64, ApiError> {
    let size = match (asked.size_bytes, asked.grow_bytes) {
        (Some(size), None) => size,
        (None, Some(by)) => now.checked_add(by).ok_or_else(|| too_long(name))?,
        _ => {
            return Err(ApiError::new(
                ErrorKind::BadRequest,
                "one of `size_bytes` and `grow_bytes` is needed, and not both",
            )
            .object(name));
        }
    };
    check(name, size)?;
    if size < now {
        return Err(bad(
            name,
            format!(
                "the volume {name} has {now} bytes, and is never made shorter ({size} bytes were asked for)"
            ),
            "make a smaller volume and copy what matters",
        ));
    }
    Ok(size)
}

fn check(name: &str, size: u64) -> Result<(), ApiError> {
    if size == 0 {
        return Err(bad(
            name,
            "a volume cannot have a size of zero",
            "ask for at least 512 bytes",
        ));
    }
    if size > SIZE_BYTES_MAX {
        return Err(too_long(name));
    }
    if !size.is_multiple_of(SECTOR_BYTES) {
        let next = size.next_multiple_of(SECTOR_BYTES);
        return Err(bad(
            name,
            format!("{size} bytes are no multiple of {SECTOR_BYTES}"),
            &format!("the next one is {next}"),
        ));
    }
    Ok(())
}

fn too_long(name: &str) -> ApiError {
    bad(
        name,
        "a volume has at most 256 TiB",
        "ask for less; space is taken only where something is written",
    )
}

fn bad(name: &str, message: impl Into<String>, remedy: &str) -> ApiError {
    ApiError::new(ErrorKind::BadSize, message)
        .object(name)
        .remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind<T: std::fmt::Debug>(result: Result<T, ApiError>) -> ErrorKind {
        result.unwrap_err().kind
    }

    #[test]
    fn a_new_volume_has_the_length_of_its_image_or_more() {
        assert_eq!(of_new("v", None, Some(("i", 1000))), Ok(1024));
        assert_eq!(of_new("v", None, Some(("i", 1024))), Ok(1024));
        assert_eq!(of_new("v", Some(2048), Some(("i", 1000))), Ok(2048));
        assert_eq!(of_new("v", Some(512), None), Ok(512));
        assert_eq!(of_new("v", Some(SIZE_BYTES_MAX), None), Ok(SIZE_BYTES_MAX));
        assert_eq!(kind(of_new("v", None, None)), ErrorKind::BadRequest);
        for (asked, image) in [
            (0, None),
            (511, None),
            (513, None),
            (SIZE_BYTES_MAX + 512, None),
            (u64::MAX, None),
            (512, Some(("i", 513))),
        ] {
            let error = of_new("v", Some(asked), image).unwrap_err();
            assert_eq!(error.kind, ErrorKind::BadSize, "{asked}");
            assert!(
                error.remedy.is_some() && error.object.is_some(),
                "{error:?}"
            );
        }
    }

    #[test]
    fn a_volume_grows_and_never_shrinks() {
        let to = |size| ResizeVolume {
            size_bytes: Some(size),
            grow_bytes: None,
        };
        let by = |grow| ResizeVolume {
            size_bytes: None,
            grow_bytes: Some(grow),
        };
        assert_eq!(of_grown("v", 1024, &to(2048)), Ok(2048));
        assert_eq!(of_grown("v", 1024, &to(1024)), Ok(1024));
        assert_eq!(of_grown("v", 1024, &by(512)), Ok(1536));
        for wrong in [to(512), to(0), by(1), by(u64::MAX), by(SIZE_BYTES_MAX)] {
            assert_eq!(
                kind(of_grown("v", 1024, &wrong)),
                ErrorKind::BadSize,
                "{wrong:?}"
            );
        }
        let neither = ResizeVolume {
            size_bytes: None,
            grow_bytes: None,
        };
        let both = ResizeVolume {
            size_bytes: Some(4096),
            grow_bytes: Some(512),
        };
        for wrong in [neither, both] {
            assert_eq!(kind(of_grown("v", 1024, &wrong)), ErrorKind::BadRequest);
        }
    }
}
