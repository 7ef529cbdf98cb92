//! What a source looks like by its first bytes. Only raw images are imported; this says when it is none.
//!
//! Pure: bytes in, answer out. A match is a guess that `--format raw` overrules.

use crate::api::ApiError;
use crate::error_kind::ErrorKind;

/// So many first bytes are enough for [`looks_like`]; fewer may be given when the source has no more.
pub const PROBE_BYTES: usize = 512;

/// A format that is not raw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceFormat {
    /// As people call it.
    pub name: &'static str,
    way: Way,
}

/// How to get a raw image out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `qemu-img convert -f FORMAT -O raw`.
    QemuImg(&'static str),
    /// A program that writes the content to its standard output.
    Unpack(&'static str),
    /// A container of files.
    Extract(&'static str),
}

/// Offset, bytes expected there, format.
const MAGICS: &[(usize, &[u8], SourceFormat)] = &[
    (
        0,
        b"QFI\xfb",
        SourceFormat {
            name: "qcow2",
            way: Way::QemuImg("qcow2"),
        },
    ),
    (
        0,
        b"QED\0",
        SourceFormat {
            name: "QED",
            way: Way::QemuImg("qed"),
        },
    ),
    (
        0,
        b"KDMV",
        SourceFormat {
            name: "VMDK",
            way: Way::QemuImg("vmdk"),
        },
    ),
    (
        0,
        b"COWD",
        SourceFormat {
            name: "VMDK",
            way: Way::QemuImg("vmdk"),
        },
    ),
    (
        0,
        b"# Disk DescriptorFile",
        SourceFormat {
            name: "VMDK",
            way: Way::QemuImg("vmdk"),
        },
    ),
    (
        0,
        b"vhdxfile",
        SourceFormat {
            name: "VHDX",
            way: Way::QemuImg("vhdx"),
        },
    ),
    (
        0,
        b"conectix",
        SourceFormat {
            name: "VHD",
            way: Way::QemuImg("vpc"),
        },
    ),
    (
        0,
        b"WithoutFreeSpace",
        SourceFormat {
            name: "Parallels",
            way: Way::QemuImg("parallels"),
        },
    ),
    (
        0,
        b"WithouFreSpacExt",
        SourceFormat {
            name: "Parallels",
            way: Way::QemuImg("parallels"),
        },
    ),
    (
        0x40,
        b"\x7f\x10\xda\xbe",
        SourceFormat {
            name: "VDI",
            way: Way::QemuImg("vdi"),
        },
    ),
    (
        0,
        b"\x1f\x8b",
        SourceFormat {
            name: "gzip",
            way: Way::Unpack("gzip -dc"),
        },
    ),
    (
        0,
        b"\xfd7zXZ\0",
        SourceFormat {
            name: "xz",
            way: Way::Unpack("xz -dc"),
        },
    ),
    (
        0,
        b"\x28\xb5\x2f\xfd",
        SourceFormat {
            name: "zstd",
            way: Way::Unpack("zstd -dc"),
        },
    ),
    (
        0,
        b"\x04\x22\x4d\x18",
        SourceFormat {
            name: "lz4",
            way: Way::Unpack("lz4 -dc"),
        },
    ),
    (
        0,
        b"BZh",
        SourceFormat {
            name: "bzip2",
            way: Way::Unpack("bzip2 -dc"),
        },
    ),
    (
        0,
        b"PK\x03\x04",
        SourceFormat {
            name: "zip",
            way: Way::Unpack("unzip -p"),
        },
    ),
    (
        0,
        b"7z\xbc\xaf\x27\x1c",
        SourceFormat {
            name: "7z",
            way: Way::Unpack("7z x -so"),
        },
    ),
    (
        257,
        b"ustar",
        SourceFormat {
            name: "tar or OVA",
            way: Way::Extract("tar -xf"),
        },
    ),
];

/// The format that these first bytes belong to, or `None` where they look like a raw image.
pub fn looks_like(first_bytes: &[u8]) -> Option<SourceFormat> {
    MAGICS
        .iter()
        .find(|(at, magic, _)| {
            first_bytes
                .get(*at..)
                .is_some_and(|rest| rest.starts_with(magic))
        })
        .map(|&(_, _, format)| format)
}

impl SourceFormat {
    /// The refusal of such a source under `--format auto`. `source` is a path, or `-` for a stream.
    pub fn refusal(self, image: &str, source: &str) -> ApiError {
        let (file, shown) = if source == "-" {
            ("FILE", "standard input")
        } else {
            (source, source)
        };
        let way = match self.way {
            Way::QemuImg(format) => {
                format!(
                    "qemu-img convert -f {format} -O raw {file} {image}.raw, then import {image}.raw"
                )
            }
            Way::Unpack(program) => format!("{program} {file} | bedplate image import {image} -"),
            Way::Extract(program) => format!("{program} {file}, then import the disk image in it"),
        };
        ApiError::new(
            ErrorKind::SourceFormat,
            format!(
                "{shown} looks like {}, and only raw images are imported",
                self.name
            ),
        )
        .object(image)
        .remedy(format!(
            "{way}; or --format raw to take its bytes as they are"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: usize, magic: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; PROBE_BYTES];
        bytes[offset..offset + magic.len()].copy_from_slice(magic);
        bytes
    }

    #[test]
    fn every_magic_is_found_within_the_probe() {
        for (offset, magic, format) in MAGICS {
            assert!(offset + magic.len() <= PROBE_BYTES);
            assert_eq!(
                looks_like(&at(*offset, magic)),
                Some(*format),
                "{}",
                format.name
            );
        }
    }

    #[test]
    fn raw_images_are_let_through() {
        let mbr = at(510, b"\x55\xaa");
        let iso = vec![0; PROBE_BYTES];
        let luks = at(0, b"LUKS\xba\xbe");
        for bytes in [&mbr[..], &iso, &luks, b"", b"Q", b"a short text file\n"] {
            assert_eq!(looks_like(bytes), None);
        }
    }

    #[test]
    fn a_refused_qcow2_is_told_how_to_convert() {
        let format = looks_like(b"QFI\xfb\0\0\0\x03").expect("qcow2");
        let error = format.refusal("debian", "/srv/debian.qcow2");
        assert_eq!(error.kind, ErrorKind::SourceFormat);
        assert_eq!(
            error.message,
            "/srv/debian.qcow2 looks like qcow2, and only raw images are imported"
        );
        let remedy = error.remedy.expect("remedy");
        assert!(
            remedy.starts_with("qemu-img convert -f qcow2 -O raw /srv/debian.qcow2 debian.raw"),
            "{remedy}"
        );
        assert!(remedy.contains("--format raw"), "{remedy}");
    }

    #[test]
    fn a_refused_compressed_stream_is_told_the_pipe() {
        let error = looks_like(b"\x1f\x8b\x08")
            .expect("gzip")
            .refusal("debian", "-");
        assert!(
            error.message.starts_with("standard input looks like gzip"),
            "{}",
            error.message
        );
        let remedy = error.remedy.expect("remedy");
        assert!(
            remedy.starts_with("gzip -dc FILE | bedplate image import debian -"),
            "{remedy}"
        );
    }
}
