//! Many requests as one call of the script: what is asked, and what the answer says to each. Without I/O.
//!
//! Requests that are alike, one after the other for the same keys, become one item with a count. Items keep
//! the order in which their first request came; those whose keys nothing else in the batch touches may go in
//! any order and take the short way.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::Asked;
use crate::decision::Decision;
use crate::error::StoreError;
use crate::window::{Outcome, Terms, Wait};

/// What is to be done with the keys of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Decide,
    Reset,
    /// For so many microseconds.
    Block(u64),
    Unblock,
    /// Only lease.
    Lease,
}

/// Units to lease beside a request, if it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LeaseAsk {
    pub(crate) units: u32,
    /// For how long, in microseconds.
    pub(crate) time: u64,
}

/// What was leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leased {
    pub(crate) units: u32,
    /// The bucket that was charged.
    pub(crate) bucket: u64,
    /// When, by the server's clock, in microseconds.
    pub(crate) now: u64,
    /// What the key had left then.
    pub(crate) left: u32,
}

/// One request: all of its rules, or one key for an operator.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) first: Asked,
    pub(super) more: Vec<Asked>,
    pub(super) act: Act,
    pub(super) lease: Option<LeaseAsk>,
}

/// Units to give back.
#[derive(Clone, Debug)]
pub(crate) struct Refund {
    pub(super) key: Vec<u8>,
    pub(super) terms: Terms,
    pub(super) bucket: u64,
    pub(super) units: u32,
}

/// What the script says of one request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) decision: Result<Decision, StoreError>,
    /// Whether the key of the first rule is blocked.
    pub(super) blocked: bool,
    pub(super) leased: Option<Leased>,
}

impl Refund {
    /// The same for what was leased.
    pub(crate) fn of(&self, leased: Leased) -> Self {
        Self {
            bucket: leased.bucket,
            units: leased.units,
            ..self.clone()
        }
    }
}

impl Request {
    pub(super) fn rules(&self) -> impl Iterator<Item = &Asked> {
        std::iter::once(&self.first).chain(&self.more)
    }

    fn is_like(&self, other: &Self) -> bool {
        // An operator's is like no other.
        self.act == Act::Decide
            && other.act == Act::Decide
            && self.more.len() == other.more.len()
            && self.rules().zip(other.rules()).all(|(one, other)| {
                one.hash == other.hash
                    && one.cost == other.cost
                    && one.terms == other.terms
                    && one.shadow == other.shadow
            })
    }
}

/// Requests that are alike, by their place in the batch.
struct Item {
    first: usize,
    last: usize,
    count: u32,
    lease: Option<LeaseAsk>,
}

/// Items that differ only in their key.
struct Group {
    terms: u16,
    cost: u32,
    count: u32,
    lease: LeaseAsk,
    items: Vec<usize>,
}

