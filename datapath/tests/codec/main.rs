//! Every codec of the format against bytes that it did not write: random ones, rotten ones, and forged
//! ones whose CRC is right.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

mod samples;

use bedplate_datapath::format::checksum_page::{self, ChecksumPage};
use bedplate_datapath::format::directory::{DirectoryPage, TreeKind};
use bedplate_datapath::format::journal::JournalBatch;
use bedplate_datapath::format::map_page::MapPage;
use bedplate_datapath::format::object::ObjectSlot;
use bedplate_datapath::format::root::CheckpointRoot;
use bedplate_datapath::format::superblock::{Superblock, SuperblockCopy};
use bedplate_datapath::format::{DecodeError, DecodeErrorKind, Expect, PairCopy};
use bedplate_datapath::units::{Epoch, PAGE_BYTES, Page, Seq};
use proptest::prelude::*;

use samples::{AT, DISK, SLOT, STAMP, batch, geometry, object, root, superblock, well_formed};

type Reencode = fn(&[u8]) -> Result<Vec<u8>, DecodeError>;

fn page(bytes: &[u8]) -> &Page {
    bytes.try_into().unwrap()
}

fn expect() -> Expect {
    Expect::at(AT).on_disk(DISK)
}

/// What decodes these bytes and encodes them again, by structure.
const CODECS: [(&str, Reencode); 8] = [
    ("superblock", |bytes| {
        let at = geometry().superblock_offset(SuperblockCopy::Third);
        let superblock = Superblock::decode(page(bytes), &Expect::at(at))?;
        Ok(superblock.encode(SuperblockCopy::Third).to_vec())
    }),
    ("root", |bytes| {
        let geometry = geometry();
        let expect = Expect::at(geometry.root_offset(PairCopy::B))
            .on_disk(DISK)
            .with_index(1);
        let root = CheckpointRoot::decode(page(bytes), &expect, &geometry.journal())?;
        Ok(root.encode(DISK, PairCopy::B).to_vec())
    }),
    ("object", |bytes| {
        let slot = ObjectSlot::decode(page(bytes), &expect().with_index(0), SLOT)?;
        Ok(slot.encode(&STAMP, PairCopy::A).to_vec())
    }),
    ("map page", |bytes| {
        Ok(MapPage::decode(page(bytes), &expect())?
            .encode(&STAMP)
            .to_vec())
    }),
    ("map directory", |bytes| {
        let directory = DirectoryPage::decode(page(bytes), &expect(), TreeKind::Map)?;
        Ok(directory.encode(&STAMP).to_vec())
    }),
    ("checksum directory", |bytes| {
        let directory = DirectoryPage::decode(page(bytes), &expect(), TreeKind::Checksums)?;
        Ok(directory.encode(&STAMP).to_vec())
    }),
    ("checksum page", |bytes| {
        Ok(ChecksumPage::decode(page(bytes), &expect())?
            .encode(&STAMP)
            .to_vec())
    }),
    ("journal", |bytes| {
        let (batch, len_bytes) = JournalBatch::decode(bytes, &expect())?;
        let mut again = batch.encode(&STAMP).unwrap();
        assert_eq!(again.len(), len_bytes);
        again.extend_from_slice(&bytes[len_bytes..]);
        Ok(again)
    }),
];

