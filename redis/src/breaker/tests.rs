//! What holds after any run of calls, whatever their order and fate:
//!
//! 1. While it is open and cooling off, nobody is admitted.
//! 2. In one period at most one probe is admitted, and only its answer closes the breaker.
//! 3. It opens exactly when so many failures of the period came without an answer between them.
//! 4. It is never wedged: once the cool-off and the longest call have passed, the next is admitted.
//! 5. A ticket of an earlier period changes nothing.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::{Breaker, BreakerState, Circuit, Outcome, Ticket};

const COOL_OFF: Duration = Duration::from_millis(1_000);
const WITHIN: Duration = Duration::from_millis(100);

fn circuit(failures: u32) -> Circuit {
    Circuit::new(Breaker::new(failures, COOL_OFF))
}

/// Opens it by one failure.
fn opened(now: Instant) -> Circuit {
    let mut circuit = circuit(1);
    let ticket = circuit.admit(now, WITHIN).unwrap();
    circuit.settle(ticket, Outcome::Failed, now);
    circuit
}

#[test]
fn an_answer_between_failures_starts_the_count_again() {
    let now = Instant::now();
    let mut circuit = circuit(2);
    for outcome in [Outcome::Failed, Outcome::Answered, Outcome::Failed] {
        let ticket = circuit.admit(now, WITHIN).unwrap();
        circuit.settle(ticket, outcome, now);
        assert_eq!(circuit.state(now), BreakerState::Closed);
    }
    let ticket = circuit.admit(now, WITHIN).unwrap();
    circuit.settle(ticket, Outcome::Failed, now);
    assert_eq!(
        circuit.state(now),
        BreakerState::Open { retry_in: COOL_OFF }
    );
}

#[test]
fn refuses_until_the_cool_off_is_over_and_then_lets_one_through() {
    let now = Instant::now();
    let mut circuit = opened(now);
    let almost = COOL_OFF - Duration::from_nanos(1);
    assert_eq!(
        circuit.admit(now + almost, WITHIN),
        Err(Duration::from_nanos(1))
    );
    let then = now + COOL_OFF;
    assert_eq!(
        circuit.state(then),
        BreakerState::Open {
            retry_in: Duration::ZERO
        }
    );
    let probe = circuit.admit(then, WITHIN).unwrap();
    assert_eq!(circuit.state(then), BreakerState::HalfOpen);
    assert_eq!(circuit.admit(then, WITHIN), Err(WITHIN));
    circuit.settle(probe, Outcome::Answered, then);
    assert_eq!(circuit.state(then), BreakerState::Closed);
}

#[test]
fn a_failed_probe_begins_the_next_cool_off() {
    let now = Instant::now();
    let mut circuit = opened(now);
    let then = now + COOL_OFF;
    let probe = circuit.admit(then, WITHIN).unwrap();
    circuit.settle(probe, Outcome::Failed, then + WITHIN);
    assert_eq!(circuit.admit(then + WITHIN, WITHIN), Err(COOL_OFF));
}

#[test]
fn another_call_probes_at_once_when_the_first_was_abandoned() {
    let now = Instant::now();
    let mut circuit = opened(now);
    let then = now + COOL_OFF;
    let abandoned = circuit.admit(then, WITHIN).unwrap();
    circuit.settle(abandoned, Outcome::Abandoned, then);
    assert!(circuit.admit(then, WITHIN).is_ok());
}

#[test]
fn another_call_probes_when_the_first_never_came_back() {
    let now = Instant::now();
    let mut circuit = opened(now);
    let then = now + COOL_OFF;
    let lost = circuit.admit(then, WITHIN).unwrap();
    let probe = circuit.admit(then + WITHIN, WITHIN).unwrap();
    circuit.settle(lost, Outcome::Answered, then + WITHIN);
    assert_eq!(circuit.state(then + WITHIN), BreakerState::HalfOpen);
    circuit.settle(probe, Outcome::Answered, then + WITHIN);
    assert_eq!(circuit.state(then + WITHIN), BreakerState::Closed);
}

