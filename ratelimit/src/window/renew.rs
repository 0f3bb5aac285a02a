//! A window under other terms, and two windows made one.

use super::REACH;
use super::sliding::SlidingWindow;
use super::terms::Terms;

impl SlidingWindow {
    /// Puts a rule's own terms in force unless the record's are newer. True if they are of a newer
    /// version and something still counts under them: then the record has to be kept even if the
    /// request at hand is refused, for the newest version holds for everybody.
    ///
    /// The newest version wins, and a caller that still holds an older one goes by the record's terms.
    /// In the same version the caller's limit and window are taken. What was charged is never
    /// forgotten by it: under another width each bucket is charged anew as late as it can have been
    /// charged, which is at its end and never after `now` (what was charged ahead stays ahead, by one
    /// bucket of the new width at most). A longer window cannot know what the shorter one had already
    /// dropped.
    pub fn renew(&mut self, terms: Terms, now: u64) -> bool {
        if self.terms == terms {
            return false;
        }
        if self.used(now) == 0 {
            *self = Self::new(terms);
            return false;
        }
        if terms.version < self.terms.version {
            return false;
        }
        let newer = terms.version > self.terms.version;
        if terms.width == self.terms.width {
            self.terms = terms;
            return newer;
        }
        *self = self.recut(terms, now);
        if self.used(now) == 0 {
            // All of it is older than the new window.
            *self = Self::new(terms);
            return false;
        }
        newer
    }

    /// Takes the higher count of both in each bucket.
    pub(crate) fn merge(&mut self, other: &Self, now: u64) {
        let mut other = *other;
        other.renew(self.terms, now);
        self.renew(other.terms, now);
        let newest = self.newest.max(other.newest);
        self.advance(newest);
        other.advance(newest);
        self.current = self.current.max(other.current);
        self.ahead = self.ahead.max(other.ahead);
        for (mine, theirs) in self.past.iter_mut().zip(other.past) {
            *mine = (*mine).max(theirs);
        }
        self.total = self.sum();
    }

    /// The same charges in buckets of another width.
    fn recut(&self, terms: Terms, now: u64) -> Self {
        let mut from = *self;
        from.advance(self.bucket_at(now));
        let latest = now.max(self.newest * self.terms.width);
        let end_of = |bucket: u64| (bucket + 1) * self.terms.width - 1;
        let mut into = Self::new(terms);
        for bucket in from.newest.saturating_sub(REACH)..=from.newest {
            let moment = end_of(bucket).min(latest);
            into.charge_bucket(moment / terms.width, from.count(bucket));
        }
        if from.ahead > 0 {
            let until = end_of(from.newest + 1) / terms.width;
            into.advance(into.bucket_at(latest));
            let until = until.min(into.newest + 1) * terms.width;
            into.charge_until(latest, until, from.ahead);
        }
        into
    }
}