/// Makes the CRC right again, as a bug, or an attacker, would.
fn reseal(bytes: &mut [u8]) {
    bytes[12..16].fill(0);
    let crc = crc32c::crc32c(bytes);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

/// One structure of each kind, always the same.
fn one_of_each() -> Vec<(usize, Vec<u8>)> {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut samples: Vec<Option<Vec<u8>>> = vec![None; CODECS.len()];
    while samples.iter().any(Option::is_none) {
        let (codec, bytes) = well_formed().new_tree(&mut runner).unwrap().current();
        samples[codec] = Some(bytes);
    }
    samples
        .into_iter()
        .map(Option::unwrap)
        .enumerate()
        .collect()
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same((codec, bytes) in well_formed()) {
        let (name, reencode) = CODECS[codec];
        let again = reencode(&bytes);
        prop_assert_eq!(again.as_ref(), Ok(&bytes), "{}", name);
    }

    #[test]
    fn decoded_values_equal_the_encoded_ones(
        superblock in superblock(), root in root(), slot in object(), batch in batch(),
    ) {
        let geometry = geometry();
        for copy in SuperblockCopy::ALL {
            let expect = Expect::at(geometry.superblock_offset(copy)).with_index(copy.number());
            prop_assert_eq!(Superblock::decode(&superblock.encode(copy), &expect), Ok(superblock.clone()));
        }
        for copy in PairCopy::BOTH {
            let expect = Expect::at(geometry.root_offset(copy)).with_index(copy.number());
            let page = root.encode(DISK, copy);
            prop_assert_eq!(CheckpointRoot::decode(&page, &expect, &geometry.journal()), Ok(root));
        }
        let page = slot.encode(&STAMP, PairCopy::A);
        prop_assert_eq!(ObjectSlot::decode(&page, &expect(), SLOT), Ok(slot));
        let bytes = batch.encode(&STAMP).unwrap();
        prop_assert_eq!(JournalBatch::decode(&bytes, &expect()), Ok((batch, bytes.len())));
    }

    #[test]
    fn random_bytes_are_rejected(bytes in proptest::collection::vec(any::<u8>(), PAGE_BYTES)) {
        for (name, reencode) in CODECS {
            prop_assert!(reencode(&bytes).is_err(), "{} took random bytes", name);
        }
    }

    /// With the header of a good page before them, and a right CRC, what is accepted is accepted whole.
    #[test]
    fn forged_bodies_never_panic_and_lose_nothing(
        (codec, mut bytes) in well_formed(),
        body in proptest::collection::vec(any::<u8>(), PAGE_BYTES - 64),
    ) {
        bytes[64..PAGE_BYTES].copy_from_slice(&body);
        reseal(&mut bytes);
        let (name, reencode) = CODECS[codec];
        if let Ok(again) = reencode(&bytes) {
            prop_assert!(again == bytes, "{} dropped something", name);
        }
    }

    /// A few bytes changed anywhere, the CRC made right again.
    #[test]
    fn forged_fields_never_panic_and_lose_nothing(
        (codec, mut bytes) in well_formed(),
        changes in proptest::collection::vec((0usize..4096, prop_oneof![0u8..4, any::<u8>()]), 1..6),
        near_start in any::<bool>(),
    ) {
        for (at, byte) in changes {
            let at = if near_start { at % 300 } else { at };
            bytes[at] = byte;
        }
        reseal(&mut bytes);
        let (name, reencode) = CODECS[codec];
        if let Ok(again) = reencode(&bytes) {
            prop_assert!(again == bytes, "{} dropped something", name);
        }
    }
}

#[test]
fn every_single_flipped_bit_is_found() {
    for (codec, good) in one_of_each() {
        let (name, reencode) = CODECS[codec];
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(
                reencode(&bytes).is_err(),
                "{name}: bit {bit} flipped unnoticed"
            );
        }
    }
}