#[test]
fn calls_that_hung_when_it_opened_cannot_open_it_again() {
    let now = Instant::now();
    let mut circuit = circuit(1);
    let hung: Vec<_> = (0..100)
        .map(|_| circuit.admit(now, WITHIN).unwrap())
        .collect();
    circuit.settle(hung[0], Outcome::Failed, now);
    let then = now + COOL_OFF;
    let probe = circuit.admit(then, WITHIN).unwrap();
    circuit.settle(probe, Outcome::Answered, then);
    for late in &hung[1..] {
        circuit.settle(*late, Outcome::Failed, then);
    }
    assert_eq!(circuit.state(then), BreakerState::Closed);
}

#[test]
fn a_breaker_that_never_opens_stays_closed() {
    let now = Instant::now();
    let mut circuit = Circuit::new(Breaker::never());
    for _ in 0..1_000 {
        let ticket = circuit.admit(now, WITHIN).unwrap();
        circuit.settle(ticket, Outcome::Failed, now);
    }
    assert_eq!(circuit.state(now), BreakerState::Closed);
}

#[test]
fn a_cool_off_beyond_the_clock_stays_open() {
    let now = Instant::now();
    let mut circuit = Circuit::new(Breaker::new(1, Duration::MAX));
    let ticket = circuit.admit(now, Duration::MAX).unwrap();
    circuit.settle(ticket, Outcome::Failed, now);
    assert!(circuit.admit(now + COOL_OFF, Duration::MAX).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Call,
    /// The ticket at this place among those that are out (modulo their number) comes back.
    Settle(usize, Outcome),
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let outcome = prop_oneof![
        3 => Just(Outcome::Failed),
        2 => Just(Outcome::Answered),
        1 => Just(Outcome::Abandoned),
    ];
    let step = prop_oneof![
        3 => Just(Step::Call),
        4 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Step::Settle(which, outcome)),
        1 => (0..1_500_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..200)
}

/// The ticket of a call, with the breaker's state when it was admitted.
#[derive(Debug)]
struct Out {
    ticket: Ticket,
    probe: bool,
}

proptest! {
    #[test]
    fn keeps_its_invariants(failures in 1..5_u32, steps in steps()) {
        let mut now = Instant::now();
        let mut circuit = circuit(failures);
        let mut out: Vec<Out> = Vec::new();
        let mut in_a_row = 0;
        for step in steps {
            let before = circuit.state(now);
            match step {
                Step::Pass(ms) => now += Duration::from_millis(ms),
                Step::Call => match circuit.admit(now, WITHIN) {
                    Ok(ticket) => {
                        let cooling =
                            matches!(before, BreakerState::Open { retry_in } if !retry_in.is_zero());
                        prop_assert!(!cooling, "admitted while cooling off");
                        let probe = before != BreakerState::Closed;
                        if probe {
                            prop_assert_eq!(circuit.state(now), BreakerState::HalfOpen);
                            prop_assert!(
                                out.iter().all(|other| other.ticket != ticket),
                                "two probes in one period"
                            );
                        }
                        out.push(Out { ticket, probe });
                    }
                    Err(retry_in) => {
                        prop_assert_ne!(before, BreakerState::Closed);
                        prop_assert!(retry_in <= COOL_OFF.max(WITHIN));
                    }
                },
                Step::Settle(which, outcome) => {
                    if out.is_empty() {
                        continue;
                    }
                    let back = out.swap_remove(which % out.len());
                    let current = back.ticket.period == circuit.period;
                    circuit.settle(back.ticket, outcome, now);
                    let after = circuit.state(now);
                    if !current {
                        prop_assert_eq!(after, before, "an old ticket changed something");
                        continue;
                    }
                    match (back.probe, outcome) {
                        (true, Outcome::Answered) => {
                            prop_assert_eq!(after, BreakerState::Closed);
                            in_a_row = 0;
                        }
                        (true, _) => {
                            let open = matches!(after, BreakerState::Open { .. });
                            prop_assert!(open, "a probe without an answer closed it");
                        }
                        (false, Outcome::Failed) => {
                            in_a_row += 1;
                            prop_assert_eq!(after == BreakerState::Closed, in_a_row < failures);
                        }
                        (false, Outcome::Answered) => in_a_row = 0,
                        (false, Outcome::Abandoned) => prop_assert_eq!(after, before),
                    }
                }
            }
        }
        prop_assert!(circuit.admit(now + COOL_OFF.max(WITHIN), WITHIN).is_ok(), "wedged");
    }
}
