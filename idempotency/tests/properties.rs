//! Invariants of the record:
//!
//! - what is written is read again, and equal records have equal bytes;
//! - no bytes make the reader panic, and damaged ones are not taken for a record;
//! - a swap that was applied is known when it comes again, and anything else is left alone;
//! - attempts and heartbeats give records that differ;
//! - a claim is only ever abandoned at the end of its lease;
//! - a store in memory holds what lives, and has room as long as less does than it has room for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use seawall_idempotency::{
    Fingerprint, Key, MemoryStore, RecordError, RecordKey, Store, StoreError,
    record::{
        self, Answer, Completed, Found, Owner, Packed, Pending, Record, Standing, Swap, Swapped,
        Why,
    },
};
use tokio::time::Instant;

fn pending() -> impl Strategy<Value = Pending> {
    let numbers = (1..u64::MAX, 3..u64::MAX, any::<u64>(), any::<u64>());
    (any::<[u8; 24]>(), numbers, any::<[u8; 32]>()).prop_map(
        |(owner, (attempt, lease_ms, retention_ms, heartbeat), fingerprint)| Pending {
            owner: Owner::from_bytes(owner),
            attempt,
            lease_ms,
            retention_ms,
            heartbeat,
            fingerprint: Fingerprint::from_bytes(fingerprint),
        },
    )
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn answer() -> impl Strategy<Value = Answer> {
    let why = [
        Why::Oversize,
        Why::Streaming,
        Why::Failed,
        Why::Panicked,
        Why::NotKept,
        Why::NotSealed,
    ];
    prop_oneof![
        bytes().prop_map(Answer::Whole),
        (bytes(), 0..3_u8).prop_map(|(bytes, packing)| Answer::Packed(Packed {
            compressed: packing != 1,
            sealed: packing != 0,
            bytes,
        })),
        proptest::sample::select(why.to_vec()).prop_map(Answer::Tombstone),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        pending().prop_map(Record::Pending),
        any::<u64>().prop_map(|attempt| Record::Released { attempt }),
        (pending(), answer()).prop_map(|(pending, answer)| Record::Completed(Completed {
            owner: pending.owner,
            attempt: pending.attempt,
            fingerprint: pending.fingerprint,
            answer,
        })),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(record in any_record()) {
        let bytes = record.encode();
        prop_assert_eq!(Record::decode(bytes.clone()), Ok(record));
        prop_assert_eq!(Record::decode(bytes.clone()).unwrap().encode(), bytes);
    }

    #[test]
    fn a_record_that_was_cut_or_added_to_is_none(
        record in any_record(),
        cut in any::<proptest::sample::Index>(),
        more in 0..=255_u8,
    ) {
        let bytes = record.encode();
        prop_assert!(Record::decode(bytes.slice(..cut.index(bytes.len()))).is_err());
        let longer = [&bytes[..], &[more]].concat();
        prop_assert_eq!(Record::decode(longer.into()), Err(RecordError::Torn));
    }

    #[test]
    fn a_later_version_is_known_as_such(record in any_record(), version in 2..=255_u8) {
        let mut bytes = record.encode().to_vec();
        bytes[2] = version;
        prop_assert_eq!(Record::decode(bytes.into()), Err(RecordError::Newer { version }));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(mut noise in proptest::collection::vec(any::<u8>(), 0..300), ours: bool) {
        if ours && noise.len() > 3 {
            noise[..3].copy_from_slice(b"si\x01");
        }
        if let Ok(record) = Record::decode(noise.clone().into()) {
            prop_assert_eq!(&record.encode()[..], &noise[..]);
        }
    }

    #[test]
    fn a_swap_is_known_when_it_comes_again_and_leaves_everything_else_alone(
        mine in pending(),
        other in any_record(),
        answer in answer(),
    ) {
        let held = [mine.clone(), mine.beat()];
        let found = other.encode();
        for swap in [
            Swap::renew(&mine),
            Swap::complete(&held, answer),
            Swap::release(&held),
            Swap::take(found.clone(), &mine),
            Swap::untake(found.clone(), &mine),
        ] {
            prop_assert_eq!(swap.judge(Some(swap.to())), Swapped::Already);
            for from in swap.from() {
                prop_assert_eq!(swap.judge(Some(from)), Swapped::Applied);
            }
            if !swap.from().contains(&found) && *swap.to() != found {
                prop_assert_eq!(swap.judge(Some(&found)), Swapped::Lost(Some(found.clone())));
            }
        }
    }

    #[test]
    fn each_heartbeat_and_each_attempt_has_bytes_of_its_own(mine in pending()) {
        let forms = [mine.encode(), mine.beat().encode(), mine.after(mine.attempt).encode()];
        prop_assert_ne!(&forms[0], &forms[1]);
        prop_assert_ne!(&forms[0], &forms[2]);
        prop_assert_ne!(&forms[1], &forms[2]);
    }

    #[test]
    fn what_is_found_is_mine_only_if_every_byte_is(mine in pending(), other in pending()) {
        prop_assert_eq!(record::look(&mine, mine.encode()), Ok(Found::Mine));
        let other = Pending { fingerprint: mine.fingerprint, ..other };
        prop_assert_eq!(record::look(&mine, other.encode()), Ok(Found::Pending(other)));
        prop_assert_ne!(record::look(&mine, mine.beat().encode()), Ok(Found::Mine));
    }

    #[test]
    fn a_claim_is_abandoned_at_the_end_of_its_lease_and_not_before(
        lease in 3..100_000_u64,
        retention in 100_000..10_000_000_u64,
        remaining in 0..20_000_000_u64,
        steady in 0..200_000_u64,
    ) {
        let ms = Duration::from_millis;
        let mine = Pending::first(Fingerprint::NONE, ms(lease), ms(retention));
        let age = retention.saturating_sub(remaining);
        let expected = if age < lease {
            Standing::Claimed { left: ms(lease - age) }
        } else if steady < lease {
            Standing::Unsure { left: ms(lease - steady) }
        } else {
            Standing::Abandoned
        };
        prop_assert_eq!(mine.standing(ms(remaining), ms(steady)), expected);
    }

    #[test]
    fn moving_a_border_between_scope_and_key_gives_another_place(
        text in "[a-z\\x00-\\x1f]{2,20}",
        one in any::<proptest::sample::Index>(),
        two in any::<proptest::sample::Index>(),
    ) {
        let split = |at: usize| {
            let (scope, key) = text.split_at(at);
            RecordKey::new(Some(&Key::from(scope)), &Key::from(key))
        };
        let (one, two) = (one.index(text.len()), two.index(text.len()));
        prop_assert_eq!(split(one) == split(two), one == two);
    }
}

#[test]
fn owners_are_never_the_same() {
    let owners: std::collections::HashSet<_> = (0..1_000).map(|_| Owner::fresh()).collect();
    assert_eq!(owners.len(), 1_000);
}

/// One step of the store's test below: of which key, how long it is kept, and what is done.
type Step = (u8, u16, u8);

proptest! {
    /// Against a map without a bound, cleared of what has expired: the same answers; room whenever
    /// fewer live than there is room for, and never for more.
    #[test]
    fn the_store_in_memory_holds_what_lives_and_finds_room_for_no_more(
        steps in proptest::collection::vec(any::<Step>(), 1..200),
    ) {
        const ROOM: usize = 4;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = MemoryStore::with_capacity(ROOM);
            let mut model = HashMap::<RecordKey, (Bytes, Instant)>::new();
            for (key, keep_for, what) in steps {
                let key = RecordKey::new(None, &Key::from(u64::from(key % 7)));
                // From less than a span to some dozens of them.
                let keep_for = Duration::from_millis(u64::from(keep_for) / 4 + 1);
                let now = Instant::now();
                model.retain(|_, (_, end)| now < *end);
                let found = model.get(&key).map(|(record, _)| record.clone());
                let room = found.is_some() || model.len() < ROOM;
                match what % 4 {
                    0 | 1 => {
                        let mine = Pending::first(Fingerprint::NONE, keep_for, keep_for).encode();
                        match store.claim(&key, mine.clone(), keep_for).await {
                            Ok(there) => {
                                assert_eq!(there, found);
                                assert!(room);
                                model.entry(key).or_insert((mine, now + keep_for));
                            }
                            Err(StoreError::Full { .. }) => assert!(!room),
                            Err(error) => panic!("{error}"),
                        }
                    }
                    2 => {
                        let from = found.clone().unwrap_or_default();
                        let to = Record::Released { attempt: 1 };
                        let swap = Swap::replace(from, &to, keep_for);
                        let swapped = store.swap(&key, &swap).await.unwrap();
                        match &found {
                            None => assert_eq!(swapped, Swapped::Lost(None)),
                            Some(found) if found == swap.to() => {
                                assert_eq!(swapped, Swapped::Already);
                            }
                            Some(_) => {
                                assert_eq!(swapped, Swapped::Applied);
                                model.insert(key, (swap.to().clone(), now + keep_for));
                            }
                        }
                    }
                    _ => tokio::time::advance(keep_for / 4).await,
                }
                let now = Instant::now();
                model.retain(|_, (_, end)| now < *end);
                let left = model.get(&key).map(|(_, end)| *end - now);
                assert_eq!(store.remaining(&key).await.unwrap(), left);
                assert!(model.len() <= store.len() && store.len() <= ROOM);
            }
        });
    }
}
