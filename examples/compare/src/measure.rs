//! Contenders that take turns, and what their figures say.

use std::time::Duration;

use serde::Serialize;

use crate::rows::Entry;

/// How often each contender has its turn.
const ROUNDS: usize = 21;

/// One contender: makes so many calls, and says how long that took.
pub(crate) struct Lane<'a>(Box<dyn FnMut(u64) -> Duration + 'a>);

impl<'a> Lane<'a> {
    pub(crate) fn new(run: impl FnMut(u64) -> Duration + 'a) -> Self {
        Self(Box::new(run))
    }

    /// Makes so many calls, and says how long that took.
    pub(crate) fn run(&mut self, calls: u64) -> Duration {
        (self.0)(calls)
    }

    /// Runs `prepare` before each turn, outside of what is timed.
    pub(crate) fn prepared(mut self, mut prepare: impl FnMut() + 'a) -> Self {
        Self::new(move |calls| {
            prepare();
            (self.0)(calls)
        })
    }

    /// How many calls fill a slice. Finding out warms the contender up.
    fn calls_in(&mut self, slice: Duration) -> u64 {
        let mut calls = 1;
        loop {
            let elapsed = (self.0)(calls);
            if elapsed >= slice / 4 {
                let calls = calls as f64 * slice.as_secs_f64() / elapsed.as_secs_f64();
                return (calls.round() as u64).max(1);
            }
            calls *= 4;
        }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    /// Nanoseconds a call.
    #[serde(rename = "ns")]
    Nanos,
    /// Calls a second.
    #[serde(rename = "per_s")]
    PerSecond,
}

impl Unit {
    fn figure(self, calls: u64, elapsed: Duration) -> f64 {
        match self {
            Self::Nanos => elapsed.as_secs_f64() * 1e9 / calls as f64,
            Self::PerSecond => calls as f64 / elapsed.as_secs_f64(),
        }
    }

    /// Long enough that starting and ending it does not count, short enough that all contenders of a
    /// round meet the same weather.
    const fn slice(self) -> Duration {
        match self {
            Self::Nanos => Duration::from_millis(25),
            // Hundreds of tasks have to get going first.
            Self::PerSecond => Duration::from_millis(80),
        }
    }
}

/// One line of the table: ours against one peer.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) unit: Unit,
    /// Medians over the rounds.
    pub(crate) ours: f64,
    pub(crate) theirs: f64,
    /// The service without a layer, where a layer is measured.
    pub(crate) bare: Option<f64>,
    /// The median, over the rounds, of what ours takes beyond the bare service.
    pub(crate) added: Option<f64>,
    /// The median of the ratios of the rounds; nothing where the peer adds nothing to the bare service.
    pub(crate) ratio: Option<f64>,
    /// Ours, for each call, beyond what the bare service allocates.
    pub(crate) allocs: Option<f64>,
    /// Rounds.
    pub(crate) runs: usize,
}

/// Ours and its peers on one piece of work.
pub(crate) struct Contest<'a> {
    name: &'static str,
    unit: Unit,
    allocs: Option<f64>,
    ours: Lane<'a>,
    bare: Option<Lane<'a>>,
    peers: Vec<(&'static str, Lane<'a>)>,
}

impl<'a> Contest<'a> {
    pub(crate) fn new(entry: &Entry, unit: Unit, ours: Lane<'a>) -> Self {
        Self {
            name: entry.name,
            unit,
            allocs: None,
            ours,
            bare: None,
            peers: Vec::new(),
        }
    }

    pub(crate) fn peer(mut self, name: &'static str, lane: Lane<'a>) -> Self {
        self.peers.push((name, lane));
        self
    }

    /// What all of them are put around.
    pub(crate) fn bare(mut self, lane: Lane<'a>) -> Self {
        self.bare = Some(lane);
        self
    }

    /// What ours allocates for each call.
    pub(crate) fn allocs(mut self, allocs: f64) -> Self {
        self.allocs = Some(allocs);
        self
    }

    /// Measures. Where there is a bare service and no peer, it is the peer.
    pub(crate) fn run(self) -> Vec<Row> {
        let Self {
            name,
            unit,
            allocs,
            ours,
            bare,
            peers,
        } = self;
        let has_bare = bare.is_some();
        let (names, peers): (Vec<_>, Vec<_>) = peers.into_iter().unzip();
        let mut lanes: Vec<Lane<'_>> = std::iter::once(ours).chain(bare).chain(peers).collect();
        let calls: Vec<u64> = lanes
            .iter_mut()
            .map(|lane| lane.calls_in(unit.slice()))
            .collect();
        let figures = interleave(ROUNDS, lanes.len(), |contender| {
            unit.figure(calls[contender], (lanes[contender].0)(calls[contender]))
        });

        let (ours, rest) = figures.split_first().expect("ours is always there");
        let (bare, theirs) = rest.split_at(usize::from(has_bare));
        let bare = bare.first();
        let row = |peer, theirs: &[f64], ratio: f64| Row {
            name,
            peer,
            unit,
            ours: median(ours),
            theirs: median(theirs),
            bare: bare.map(|bare| median(bare)),
            added: bare.map(|bare| {
                let rounds = std::iter::zip(ours, bare);
                median(&rounds.map(|(ours, bare)| ours - bare).collect::<Vec<_>>())
            }),
            ratio: ratio.is_finite().then_some(ratio),
            allocs,
            runs: ROUNDS,
        };
        match (bare, theirs) {
            (Some(bare), []) => vec![row("bare", bare, ratio(ours, bare, None))],
            _ => std::iter::zip(names, theirs)
                .map(|(peer, theirs)| row(peer, theirs, ratio(ours, theirs, bare)))
                .collect(),
        }
    }
}

/// Gives each contender one turn a round, and collects the figures by contender.
///
/// Who begins changes from round to round, and so does the direction: nobody always has the same
/// place, nor the same predecessor, which may leave its mark on caches and clock speed.
fn interleave(
    rounds: usize,
    contenders: usize,
    mut turn: impl FnMut(usize) -> f64,
) -> Vec<Vec<f64>> {
    let mut figures = vec![Vec::with_capacity(rounds); contenders];
    for round in 0..rounds {
        for step in 0..contenders {
            let step = if round % 2 == 0 {
                step
            } else {
                contenders - 1 - step
            };
            let contender = (round + step) % contenders;
            figures[contender].push(turn(contender));
        }
    }
    figures
}

/// The median of the ratios of the rounds: of ours to theirs or, where there is a bare service, of what
/// each adds to it. A peer that adds nothing in a round is infinitely better in it.
fn ratio(ours: &[f64], theirs: &[f64], bare: Option<&Vec<f64>>) -> f64 {
    let ratios: Vec<f64> = (0..ours.len())
        .map(|round| {
            let bare = bare.map_or(0.0, |bare| bare[round]);
            let (ours, theirs) = ((ours[round] - bare).max(0.0), theirs[round] - bare);
            if theirs > 0.0 {
                ours / theirs
            } else {
                f64::INFINITY
            }
        })
        .collect();
    median(&ratios)
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests;
