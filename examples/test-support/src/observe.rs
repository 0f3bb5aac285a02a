//! What code tells `tracing` and `metrics` while a test runs it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{Debug, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

/// What was told, in order.
#[derive(Debug, Default, Clone)]
pub struct Observed {
    /// Each event as a line: its level, the spans around it, its message and its fields, as in
    /// `WARN request{id=7}: gave up attempts=3`.
    pub events: Vec<String>,
    /// The last value of each metric by its name and labels, as in `retries_total reason=budget`; of a
    /// histogram, how many values it was told.
    pub metrics: BTreeMap<String, f64>,
    /// The values that each histogram was told, by its name and labels.
    pub histograms: BTreeMap<String, Vec<f64>>,
}

impl Observed {
    /// How many events have all of these parts in their line.
    pub fn count(&self, parts: &[&str]) -> usize {
        let has = |line: &&String| parts.iter().all(|part| line.contains(part));
        self.events.iter().filter(has).count()
    }
}

/// Runs `work` and answers what it told on this thread: events of the targets that begin with `target`,
/// and any metrics.
///
/// ```
/// let seen = test_support::observe("orders", || {
///     let _in = tracing::info_span!(target: "orders", "request", id = 7).entered();
///     tracing::warn!(target: "orders", attempts = 3, "gave up");
///     tracing::warn!(target: "another", "not ours");
///     metrics::counter!("orders_total", "how" => "late").increment(2);
/// });
/// assert_eq!(seen.events, ["WARN request{id=7}: gave up attempts=3"]);
/// assert_eq!(seen.metrics["orders_total how=late"], 2.0);
/// ```
pub fn observe(target: &'static str, work: impl FnOnce()) -> Observed {
    let (figures, events) = (Figures::default(), Arc::default());
    let listener = Listener {
        target,
        events: Arc::clone(&events),
        spans: Mutex::default(),
    };
    metrics::with_local_recorder(&figures, || {
        tracing::subscriber::with_default(listener, work);
    });
    let events = locked(&events).clone();
    Observed {
        events,
        metrics: figures.all(),
        histograms: locked(&figures.histograms).clone(),
    }
}

/// A recorder whose metrics can be read while the work goes on, named as in [`Observed::metrics`].
///
/// ```
/// let figures = test_support::Figures::default();
/// let _recording = metrics::set_default_local_recorder(&figures);
/// metrics::gauge!("queued", "shard" => "a").increment(2.0);
/// assert_eq!(figures.get("queued shard=a"), 2.0);
/// ```
#[derive(Debug, Default, Clone)]
pub struct Figures {
    last: Arc<Mutex<BTreeMap<String, f64>>>,
    histograms: Arc<Mutex<BTreeMap<String, Vec<f64>>>>,
}

impl Figures {
    /// The last value of a metric, or 0 where it was not told.
    pub fn get(&self, name: &str) -> f64 {
        locked(&self.last).get(name).copied().unwrap_or_default()
    }

    /// Each metric with its last value.
    pub fn all(&self) -> BTreeMap<String, f64> {
        locked(&self.last).clone()
    }

    fn one(&self, key: &Key) -> Arc<One> {
        let labels = key.labels();
        let labels = labels.map(|label| format!(" {}={}", label.key(), label.value()));
        let name = std::iter::once(key.name().to_owned())
            .chain(labels)
            .collect();
        Arc::new(One(self.clone(), name))
    }
}

/// A test that has failed shall say why, and not that a lock is poisoned.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One metric.
struct One(Figures, String);

impl One {
    fn change(&self, change: impl FnOnce(f64) -> f64) {
        let mut figures = locked(&self.0.last);
        let value = figures.entry(self.1.clone()).or_default();
        *value = change(*value);
    }
}

impl CounterFn for One {
    fn increment(&self, by: u64) {
        self.change(|value| value + by as f64);
    }

    fn absolute(&self, value: u64) {
        self.change(|_| value as f64);
    }
}

impl GaugeFn for One {
    fn increment(&self, by: f64) {
        self.change(|value| value + by);
    }

    fn decrement(&self, by: f64) {
        self.change(|value| value - by);
    }

    fn set(&self, value: f64) {
        self.change(|_| value);
    }
}

impl HistogramFn for One {
    fn record(&self, told: f64) {
        self.change(|value| value + 1.0);
        let mut histograms = locked(&self.0.histograms);
        histograms.entry(self.1.clone()).or_default().push(told);
    }
}

impl Recorder for Figures {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.one(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.one(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.one(key))
    }
}

struct Listener {
    target: &'static str,
    events: Arc<Mutex<Vec<String>>>,
    spans: Mutex<Spans>,
}

#[derive(Default)]
struct Spans {
    known: HashMap<u64, String>,
    entered: Vec<u64>,
}

/// A message and the fields after it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("a string takes what is written to it");
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with(self.target)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut line = Line::default();
        span.record(&mut line);
        let mut spans = locked(&self.spans);
        let id = spans.known.len() as u64 + 1;
        let name = format!("{}{{{}}}", span.metadata().name(), line.fields.trim_start());
        spans.known.insert(id, name);
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let spans = locked(&self.spans);
        let around: String = spans
            .entered
            .iter()
            .map(|id| spans.known[id].clone() + ": ")
            .collect();
        let level = event.metadata().level();
        let Line { message, fields } = line;
        let event = format!("{level} {around}{message}{fields}");
        locked(&self.events).push(event);
    }

    fn enter(&self, id: &Id) {
        locked(&self.spans).entered.push(id.into_u64());
    }

    fn exit(&self, id: &Id) {
        let mut spans = locked(&self.spans);
        let place = spans
            .entered
            .iter()
            .rposition(|entered| *entered == id.into_u64());
        if let Some(place) = place {
            spans.entered.remove(place);
        }
    }
}
