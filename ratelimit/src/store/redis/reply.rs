//! What the script says to each request of a batch.

use std::sync::Arc;

use super::batch::{Act, Answer, Leased, Request};
use super::plan::{Group, Item, Plan};
use crate::decision::Decision;
use crate::window::{Outcome, Wait};

impl Plan {
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
            let mut new = 0;
            for &item in &group.items {
                let item = &self.items[item];
                new += u32::from(self.read_simple(now, group, item, reply, requests, tell)?);
            }
            let first = &requests[self.items[group.items[0]].first].first;
            first.rule.news.note(group.items.len() as u32, new);
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

    /// And says whether the key was new, as far as one can tell.
    fn read_simple(
        &self,
        now: u64,
        group: &Group,
        item: &Item,
        reply: &mut Reply<'_>,
        requests: &[Arc<Request>],
        tell: &mut impl FnMut(usize, Answer),
    ) -> Option<bool> {
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
                return Some(false);
            }
            _ => return None,
        };
        let new = kind == 1 && said.rules[0].left == terms.limit;
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
        Some(new)
    }

    fn tell_all(&self, item: &Item, mut tell: impl FnMut(u32, usize)) {
        let mut place = item.first;
        for nth in 0..item.count {
            tell(nth, place);
            place = self.next[place];
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
        decision.charged_at(self.now);
        Answer {
            decision: Ok(decision),
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
