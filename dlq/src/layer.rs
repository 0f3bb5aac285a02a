//! The layer and its settings.

use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use crate::{
    BoxError, ConfigError, DeadLetter, Disposition, Failure, NoCapture, Panicked, SystemClock,
    WallClock, error::in_code,
};

type Explain = dyn Fn(&BoxError) -> Option<Failure> + Send + Sync;
type Dispose = dyn Fn(&BoxError) -> Disposition + Send + Sync;

/// Writes down what fails for good, and only then says so.
///
/// # Default
///
/// Every failure is dead; it is explained by [`Failure::of`]; the sink has 30 seconds to answer.
#[must_use = "a layer does nothing until a service is put into it"]
pub struct DeadLetterLayer<S, C = NoCapture> {
    parts: Parts<S, C>,
}

/// What the layer shares with its services and their calls.
pub(crate) struct Parts<S, C> {
    pub(crate) sink: Arc<S>,
    pub(crate) capture: Arc<C>,
    pub(crate) after: After,
}

/// What is asked only after a failure: boxed, for it costs nothing until then.
#[derive(Clone)]
pub(crate) struct After {
    explain: Arc<Explain>,
    dispose: Arc<Dispose>,
    clock: Arc<dyn WallClock>,
    pub(crate) write_within: Duration,
}

impl<S> DeadLetterLayer<S> {
    /// Writes letters to `sink`. What a letter keeps of a request has to be said next, by
    /// [`capture`](Self::capture).
    pub fn new(sink: S) -> Self {
        Self {
            parts: Parts {
                sink: Arc::new(sink),
                capture: Arc::new(NoCapture(())),
                after: After {
                    explain: Arc::new(|_| None),
                    dispose: Arc::new(|_| Disposition::DeadLetter),
                    clock: Arc::new(SystemClock),
                    write_within: Duration::from_secs(30),
                },
            },
        }
    }
}

impl<S, C> DeadLetterLayer<S, C> {
    /// Keeps of each request what a letter needs, before the service consumes it: a
    /// [`Capture`](crate::Capture), such as a closure `|request: &Req| Envelope`. Where it gives
    /// `None`, the request is never dead-lettered.
    pub fn capture<C2>(self, capture: C2) -> DeadLetterLayer<S, C2> {
        let Parts {
            sink,
            capture: _,
            after,
        } = self.parts;
        DeadLetterLayer {
            parts: Parts {
                sink,
                capture: Arc::new(capture),
                after,
            },
        }
    }

    /// Explains an error in the letter: the place for what an inner layer's error knows, such as the
    /// number of attempts. Where it gives `None`, [`Failure::of`] explains it. A panic comes as a
    /// [`Panicked`].
    pub fn explain(
        mut self,
        explain: impl Fn(&BoxError) -> Option<Failure> + Send + Sync + 'static,
    ) -> Self {
        self.parts.after.explain = Arc::new(explain);
        self
    }

    /// Decides which errors are dead, which go to the caller, and which say that the request should
    /// come again later. A panic is always dead.
    pub fn dispose(
        mut self,
        dispose: impl Fn(&BoxError) -> Disposition + Send + Sync + 'static,
    ) -> Self {
        self.parts.after.dispose = Arc::new(dispose);
        self
    }

    /// Dates letters by this clock.
    pub fn clock(mut self, clock: impl WallClock + 'static) -> Self {
        self.parts.after.clock = Arc::new(clock);
        self
    }

    /// How long the sink may take. When it takes longer the call fails with a
    /// [`NotWritten`](crate::NotWritten).
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn write_within(self, limit: Duration) -> Self {
        in_code!(self.try_write_within(limit))
    }

    /// [`write_within`](Self::write_within) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn try_write_within(mut self, limit: Duration) -> Result<Self, ConfigError> {
        if limit.is_zero() {
            return Err(ConfigError::new("no letter is written in no time"));
        }
        self.parts.after.write_within = limit;
        Ok(self)
    }
}

impl After {
    /// What is to become of a request that failed so.
    pub(crate) fn dispose(&self, error: &BoxError) -> Disposition {
        match error.is::<Panicked>() {
            true => Disposition::DeadLetter,
            false => (self.dispose)(error),
        }
    }

    pub(crate) fn explain(&self, error: &BoxError) -> Failure {
        (self.explain)(error).unwrap_or_else(|| Failure::of(error))
    }

    pub(crate) fn now(&self) -> std::time::SystemTime {
        self.clock.now()
    }
}

impl<S, C> Clone for Parts<S, C> {
    fn clone(&self) -> Self {
        Self {
            sink: Arc::clone(&self.sink),
            capture: Arc::clone(&self.capture),
            after: self.after.clone(),
        }
    }
}

impl<S, C> Clone for DeadLetterLayer<S, C> {
    fn clone(&self) -> Self {
        Self {
            parts: self.parts.clone(),
        }
    }
}

impl<S: fmt::Debug, C> fmt::Debug for DeadLetterLayer<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetterLayer")
            .field("sink", &self.parts.sink)
            .field("write_within", &self.parts.after.write_within)
            .finish_non_exhaustive()
    }
}

impl<I, S, C> Layer<I> for DeadLetterLayer<S, C> {
    type Service = DeadLetter<I, S, C>;

    fn layer(&self, inner: I) -> Self::Service {
        DeadLetter::new(inner, self.parts.clone())
    }
}
