//! Many requests as one call of the script.
//!
//! Requests that are alike, one after the other for the same keys, become one item with a count. Items keep
//! the order in which their first request came; those whose keys nothing else in the batch touches may go in
//! any order and take the short way.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::asked::number_of;
use super::batch::{Act, LeaseAsk, Refund, Request};
use crate::window::{Terms, WindowKind};

/// Requests that are alike, by their place in the batch.
pub(super) struct Item {
    pub(super) first: usize,
    last: usize,
    pub(super) count: u32,
    lease: Option<LeaseAsk>,
}

/// Items that differ only in their key.
pub(super) struct Group {
    terms: u16,
    pub(super) cost: u32,
    count: u32,
    pub(super) lease: LeaseAsk,
    pub(super) items: Vec<usize>,
}

/// Keys and arguments of a call.
pub(super) struct Plan {
    /// Where each key ends in `bytes`.
    ends: Vec<usize>,
    bytes: Vec<u8>,
    pub(super) args: [Vec<u8>; 6],
    pub(super) items: Vec<Item>,
    /// The request after this one in its item.
    pub(super) next: Vec<usize>,
    pub(super) groups: Vec<Group>,
    /// Items that take the long way.
    pub(super) long: Vec<usize>,
}

/// Where a key was touched last.
#[derive(Clone, Copy)]
struct Touched {
    item: usize,
    once: bool,
}

impl Plan {
    /// `lane` is the key of the node's numbers, and `number` the batch's.
    pub(super) fn new(
        lane: &[u8],
        number: u64,
        refunds: &[Refund],
        requests: &[Arc<Request>],
    ) -> Self {
        let mut plan = Self {
            ends: Vec::with_capacity(requests.len() + refunds.len() + 1),
            bytes: Vec::with_capacity(64 * (requests.len() + refunds.len() + 1)),
            args: Default::default(),
            items: Vec::with_capacity(requests.len()),
            next: (0..requests.len()).collect(),
            groups: Vec::new(),
            long: Vec::new(),
        };
        let mut touched: HashMap<u128, Touched, BuildHasherDefault<Identity>> =
            HashMap::with_capacity_and_hasher(requests.len(), BuildHasherDefault::default());
        plan.gather(requests, &mut touched);

        plan.args[1] = number.to_string().into_bytes();
        let mut terms = TermsTable::default();
        plan.push_key(|bytes| bytes.extend_from_slice(lane));
        for refund in refunds {
            plan.push_key(|bytes| bytes.extend_from_slice(&refund.key));
            let words = &mut plan.args[3];
            words.extend_from_slice(&terms.place(refund.terms, refund.kind).to_le_bytes());
            words.extend_from_slice(&refund.charged.to_le_bytes());
            words.extend_from_slice(&refund.units.to_le_bytes());
        }
        for number in 0..plan.items.len() {
            let item = &plan.items[number];
            let request = &requests[item.first];
            let alone = touched[&u128::from_le_bytes(request.first.hash)].once;
            let asked = &request.first;
            let short = request.act == Act::Decide
                && request.more.is_empty()
                && alone
                && !asked.shadow
                && asked.kind() == WindowKind::Sliding
                && asked.cost > 0;
            if short {
                let none = LeaseAsk { units: 0, time: 0 };
                let lease = item.lease.unwrap_or(none);
                let (terms, count) = (terms.place(asked.terms, asked.kind()), item.count);
                plan.group(terms, asked.cost, count, lease).push(number);
            } else {
                plan.long.push(number);
            }
        }
        plan.write_groups(requests);
        plan.write_items(requests, &mut terms);
        plan.args[2] = terms.words;
        plan
    }

    fn gather(
        &mut self,
        requests: &[Arc<Request>],
        touched: &mut HashMap<u128, Touched, BuildHasherDefault<Identity>>,
    ) {
        for (number, request) in requests.iter().enumerate() {
            let first = u128::from_le_bytes(request.first.hash);
            if let Some(last) = touched.get(&first).map(|touched| touched.item) {
                let alike = requests[self.items[last].first].is_like(request);
                let nothing_between = request.more.iter().all(|asked| {
                    let touched = touched.get(&u128::from_le_bytes(asked.hash));
                    touched.is_some_and(|touched| touched.item == last)
                });
                if alike && nothing_between {
                    let item = &mut self.items[last];
                    self.next[item.last] = number;
                    item.last = number;
                    item.count += 1;
                    item.lease = item.lease.or(request.lease);
                    continue;
                }
            }
            let item = self.items.len();
            self.items.push(Item {
                first: number,
                last: number,
                count: 1,
                lease: request.lease,
            });
            for asked in request.rules() {
                touched
                    .entry(u128::from_le_bytes(asked.hash))
                    .and_modify(|touched| *touched = Touched { item, once: false })
                    .or_insert(Touched { item, once: true });
            }
        }
    }

