//! Which of several copies is believed: four superblocks, and the A/B pairs.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail as tests do")]

use bedplate_datapath::format::geometry::Geometry;
use bedplate_datapath::format::pair::{self, PairChoice, Versioned};
use bedplate_datapath::format::peers::Peers;
use bedplate_datapath::format::superblock::{self, ChoiceError, Superblock, SuperblockCopy};
use bedplate_datapath::format::{DecodeError, DecodeErrorKind, Expect, Fault, PairCopy};
use bedplate_datapath::units::{ByteOffset, Page, Seq};
use proptest::prelude::*;
use uuid::Uuid;

fn state(disk: u128, generation: u64) -> Superblock {
    Superblock {
        disk_uuid: Uuid::from_u128(disk),
        generation: Seq::new(generation),
        clean: false,
        incompat: 0,
        ro_compat: 0,
        compat: 0,
        hardware_id_hash: [0; 32],
        geometry: Geometry::of_disk(64 << 20).unwrap(),
        session: generation,
        boot_id: Uuid::nil(),
        created_unix_s: 0,
        owner_node_hash: [0; 32],
        peers: Peers::default(),
    }
}

fn fault(fault: Fault) -> DecodeError {
    DecodeError {
        structure: "test",
        at: ByteOffset::new(0),
        fault,
    }
}

fn rotten() -> DecodeError {
    fault(Fault::BadChecksum {
        expected: 1,
        actual: 2,
    })
}

fn decode(page: &Page, copy: SuperblockCopy) -> Result<Superblock, DecodeError> {
    let at = state(1, 1).geometry.superblock_offset(copy);
    Superblock::decode(page, &Expect::at(at).with_index(copy.number()))
}

/// The first superblock copy with `value` at `at`, its CRC right.
fn forged(at: usize, value: u8) -> Result<Superblock, DecodeError> {
    let mut page = state(1, 5).encode(SuperblockCopy::First);
    page[at] = value;
    page[12..16].fill(0);
    let crc = crc32c::crc32c(&page);
    page[12..16].copy_from_slice(&crc.to_le_bytes());
    decode(&page, SuperblockCopy::First)
}

#[test]
fn three_lost_copies_are_a_lost_superblock() {
    let copies = [Err(rotten()), Ok(state(1, 5)), Err(rotten()), Err(rotten())];
    let Err(ChoiceError::Lost {
        good_copies,
        faults,
    }) = superblock::choose(copies)
    else {
        panic!("one copy is no quorum")
    };
    assert_eq!(
        (good_copies, faults.len()),
        (vec![SuperblockCopy::Second], 3)
    );
}

#[test]
fn a_change_that_reached_one_copy_only_is_undone_but_its_generation_is_not_used_again() {
    let copies = [
        Ok(state(1, 6)),
        Ok(state(1, 5)),
        Ok(state(1, 5)),
        Ok(state(1, 5)),
    ];
    let choice = superblock::choose(copies).unwrap();
    assert_eq!(choice.winner, state(1, 5));
    assert_eq!(choice.max_generation_seen, Seq::new(6));
    assert_eq!(choice.bad_copies, [SuperblockCopy::First]);
}

#[test]
fn a_blank_or_foreign_disk_is_not_a_bedplate_disk() {
    let blank = || Err(fault(Fault::Blank));
    let foreign = || {
        Err(fault(Fault::ForeignMagic {
            expected: *b"BPSUPER\0",
            found: [1; 8],
        }))
    };
    let choice = superblock::choose([blank(), foreign(), blank(), blank()]);
    assert!(matches!(choice, Err(ChoiceError::NotBedplate(_))));
    // One torn copy: a format that was cut short, or a lost disk. Not for us to overwrite unasked.
    let choice = superblock::choose([blank(), Err(rotten()), blank(), blank()]);
    assert!(matches!(choice, Err(ChoiceError::Lost { .. })));
}

#[test]
fn another_format_version_is_recognised_even_in_a_single_copy() {
    let unknown = forged(64, 2);
    assert_eq!(
        unknown.as_ref().unwrap_err().kind(),
        DecodeErrorKind::UnknownVersion
    );
    let copies = [unknown, Ok(state(1, 5)), Ok(state(1, 5)), Ok(state(1, 5))];
    assert!(matches!(
        superblock::choose(copies),
        Err(ChoiceError::Unknown(_))
    ));
}

#[test]
fn another_version_is_recognised_whatever_its_other_bytes_mean_there() {
    let mut page = state(1, 5).encode(SuperblockCopy::First);
    page[64] = 9;
    page[128..].fill(0x77);
    page[12..16].fill(0);
    let crc = crc32c::crc32c(&page);
    page[12..16].copy_from_slice(&crc.to_le_bytes());
    let error = decode(&page, SuperblockCopy::First).unwrap_err();
    assert_eq!(error.kind(), DecodeErrorKind::UnknownVersion);
    assert!(
        error
            .to_string()
            .contains("format_version is 9, this program knows 1"),
        "{error}"
    );
}

