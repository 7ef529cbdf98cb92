//! Holds `docs/on-disk-format.md` against the code, in both directions: every field of every table, the
//! magics, and the numbers of the zone table.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use std::collections::BTreeMap;

use bedplate_datapath::format::checksum_page::{self, RawChecksumPage};
use bedplate_datapath::format::directory::{self, RawDirectoryPage};
use bedplate_datapath::format::geometry::{self, Geometry};
use bedplate_datapath::format::header::RawPageHeader;
use bedplate_datapath::format::journal::{self, RawJournalBatch, RawJournalRecord};
use bedplate_datapath::format::map_page::{self, RawMapPage};
use bedplate_datapath::format::object::{self, RawObjectSlot};
use bedplate_datapath::format::root::{self, RawCheckpointRoot};
use bedplate_datapath::format::superblock::{self, RawPeer, RawSuperblock, SuperblockCopy};
use bedplate_datapath::format::{Field, PairCopy, tree};
use bedplate_datapath::units::{
    BLOCK_BYTES, BLOCKS_PER_CLUSTER, ByteOffset, CLUSTER_BYTES, PAGE_BYTES, Pcn, SlotIndex,
};

/// A field as the document has it.
#[derive(Debug, PartialEq, Eq)]
struct DocField {
    name: String,
    offset: usize,
    bytes: usize,
}

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/on-disk-format.md");
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn cells(line: &str) -> Vec<&str> {
    line.trim()
        .trim_matches('|')
        .split('|')
        .map(str::trim)
        .collect()
}

/// The field table of each `### Name`.
fn tables(document: &str) -> BTreeMap<String, Vec<DocField>> {
    let mut tables = BTreeMap::new();
    for section in document.split("\n### ").skip(1) {
        let section = section.split("\n## ").next().unwrap();
        let mut lines = section.lines();
        let name = lines.next().unwrap().trim().to_owned();
        let mut lines = lines.skip_while(|line| !line.starts_with("| offset |"));
        let header = lines
            .next()
            .unwrap_or_else(|| panic!("### {name} has no table of fields"));
        assert_eq!(
            cells(header),
            ["offset", "bytes", "field", "meaning"],
            "### {name}"
        );
        let fields = lines
            .skip(1)
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let [offset, bytes, field, meaning] = cells(line)[..] else {
                    panic!("### {name}: four cells wanted: {line}")
                };
                assert!(!meaning.is_empty(), "### {name}: {field} has no meaning");
                let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("{name}: {line}"));
                DocField {
                    name: field.to_owned(),
                    offset: number(offset),
                    bytes: number(bytes),
                }
            });
        let former = tables.insert(name.clone(), fields.collect());
        assert!(former.is_none(), "### {name} stands there twice");
    }
    tables
}

/// Every number of a text, in order; `16 MiB` counts as one.
fn numbers(text: &str) -> Vec<u64> {
    let spaced: String = text
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { ' ' })
        .collect();
    let mut numbers: Vec<u64> = Vec::new();
    let mut after_number = false;
    for word in spaced.split_whitespace() {
        let unit = match word {
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => 0,
        };
        if let Ok(number) = word.parse() {
            numbers.push(number);
            after_number = true;
        } else {
            if let Some(last) = numbers.last_mut().filter(|_| after_number) {
                *last <<= unit;
            }
            after_number = false;
        }
    }
    numbers
}

const STRUCTURES: [(&str, &[Field], usize); 10] = [
    ("Peer", RawPeer::FIELDS, size_of::<RawPeer>()),
    (
        "PageHeader",
        RawPageHeader::FIELDS,
        size_of::<RawPageHeader>(),
    ),
    (
        "Superblock",
        RawSuperblock::FIELDS,
        size_of::<RawSuperblock>(),
    ),
    (
        "CheckpointRoot",
        RawCheckpointRoot::FIELDS,
        size_of::<RawCheckpointRoot>(),
    ),
    (
        "ObjectSlot",
        RawObjectSlot::FIELDS,
        size_of::<RawObjectSlot>(),
    ),
    ("MapPage", RawMapPage::FIELDS, size_of::<RawMapPage>()),
    (
        "DirectoryPage",
        RawDirectoryPage::FIELDS,
        size_of::<RawDirectoryPage>(),
    ),
    (
        "ChecksumPage",
        RawChecksumPage::FIELDS,
        size_of::<RawChecksumPage>(),
    ),
    (
        "JournalBatch",
        RawJournalBatch::FIELDS,
        size_of::<RawJournalBatch>(),
    ),
    (
        "JournalRecord",
        RawJournalRecord::FIELDS,
        size_of::<RawJournalRecord>(),
    ),
];

