//! What is counted, with its bounded labels, and what is told.

#![allow(clippy::unwrap_used, reason = "in a test it is the assertion")]

use std::collections::BTreeMap;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, CounterFn, Gauge, Histogram, KeyName, Metadata, Recorder, SharedString, Unit,
};
use seawall_ratelimit::{
    BoxError, Charges, Decision, MemoryStore, Plan, Policy, Quota, RateLimitLayer, Rule, Store,
    StoreError, Verdict,
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};

/// Counts by the values of the labels.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

struct One(Counts, String);

impl CounterFn for One {
    fn increment(&self, value: u64) {
        *self.0.0.lock().unwrap().entry(self.1.clone()).or_default() += value;
    }

    fn absolute(&self, _: u64) {}
}

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &metrics::Key, _: &Metadata<'_>) -> Counter {
        assert_eq!(key.name(), "seawall_ratelimit_decisions_total");
        let labels = key.labels();
        let labels: Vec<_> = labels
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        Counter::from_arc(Arc::new(One(self.clone(), labels.join(" "))))
    }

    fn register_gauge(&self, _: &metrics::Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &metrics::Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// What was told, a line for each event.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("seawall_ratelimit")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        event.record(&mut Line(&mut line));
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// Does the work in paused time; gives what was counted and what was told.
fn observed(work: impl AsyncFnOnce()) -> (Vec<(String, u64)>, Vec<String>) {
    let (counts, lines) = (Counts::default(), Lines::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    metrics::with_local_recorder(&counts, || {
        tracing::subscriber::with_default(lines.clone(), || runtime.block_on(work()));
    });
    let counts = counts.0.lock().unwrap().clone();
    let lines = lines.0.lock().unwrap().clone();
    (counts.into_iter().collect(), lines)
}

fn expect(counted: &[(String, u64)], expected: &[(&str, u64)]) {
    let counted: Vec<_> = counted
        .iter()
        .map(|(labels, count)| (labels.as_str(), *count))
        .collect();
    assert_eq!(counted, expected);
}

struct Ask {
    user: u64,
    cost: u32,
}

fn rules() -> RateLimitLayer<MemoryStore, impl seawall_ratelimit::Apply<Ask>> {
    RateLimitLayer::new(MemoryStore::with_capacity(10))
        .rule(
            Rule::new("user", Quota::per_minute(2))
                .key(|ask: &Ask| ask.user.into())
                .cost(|ask: &Ask| ask.cost)
                .plan(|ask: &Ask, _| match ask.user {
                    666 => Plan::Denied,
                    _ => Plan::Regular,
                }),
        )
        .rule(Rule::new("all", Quota::per_minute(100)))
        .rule(Rule::new("planned", Quota::per_minute(1)).shadow())
}

#[test]
fn each_outcome_is_counted_by_rule() {
    let (counted, told) = observed(async || {
        let limits = rules().checker();
        for (user, cost) in [(4_711, 1), (4_711, 1), (4_711, 1), (4_712, 3), (666, 1)] {
            let _ = limits.check(&Ask { user, cost }).await;
        }
    });
    expect(
        &counted,
        &[
            ("rule=all outcome=allowed", 2),
            ("rule=planned outcome=allowed", 1),
            ("rule=planned outcome=shadow", 2),
            ("rule=user outcome=allowed", 2),
            ("rule=user outcome=cost_above_limit", 1),
            ("rule=user outcome=denied", 1),
            ("rule=user outcome=refused", 1),
        ],
    );
    assert_eq!(told.len(), 5, "{told:?}");
    let of = |text: &str| told.iter().filter(|line| line.contains(text)).count();
    assert_eq!(of(r#"rule="user""#), 3);
    assert_eq!(of("shadow=true"), 2);
    assert_eq!(of("over the rate limit"), 3);
    assert_eq!(of("the cost is above the limit"), 1);
    assert_eq!(of("denied by its plan"), 1);
    assert_eq!(of("471"), 0, "a key is never told");
}

#[test]
fn who_waits_is_counted_once() {
    let (counted, told) = observed(async || {
        let layer = RateLimitLayer::new(MemoryStore::with_capacity(10))
            .rule(Rule::new("all", Quota::per_second(1)))
            .wait_up_to(Duration::from_secs(2));
        let mut service = layer.layer(service_fn(async |(): ()| Ok::<_, BoxError>(())));
        for _ in 0..3 {
            service.ready().await.unwrap().call(()).await.unwrap();
        }
    });
    let expected = [
        ("rule=all outcome=allowed", 3),
        ("rule=all outcome=delayed", 2),
    ];
    expect(&counted, &expected);
    assert_eq!(told.len(), 2);
}

// The rules are asked again for the receipt, and for whom a refusal hit; that is no second request.
#[test]
fn what_is_asked_again_is_not_told_again() {
    let (counted, _) = observed(async || {
        let top = seawall_ratelimit::TopRefused::new(10);
        let layer = RateLimitLayer::new(MemoryStore::with_capacity(10))
            .rule(Rule::new("all", Quota::per_minute(1)))
            .rule(
                Rule::new("costly", Quota::per_minute(1))
                    .cost(|(): &()| 2)
                    .shadow(),
            )
            .top_refused(&top)
            .refund_if(|answer: &Result<(), BoxError>| answer.is_err());
        let mut service = layer.layer(service_fn(async |(): ()| Ok::<_, BoxError>(())));
        service.ready().await.unwrap().call(()).await.unwrap();
        service.ready().await.unwrap().call(()).await.unwrap_err();
        assert_eq!(top.list().len(), 1);
    });
    expect(
        &counted,
        &[
            ("rule=all outcome=allowed", 1),
            ("rule=all outcome=refused", 1),
            ("rule=costly outcome=shadow", 2),
        ],
    );
}

/// Lets everything pass, since its counters are out of reach.
#[derive(Clone)]
struct Degraded;

impl Store for Degraded {
    type Scope = ();
    type Deciding = std::future::Ready<Result<Decision, StoreError>>;

    fn scope(&self, _: &Policy) {}

    fn decide(&self, charges: &Charges<'_, ()>) -> Verdict<Self::Deciding> {
        let mut decision = Decision::empty();
        for charge in charges.iter() {
            let passes = seawall_ratelimit::window::Wait::None;
            let outcome = seawall_ratelimit::window::Outcome::new(1, 0, 0, passes);
            decision.push(charge.number(), outcome);
        }
        Verdict::Later(std::future::ready(Ok(decision.degraded())))
    }
}

#[test]
fn what_passes_uncounted_is_counted_as_degraded() {
    let (counted, _) = observed(async || {
        let limits = RateLimitLayer::new(Degraded)
            .rule(Rule::new("all", Quota::per_second(1)))
            .checker();
        limits.check(&()).await.unwrap();
    });
    expect(&counted, &[("rule=all outcome=degraded", 1)]);
}