    fn group(&mut self, terms: u16, cost: u32, count: u32, lease: LeaseAsk) -> &mut Vec<usize> {
        let same = |group: &Group| {
            (group.terms, group.cost, group.count) == (terms, cost, count) && group.lease == lease
        };
        let known = self.groups.iter().position(same);
        let place = known.unwrap_or_else(|| {
            self.groups.push(Group {
                terms,
                cost,
                count,
                lease,
                items: Vec::new(),
            });
            self.groups.len() - 1
        });
        &mut self.groups[place].items
    }

    fn write_groups(&mut self, requests: &[Arc<Request>]) {
        let groups = std::mem::take(&mut self.groups);
        for group in &groups {
            let words = &mut self.args[4];
            words.extend_from_slice(&group.terms.to_le_bytes());
            words.extend_from_slice(&group.cost.to_le_bytes());
            words.extend_from_slice(&group.count.to_le_bytes());
            words.extend_from_slice(&group.lease.units.to_le_bytes());
            words.extend_from_slice(&group.lease.time.to_le_bytes());
            words.extend_from_slice(&(group.items.len() as u16).to_le_bytes());
            let first = &requests[self.items[group.items[0]].first].first;
            words.push(first.rule.news.are_likely().into());
            for &item in &group.items {
                let asked = &requests[self.items[item].first].first;
                self.push_key(|bytes| asked.write_key(bytes));
            }
        }
        self.groups = groups;
    }

    fn write_items(&mut self, requests: &[Arc<Request>], terms: &mut TermsTable) {
        let mut keys: HashMap<u128, u16> = HashMap::new();
        let long = std::mem::take(&mut self.long);
        for &item in &long {
            let Item { first, count, .. } = self.items[item];
            let request = &requests[first];
            let (act, argument) = match request.act {
                Act::Decide => (0_u8, 0),
                Act::Reset => (1, 0),
                Act::Block(micros) => (2, micros),
                Act::Unblock => (3, 0),
                Act::Lease => (4, request.lease.map_or(0, |lease| lease.time)),
            };
            let count = match (request.act, request.lease) {
                (Act::Lease, Some(lease)) => lease.units,
                _ => count,
            };
            let words = &mut self.args[5];
            words.push(act);
            words.extend_from_slice(&argument.to_le_bytes());
            words.extend_from_slice(&count.to_le_bytes());
            words.push(1 + request.more.len() as u8);
            for asked in request.rules() {
                let next = keys.len() as u16;
                let key = *keys
                    .entry(u128::from_le_bytes(asked.hash))
                    .or_insert_with(|| {
                        self.ends.push({
                            asked.write_key(&mut self.bytes);
                            self.bytes.len()
                        });
                        next
                    });
                let words = &mut self.args[5];
                words.extend_from_slice(&key.to_le_bytes());
                words.extend_from_slice(&terms.place(asked.terms, asked.kind()).to_le_bytes());
                words.extend_from_slice(&asked.cost.to_le_bytes());
                words.push(asked.shadow.into());
            }
        }
        self.long = long;
    }

    fn push_key(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn keys(&self) -> Vec<&[u8]> {
        let mut start = 0;
        let key = |&end: &usize| &self.bytes[std::mem::replace(&mut start, end)..end];
        self.ends.iter().map(key).collect()
    }
}

/// Each of the terms once.
#[derive(Default)]
struct TermsTable {
    known: Vec<(Terms, WindowKind)>,
    words: Vec<u8>,
}

impl TermsTable {
    /// The place, from 1.
    fn place(&mut self, terms: Terms, kind: WindowKind) -> u16 {
        let known = self.known.iter().position(|&known| known == (terms, kind));
        let place = known.unwrap_or_else(|| {
            self.words.extend_from_slice(&terms.version.to_le_bytes());
            self.words.extend_from_slice(&terms.limit.to_le_bytes());
            self.words.extend_from_slice(&terms.width.to_le_bytes());
            self.words.push(number_of(kind));
            self.known.push((terms, kind));
            self.known.len() - 1
        });
        place as u16 + 1
    }
}

/// What it hashes is a hash.
#[derive(Default)]
pub(crate) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u128(&mut self, hash: u128) {
        self.0 = hash as u64;
    }
}