#[test]
fn every_torn_write_over_another_page_is_found() {
    for (codec, good) in one_of_each() {
        let (name, reencode) = CODECS[codec];
        let sectors = good.len() / 512;
        for landed in 1..(1u32 << sectors.min(8)) - 1 {
            for old in [0u8, 0xa5] {
                let mut bytes = vec![old; good.len()];
                for sector in (0..sectors).filter(|sector| landed >> (sector % 8) & 1 == 1) {
                    bytes[sector * 512..][..512].copy_from_slice(&good[sector * 512..][..512]);
                }
                if bytes != good {
                    assert!(
                        reencode(&bytes).is_err(),
                        "{name}: sectors {landed:#b} over {old:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_page_is_not_taken_for_another_structure() {
    for (codec, bytes) in one_of_each() {
        for (other, (name, reencode)) in CODECS.into_iter().enumerate() {
            if other != codec {
                assert!(
                    reencode(&bytes).is_err(),
                    "{name} took a {}",
                    CODECS[codec].0
                );
            }
        }
    }
}

#[test]
fn faults_are_told_apart() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(DecodeErrorKind, Damage); 7] = [
        (DecodeErrorKind::Blank, |bytes| bytes.fill(0)),
        (DecodeErrorKind::NotOurs, |bytes| bytes.fill(0x55)),
        (DecodeErrorKind::Bad, |bytes| bytes[200] ^= 0xff),
        (DecodeErrorKind::UnknownVersion, |bytes| bytes[8] = 2),
        (DecodeErrorKind::NotOurs, |bytes| bytes[16] ^= 1),
        (DecodeErrorKind::Misdirected, |bytes| bytes[40 + 3] ^= 1),
        (DecodeErrorKind::Illegal, |bytes| bytes[60] = 1),
    ];
    for (codec, good) in one_of_each() {
        let (name, reencode) = CODECS[codec];
        for (at, (kind, damage)) in cases.into_iter().enumerate() {
            let superblock_of_whatever_disk = codec == 0 && at == 4;
            if superblock_of_whatever_disk {
                continue;
            }
            let mut bytes = good.clone();
            damage(&mut bytes);
            if at > 2 {
                reseal(&mut bytes);
            }
            let error = reencode(&bytes).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
        }
    }
}

#[test]
fn a_page_of_a_former_owner_is_not_ours() {
    let page = ChecksumPage {
        slot: SLOT,
        epoch: Epoch::new(3),
        index: 0,
        crcs: [1; checksum_page::CRCS],
    };
    let bytes = page.encode(&STAMP);
    let same = expect().owned_by(SLOT, Epoch::new(3));
    assert_eq!(ChecksumPage::decode(&bytes, &same), Ok(page));
    let next = expect().owned_by(SLOT, Epoch::new(4));
    let error = ChecksumPage::decode(&bytes, &next).unwrap_err();
    assert_eq!(error.kind(), DecodeErrorKind::NotOurs);
    assert!(
        error.to_string().contains("epoch 4, found slot 7 epoch 3"),
        "{error}"
    );
}

#[test]
fn reserved_bytes_must_be_zero() {
    let reserved: [(usize, &[usize]); 5] = [
        (0, &[164, 1016, 4095]),
        (1, &[88, 4095]),
        (2, &[148, 252, 904, 1023, 1800, 4095]),
        (6, &[64, 127]),
        (7, &[76, 95]),
    ];
    let samples = one_of_each();
    for (codec, offsets) in reserved {
        for &at in offsets {
            let mut bytes = samples[codec].1.clone();
            bytes[at] = 1;
            reseal(&mut bytes);
            let (name, reencode) = CODECS[codec];
            let error = reencode(&bytes).unwrap_err();
            assert_eq!(
                error.kind(),
                DecodeErrorKind::Illegal,
                "{name} byte {at}: {error}"
            );
        }
    }
}

#[test]
fn illegal_entries_are_named() {
    let samples = one_of_each();
    let mut bytes = samples[3].1.clone();
    bytes[64 + 8 * 5 + 3] |= 0x80;
    reseal(&mut bytes);
    let error = CODECS[3].1(&bytes).unwrap_err();
    assert!(
        error.to_string().contains("illegal entries at byte 104"),
        "{error}"
    );
    assert!(error.to_string().contains("18358272"), "{error}");

    // A written page without a cluster.
    let mut bytes = samples[4].1.clone();
    bytes[64..72].copy_from_slice(&(1u64 << 32).to_le_bytes());
    reseal(&mut bytes);
    assert_eq!(
        CODECS[4].1(&bytes).unwrap_err().kind(),
        DecodeErrorKind::Illegal
    );
}

#[test]
fn a_batch_may_not_claim_more_than_the_ring_holds() {
    let batch = JournalBatch {
        seq: Seq::new(1),
        session: 1,
        records: Vec::new(),
    };
    let good = batch.encode(&STAMP).unwrap();
    for claimed in [0u32, 512, 4095, 8192, 1 << 21, u32::MAX] {
        let mut bytes = good.clone();
        bytes[72..76].copy_from_slice(&claimed.to_le_bytes());
        reseal(&mut bytes);
        let error = JournalBatch::decode(&bytes, &expect()).unwrap_err();
        assert_eq!(error.kind(), DecodeErrorKind::Bad, "{claimed}: {error}");
    }
    for short in [0, 1, 63, 100, 4095] {
        assert!(JournalBatch::decode(&good[..short], &expect()).is_err());
    }
}