#[test]
fn every_table_agrees_with_its_struct_field_by_field() {
    let mut tables = tables(&document());
    for (name, fields, _) in STRUCTURES {
        let table = tables
            .remove(name)
            .unwrap_or_else(|| panic!("the document has no ### {name}"));
        let code: Vec<DocField> = fields
            .iter()
            .map(|field| DocField {
                name: field.name.to_owned(),
                offset: field.offset,
                bytes: field.bytes,
            })
            .collect();
        for (in_document, in_code) in table.iter().zip(&code) {
            assert_eq!(
                in_document, in_code,
                "### {name}: document left, code right"
            );
        }
        assert_eq!(
            table.len(),
            code.len(),
            "### {name}: one of the two has more fields"
        );
    }
    assert!(
        tables.is_empty(),
        "tables without a struct: {:?}",
        tables.keys()
    );
}

#[test]
fn fields_cover_their_structure_without_a_gap() {
    for (name, fields, size) in STRUCTURES {
        let mut end = 0;
        for field in fields {
            assert_eq!(field.offset, end, "{name}.{}", field.name);
            end += field.bytes;
        }
        assert_eq!(end, size, "{name}");
        let page_or_part = matches!(
            name,
            "PageHeader" | "Peer" | "JournalBatch" | "JournalRecord"
        );
        assert!(page_or_part || size == PAGE_BYTES, "{name} is a page");
    }
}

#[test]
fn magics_agree_in_the_order_of_the_document() {
    let text = document().split_whitespace().collect::<Vec<_>>().join(" ");
    let in_document: Vec<String> = text
        .split("Magic `")
        .skip(1)
        .map(|rest| rest.split('`').next().unwrap().replace("\\0", "\0"))
        .collect();
    let in_code = [
        superblock::MAGIC,
        root::MAGIC,
        object::MAGIC,
        map_page::MAGIC,
        directory::MAGIC,
        checksum_page::MAGIC,
        journal::MAGIC,
    ];
    assert_eq!(in_document.len(), in_code.len());
    for (in_document, in_code) in in_document.iter().zip(in_code) {
        assert_eq!(in_document.as_bytes(), in_code);
    }
}

#[test]
fn the_zone_table_gives_the_numbers_of_the_code() {
    let document = document();
    let section = document
        .split("\n## Zones\n")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let rows: Vec<(&str, Vec<u64>, Vec<u64>)> = section
        .lines()
        .filter(|line| line.starts_with('|'))
        .skip(2)
        .map(|line| {
            let row = cells(line);
            (row[0], numbers(row[1]), numbers(row[2]))
        })
        .collect();
    let page = PAGE_BYTES as u64;
    let expected: [(&str, Vec<u64>, Vec<u64>); 7] = [
        ("boot block", vec![0], vec![page]),
        (
            "superblock copies 0, 1, 2",
            geometry::SUPERBLOCK_OFFSETS.to_vec(),
            vec![page],
        ),
        (
            "checkpoint roots A, B",
            geometry::ROOT_OFFSETS.to_vec(),
            vec![page],
        ),
        (
            "object table",
            vec![geometry::TABLE_OFFSET],
            vec![geometry::SLOT_BYTES, 0, 1],
        ),
        (
            "journal",
            vec![],
            vec![
                geometry::JOURNAL_DIVISOR,
                geometry::JOURNAL_BYTES_MIN,
                geometry::JOURNAL_BYTES_MAX,
            ],
        ),
        ("clusters", vec![], vec![3]),
        ("superblock copy 3", vec![CLUSTER_BYTES], vec![page]),
    ];
    assert_eq!(rows, expected);

    let slots = section.split("Slots: ").nth(1).unwrap();
    // "one for each 16 MiB of disk, at least 64, at most 8192. A disk has at least 64 MiB and at most 256 TiB."
    assert_eq!(
        numbers(slots),
        [
            geometry::DISK_BYTES_PER_SLOT,
            geometry::SLOTS_MIN,
            geometry::SLOTS_MAX,
            geometry::DISK_BYTES_MIN,
            geometry::DISK_BYTES_MAX,
        ]
    );
}

