//! The log of the kernel's dm-log-writes target (drivers/md/dm-log-writes.c), and its replay.
//!
//! Little-endian. A super sector: magic, version, number of entries, sector size. Then the entries, one after the other: a sector with
//! place, length and flags, followed by the data; a discard has none, and a mark's name stands in its own sector. Writes are
//! in it in the order in which they were flushed, so that every flush is a state that the disk may be in after a power cut.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1 << 0;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;
const MARK: u64 = 1 << 3;
/// Place and length of an entry, sector size aside, are counted in sectors of the log's size.
const ENTRY_WORDS: usize = 4;
/// Copied at a time.
const COPY_BYTES: u64 = 1 << 20;

/// One write, flush, discard or mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where on the disk.
    pub at_bytes: u64,
    /// How much.
    pub len_bytes: u64,
    /// Where in the log the data is.
    pub data_at_bytes: u64,
    /// Everything before it, and it itself if it is FUA, is durable.
    pub is_flush: bool,
    /// The range is discarded.
    pub is_discard: bool,
    /// The name of a mark.
    pub mark: Option<String>,
}

/// Reads the log's entries, not their data.
///
/// # Errors
/// Those of the file; `InvalidData` if it is no such log.
pub fn entries(log: &File) -> io::Result<Vec<Entry>> {
    let mut head = [0; 28];
    log.read_exact_at(&mut head, 0)?;
    let word = |bytes: &[u8], number: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[number * 8..number * 8 + 8]);
        u64::from_le_bytes(eight)
    };
    let mut four = [0; 4];
    four.copy_from_slice(&head[24..28]);
    let sector_bytes = u64::from(u32::from_le_bytes(four));
    if word(&head, 0) != MAGIC || word(&head, 1) != VERSION || sector_bytes < 512 {
        return Err(invalid("not a log of dm-log-writes"));
    }
    let mut found = Vec::new();
    let mut at_bytes = sector_bytes;
    for _ in 0..word(&head, 2) {
        let mut sector = vec![0; usize::try_from(sector_bytes).map_err(io::Error::other)?];
        log.read_exact_at(&mut sector, at_bytes)?;
        let flags = word(&sector, 2);
        let len_bytes = word(&sector, 1) * sector_bytes;
        let mark = if flags & MARK == 0 {
            None
        } else {
            let len = usize::try_from(word(&sector, 3)).map_err(io::Error::other)?;
            let name = sector
                .get(ENTRY_WORDS * 8..ENTRY_WORDS * 8 + len)
                .ok_or_else(|| invalid("a mark that does not fit into its sector"))?;
            Some(
                String::from_utf8_lossy(name)
                    .trim_end_matches('\0')
                    .to_owned(),
            )
        };
        let is_discard = flags & DISCARD != 0;
        found.push(Entry {
            at_bytes: word(&sector, 0) * sector_bytes,
            len_bytes,
            data_at_bytes: at_bytes + sector_bytes,
            is_flush: flags & (FLUSH | FUA) != 0,
            is_discard,
            mark,
        });
        at_bytes += sector_bytes + if is_discard { 0 } else { len_bytes };
    }
    Ok(found)
}

/// Carries `entries` out on `disk`. Discarded ranges become zeros.
///
/// # Errors
/// Those of the files.
pub fn replay(log: &File, entries: &[Entry], disk: &File) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(COPY_BYTES).map_err(io::Error::other)?];
    for entry in entries {
        let mut done = 0;
        while done < entry.len_bytes {
            let len = COPY_BYTES.min(entry.len_bytes - done);
            let bytes = &mut buffer[..usize::try_from(len).map_err(io::Error::other)?];
            if entry.is_discard {
                bytes.fill(0);
            } else {
                log.read_exact_at(bytes, entry.data_at_bytes + done)?;
            }
            disk.write_all_at(bytes, entry.at_bytes + done)?;
            done += len;
        }
    }
    Ok(())
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sector(words: [u64; 4], inline: &[u8]) -> Vec<u8> {
        let mut bytes = words.map(u64::to_le_bytes).concat();
        bytes.extend(inline);
        bytes.resize(512, 0);
        bytes
    }

    fn a_log() -> File {
        let mut bytes = [MAGIC, VERSION, 5].map(u64::to_le_bytes).concat();
        bytes.extend(512_u32.to_le_bytes());
        bytes.resize(512, 0);
        bytes.extend(sector([8, 2, 0, 0], &[]));
        bytes.extend([1; 1024]);
        bytes.extend(sector([0, 0, FLUSH, 0], &[]));
        bytes.extend(sector([0, 0, MARK, 5], b"first"));
        bytes.extend(sector([9, 1, DISCARD, 0], &[]));
        bytes.extend(sector([0, 1, FUA, 0], &[]));
        bytes.extend([2; 512]);
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    #[test]
    fn flushes_marks_and_discards_are_told_apart() {
        let found = entries(&a_log()).unwrap();
        assert_eq!(found.len(), 5);
        assert_eq!((found[0].at_bytes, found[0].len_bytes), (4096, 1024));
        assert!(found[1].is_flush && found[4].is_flush && !found[0].is_flush);
        assert_eq!(found[2].mark.as_deref(), Some("first"));
        assert!(found[3].is_discard);
    }

    #[test]
    fn a_replay_gives_the_disk_as_it_was_at_that_entry() {
        let log = a_log();
        let found = entries(&log).unwrap();
        let disk = tempfile::tempfile().unwrap();
        disk.set_len(8192).unwrap();
        replay(&log, &found[..3], &disk).unwrap();
        let mut bytes = vec![0; 8192];
        disk.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(
            (bytes[0], bytes[4096], bytes[5119], bytes[5120]),
            (0, 1, 1, 0)
        );
        replay(&log, &found[3..], &disk).unwrap();
        disk.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!((bytes[0], bytes[4096], bytes[4608]), (2, 1, 0));
    }

    #[test]
    fn anything_else_is_no_log() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 4096], 0).unwrap();
        assert_eq!(
            entries(&file).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }
}