/// Keys and arguments of a call.
pub(super) struct Plan {
    /// Where each key ends in `bytes`.
    ends: Vec<usize>,
    bytes: Vec<u8>,
    pub(super) args: [Vec<u8>; 6],
    items: Vec<Item>,
    /// The request after this one in its item.
    next: Vec<usize>,
    groups: Vec<Group>,
    /// Items that take the long way.
    long: Vec<usize>,
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
            words.extend_from_slice(&terms.place(refund.terms).to_le_bytes());
            words.extend_from_slice(&refund.bucket.to_le_bytes());
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
                && asked.cost > 0;
            if short {
                let none = LeaseAsk { units: 0, time: 0 };
                let lease = item.lease.unwrap_or(none);
                let (terms, count) = (terms.place(asked.terms), item.count);
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
                words.extend_from_slice(&terms.place(asked.terms).to_le_bytes());
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

    /// Tells what the script says to each request, by its place. False if the reply makes no sense;
    /// those that were not told by then have to be told of that.
    pub(super) fn read(
        &self,
        reply: &[u8],
        requests: &[Arc<Request>],
        mut tell: impl FnMut(usize, Answer),
    ) -> bool {
        let mut reply = Reply(reply);
        self.read_all(&mut reply, requests, &mut tell).is_some() && reply.0.is_empty()
    }

    fn read_all(
        &self,
        reply: &mut Reply<'_>,
        requests: &[Arc<Request>],
        tell: &mut impl FnMut(usize, Answer),
    ) -> Option<()> {
        let now = reply.long()?;
        for group in &self.groups {
            for &item in &group.items {
                self.read_simple(now, group, &self.items[item], reply, requests, tell)?;
            }
        }
        for &item in &self.long {
            let item = &self.items[item];
            let request = &requests[item.first];
            match reply.byte()? {
                0 if request.act == Act::Decide => {
                    let said = Said::read(now, 1 + request.more.len(), reply)?;
                    self.tell_all(item, |nth, place| {
                        tell(place, said.answer(nth, &requests[place], None));
                    });
                }
                0 => {
                    let mut answer = Answer::of(Ok(Decision::empty()));
                    if request.act == Act::Lease {
                        let time = request.lease.map_or(0, |lease| lease.time);
                        answer.leased = Some(Leased {
                            units: reply.word()?,
                            bucket: (now + time) / request.first.terms.width,
                            now,
                            left: 0,
                        });
                    }
                    tell(item.first, answer);
                }
                3 => {
                    let rule = usize::from(reply.byte()?.checked_sub(1)?);
                    self.tell_all(item, |_, place| {
                        let foreign = requests[place].rules().nth(rule);
                        let rule = foreign.unwrap_or(&requests[place].first);
                        tell(place, Answer::of(Err(rule.foreign())));
                    });
                }
                _ => return None,
            }
        }
        Some(())
    }

    fn read_simple(
        &self,
        now: u64,
        group: &Group,
        item: &Item,
        reply: &mut Reply<'_>,
        requests: &[Arc<Request>],
        tell: &mut impl FnMut(usize, Answer),
    ) -> Option<()> {
        let terms = requests[item.first].first.terms;
        let kind = reply.byte()?;
        let said = match kind {
            1 | 2 => {
                let left = reply.word()?;
                let bucket = now / terms.width + u64::from(kind == 2);
                Said {
                    now,
                    passing: item.count,
                    rules: vec![RuleSaid {
                        limit: terms.limit,
                        left,
                        charged: item.count,
                        reset: terms.free_at(bucket) - now,
                        ..RuleSaid::default()
                    }],
                }
            }
            0 => Said::read(now, 1, reply)?,
            3 => {
                self.tell_all(item, |_, place| {
                    let error = requests[place].first.foreign();
                    tell(place, Answer::of(Err(error)));
                });
                return Some(());
            }
            _ => return None,
        };
        let mut leased = match group.lease.units {
            0 => None,
            _ => {
                let units = reply.word()?;
                let taken = item.count.saturating_mul(group.cost).saturating_add(units);
                Some(Leased {
                    units,
                    bucket: (now + group.lease.time) / terms.width,
                    now,
                    left: said.rules[0].left.saturating_sub(taken),
                })
            }
        };
        self.tell_all(item, |nth, place| {
            let request = &requests[place];
            let mine = request.lease.and_then(|_| leased.take());
            tell(place, said.answer(nth, request, mine));
        });
        Some(())
    }

    fn tell_all(&self, item: &Item, mut tell: impl FnMut(u32, usize)) {
        let mut place = item.first;
        for nth in 0..item.count {
            tell(nth, place);
            place = self.next[place];
        }
    }
}

impl Answer {
    pub(super) const fn of(decision: Result<Decision, StoreError>) -> Self {
        Self {
            decision,
            blocked: false,
            leased: None,
        }
    }
}

/// What the script says of an item.
struct Said {
    now: u64,
    /// How many of its requests pass.
    passing: u32,
    rules: Vec<RuleSaid>,
}

#[derive(Clone, Copy, Default)]
struct RuleSaid {
    blocked: bool,
    limit: u32,
    left: u32,
    charged: u32,
    reset: u64,
    left_after: u32,
    reset_after: u64,
    wait: u64,
}

impl Said {
    fn read(now: u64, rules: usize, reply: &mut Reply<'_>) -> Option<Self> {
        let passing = reply.word()?;
        let rules = (0..rules).map(|_| {
            Some(RuleSaid {
                blocked: reply.byte()? == 1,
                limit: reply.word()?,
                left: reply.word()?,
                charged: reply.word()?,
                reset: reply.long()?,
                left_after: reply.word()?,
                reset_after: reply.long()?,
                wait: reply.long()?,
            })
        });
        let rules = rules.collect::<Option<Vec<_>>>()?;
        Some(Self {
            now,
            passing,
            rules,
        })
    }

    /// To the n-th of the requests.
    fn answer(&self, nth: u32, request: &Request, leased: Option<Leased>) -> Answer {
        const FOREVER: u64 = 1 << 53;
        let mut decision = Decision::empty();
        for (asked, said) in request.rules().zip(&self.rules) {
            let outcome = if nth < self.passing && nth < said.charged {
                let left = u64::from(said.left);
                let left = left.saturating_sub((u64::from(nth) + 1) * u64::from(asked.cost));
                Outcome::new(said.limit, left as u32, said.reset, Wait::None)
            } else {
                let wait = match said.wait {
                    0 => Wait::None,
                    FOREVER.. => Wait::Forever,
                    micros => Wait::Micros(micros),
                };
                Outcome::new(said.limit, said.left_after, said.reset_after, wait)
            };
            let outcome = outcome.in_window_of(asked.terms);
            let outcome = match asked.shadow {
                true => outcome.in_shadow(),
                false => outcome,
            };
            decision.push(asked.number, outcome);
        }
        Answer {
            decision: Ok(decision.charged_at(self.now)),
            blocked: self.rules.first().is_some_and(|said| said.blocked),
            leased,
        }
    }
}

/// The rest of a reply.
struct Reply<'a>(&'a [u8]);

impl Reply<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// Each of the terms once.
#[derive(Default)]
struct TermsTable {
    known: Vec<Terms>,
    words: Vec<u8>,
}

impl TermsTable {
    /// The place, from 1.
    fn place(&mut self, terms: Terms) -> u16 {
        let known = self.known.iter().position(|&known| known == terms);
        let place = known.unwrap_or_else(|| {
            self.words.extend_from_slice(&terms.version.to_le_bytes());
            self.words.extend_from_slice(&terms.limit.to_le_bytes());
            self.words.extend_from_slice(&terms.width.to_le_bytes());
            self.known.push(terms);
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