#[test]
fn the_layout_of_a_disk_is_what_the_zone_table_says_in_words() {
    const MIB: u64 = 1 << 20;
    for len_bytes in [
        64 * MIB,
        256 * MIB,
        100 << 30,
        100 << 40,
        256 << 40,
        70 * MIB + 12_345,
    ] {
        let geometry = Geometry::of_disk(len_bytes).unwrap();
        let rounded = len_bytes / 131_072 * 131_072;
        let slots = (rounded / (16 * MIB)).clamp(64, 8192);
        let table_end = 1_048_576 + slots * 8192;
        let journal = table_end.div_ceil(131_072) * 131_072;
        let journal_bytes = (rounded / 1024).clamp(16 * MIB, 256 * MIB) / 131_072 * 131_072;
        let last = rounded - 131_072;
        assert_eq!(u64::from(geometry.slots()), slots);
        assert_eq!(geometry.journal().offset, ByteOffset::new(journal));
        assert_eq!(geometry.journal().len_bytes, journal_bytes);
        assert_eq!(
            geometry.first_pcn().offset(),
            ByteOffset::new(journal + journal_bytes)
        );
        assert_eq!(geometry.end_pcn().offset(), ByteOffset::new(last));
        assert_eq!(
            geometry.superblock_offset(SuperblockCopy::Last),
            ByteOffset::new(last)
        );
        let slot_2b = geometry.slot_offset(SlotIndex::new(2), PairCopy::B);
        assert_eq!(slot_2b, ByteOffset::new(1_048_576 + 2 * 8192 + 4096));
    }
}

#[test]
fn units_and_tree_numbers_agree() {
    let document = document();
    let after = |text: &str| {
        let rest = document
            .split(text)
            .nth(1)
            .unwrap_or_else(|| panic!("no {text:?} in the document"));
        numbers(rest.split('\n').next().unwrap())
    };
    let units = document
        .split("Units: ")
        .nth(1)
        .unwrap()
        .split(". A `pcn`")
        .next()
        .unwrap();
    assert_eq!(
        numbers(units),
        [BLOCK_BYTES, CLUSTER_BYTES, PAGE_BYTES as u64]
    );
    assert_eq!(
        after("A cluster of a tree holds ")[0],
        u64::from(tree::PAIRS_PER_CLUSTER)
    );
    assert_eq!(
        after("Leaf page `p` lies in pair `p % ")[0],
        u64::from(tree::PAIRS_PER_CLUSTER)
    );
    assert_eq!(
        after("Directory entry `e` is entry `e % ")[0],
        u64::from(tree::ENTRIES_PER_PAGE)
    );
    assert_eq!(
        after("Directory page `d` lies in pair `d % ")[0],
        u64::from(tree::PAIRS_PER_CLUSTER)
    );
    assert_eq!(
        after("`index` is the leaf's number. Covers ")[..2],
        [tree::CLUSTERS_PER_CHECKSUM_PAGE, BLOCKS_PER_CLUSTER].map(u64::from)
    );
    assert_eq!(
        numbers(document.split("The map reaches ").nth(1).unwrap())[..3],
        [496 << 40, object::OBJECT_BYTES_MAX, object::IMAGE_BYTES_MAX]
    );
    let reach = u64::from(tree::LEAVES_MAX) * u64::from(tree::ENTRIES_PER_PAGE) * CLUSTER_BYTES;
    assert_eq!(reach >> 40, 496);
    assert_eq!(
        after("each a multiple of ")[..2],
        [BLOCK_BYTES, journal::BATCH_BYTES_MAX as u64]
    );
}

#[test]
fn entries_have_the_bits_of_the_document() {
    use bedplate_datapath::format::directory::DirectoryEntry;
    use bedplate_datapath::map::MapEntry;
    use bedplate_datapath::units::BlockMask;
    // "bits 0 to 30 the pcn, bit 31 dirty, bits 32 to 63 the mask, bit 32 + i for block i"
    let entry = MapEntry::new(Pcn::MAX, BlockMask::new(1 << 9));
    assert_eq!(entry.bits(), 0x7fff_ffff | 1 << (32 + 9));
    assert_eq!(entry.with_dirty(true).bits(), entry.bits() | 1 << 31);
    // "bits 0 to 30 the pcn, bit 31 zero, bits 32 to 47 which pages were written, the rest zero"
    assert_eq!(
        DirectoryEntry::new(Pcn::MAX, 1 << 15).bits(),
        0x7fff_ffff | 1 << 47
    );
    for bit in [31, 48, 63] {
        assert_eq!(DirectoryEntry::try_from_bits(1 | 1 << bit), None);
    }
}
