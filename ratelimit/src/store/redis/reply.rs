use redis::Value;

use super::Asked;
use crate::decision::Decision;
use crate::error::StoreError;
use crate::window::{Outcome, Wait};

/// Four numbers for each rule, or the number of the rule under whose key lies something else.
pub(super) fn read(reply: &Value, asked: &[Asked]) -> Result<Decision, StoreError> {
    let unexpected = || StoreError::UnexpectedReply(format!("{reply:?}"));
    let Value::Array(numbers) = reply else {
        return Err(unexpected());
    };
    if let [Value::Int(foreign)] = numbers.as_slice() {
        let place = usize::try_from(*foreign)
            .ok()
            .and_then(|place| place.checked_sub(1));
        let rule = place
            .and_then(|place| asked.get(place))
            .ok_or_else(unexpected)?;
        return Err(StoreError::ForeignValue {
            rule: rule.rule.policy.shared_name(),
        });
    }
    if numbers.len() != 4 * asked.len() {
        return Err(unexpected());
    }
    let mut decision = Decision::empty();
    for (asked, numbers) in asked.iter().zip(numbers.chunks_exact(4)) {
        let outcome = outcome(numbers).ok_or_else(unexpected)?;
        let outcome = outcome.in_window_of(asked.terms);
        let outcome = match asked.shadow {
            true => outcome.in_shadow(),
            false => outcome,
        };
        decision.push(asked.number, outcome);
    }
    Ok(decision)
}

fn outcome(numbers: &[Value]) -> Option<Outcome> {
    let [
        Value::Int(limit),
        Value::Int(remaining),
        Value::Int(reset),
        Value::Int(wait),
    ] = *numbers
    else {
        return None;
    };
    let wait = match wait {
        -1 => Wait::Forever,
        0 => Wait::None,
        micros => Wait::Micros(micros.try_into().ok()?),
    };
    Some(Outcome::new(
        limit.try_into().ok()?,
        remaining.try_into().ok()?,
        reset.try_into().ok()?,
        wait,
    ))
}