#[test]
fn unknown_features_refuse_restrict_or_are_kept() {
    assert_eq!(
        forged(72, 4).unwrap_err().kind(),
        DecodeErrorKind::UnknownFeature
    );
    // Bit 0 says that there are volumes, bit 1 that other disks are named.
    assert_eq!(forged(72, 1).unwrap().incompat, 1);
    assert_eq!(forged(72, 3).unwrap().incompat, 3);
    let restricted = forged(80, 1).unwrap();
    assert!(restricted.must_be_read_only() && restricted.ro_compat == 1);
    let kept = forged(88, 1).unwrap();
    assert!(!kept.must_be_read_only() && kept.compat == 1);
}

#[test]
fn copies_of_two_disks_are_refused() {
    let copies = [
        Ok(state(1, 5)),
        Ok(state(1, 5)),
        Ok(state(2, 9)),
        Ok(state(2, 9)),
    ];
    assert!(matches!(
        superblock::choose(copies),
        Err(ChoiceError::Conflict { .. })
    ));
    let other = Superblock {
        clean: true,
        ..state(1, 5)
    };
    let copies = [
        Ok(state(1, 5)),
        Ok(state(1, 5)),
        Ok(other.clone()),
        Ok(other),
    ];
    assert!(matches!(
        superblock::choose(copies),
        Err(ChoiceError::Conflict { .. })
    ));
}

#[test]
fn a_copy_in_the_place_of_another_one_is_misdirected() {
    let page = state(1, 5).encode(SuperblockCopy::Second);
    let error = decode(&page, SuperblockCopy::Third).unwrap_err();
    assert_eq!(error.kind(), DecodeErrorKind::Misdirected);
}

#[derive(Clone, Debug, PartialEq)]
struct Note(u64, &'static str);

impl Versioned for Note {
    fn seq(&self) -> Seq {
        Seq::new(self.0)
    }
}

#[test]
fn the_newer_good_copy_of_a_pair_holds() {
    let (old, new) = (Note(1, "old"), Note(2, "new"));
    let blank = || fault(Fault::Blank);
    assert_eq!(
        pair::choose(Ok(new.clone()), Ok(new.clone())),
        PairChoice::Both(new.clone())
    );
    for (a, b, holds) in [(&new, &old, PairCopy::A), (&old, &new, PairCopy::B)] {
        let newer = PairChoice::Newer {
            holds,
            value: new.clone(),
            older: old.clone(),
        };
        assert_eq!(pair::choose(Ok(a.clone()), Ok(b.clone())), newer);
    }
    for other in [blank(), rotten()] {
        let only = |holds| PairChoice::Only {
            holds,
            value: old.clone(),
            other: other.clone(),
        };
        assert_eq!(
            pair::choose(Ok(old.clone()), Err(other.clone())),
            only(PairCopy::A)
        );
        assert_eq!(
            pair::choose(Err(other.clone()), Ok(old.clone())),
            only(PairCopy::B)
        );
    }
}

#[test]
fn a_pair_without_a_good_copy_is_blank_half_blank_or_lost() {
    type Copy = Result<Note, DecodeError>;
    let blank = || -> Copy { Err(fault(Fault::Blank)) };
    let bad = || -> Copy { Err(rotten()) };
    assert_eq!(pair::choose(blank(), blank()), PairChoice::Blank);
    assert_eq!(
        pair::choose(bad(), blank()),
        PairChoice::HalfBlank {
            bad: PairCopy::A,
            fault: rotten()
        }
    );
    assert_eq!(
        pair::choose(blank(), bad()),
        PairChoice::HalfBlank {
            bad: PairCopy::B,
            fault: rotten()
        }
    );
    assert_eq!(
        pair::choose(bad(), bad()),
        PairChoice::Lost {
            a: rotten(),
            b: rotten()
        }
    );
}

#[test]
fn two_contents_with_one_sequence_are_corruption() {
    let (a, b) = (Note(1, "this"), Note(1, "that"));
    assert_eq!(
        pair::choose(Ok(a.clone()), Ok(b.clone())),
        PairChoice::Conflict { a, b }
    );
}

proptest! {
    #[test]
    fn the_highest_generation_with_two_good_copies_wins(
        generations in any::<[Option<bool>; 4]>(), base in 1u64..1000, third in any::<[bool; 4]>(),
    ) {
        let generation = |at: usize| {
            generations[at].map(|bit| base + u64::from(bit) + u64::from(third[at]))
        };
        let all: Vec<Option<u64>> = (0..4).map(generation).collect();
        let copies = std::array::from_fn(|at| all[at].map(|g| state(1, g)).ok_or_else(rotten));
        let winner = (base..base + 3).rev()
            .find(|&g| all.iter().filter(|&&other| other == Some(g)).count() >= 2);
        match (superblock::choose(copies), winner) {
            (Ok(choice), Some(generation)) => {
                prop_assert_eq!(&choice.winner, &state(1, generation));
                prop_assert_eq!(Some(choice.max_generation_seen.get()), all.iter().copied().flatten().max());
                for copy in SuperblockCopy::ALL {
                    let holds = all[copy.index()] == Some(generation);
                    prop_assert_eq!(choice.bad_copies.contains(&copy), !holds);
                }
            }
            (Err(ChoiceError::Lost { .. }), None) => {}
            (other, winner) => prop_assert!(false, "{:?} where {:?} should win", other, winner),
        }
    }
}
