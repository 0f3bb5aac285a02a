//! Sending letters back to where they came from.

mod drive;

use std::{fmt, future::Future, time::Duration};

use tower_service::Service;

use self::drive::SendFn;
use crate::{
    BoxError, ConfigError, Filter, Letter, Queue, RedriveError, RedriveReason, error::in_code,
};

const LONGEST_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

type Progress = dyn FnMut(&Summary) + Send;
type Problems = dyn FnMut(&RedriveReason) + Send;

/// Sends letters again: each as a copy of the next generation, and removes a letter only when the copy
/// is known to be written.
///
/// Interrupted at any point it loses nothing: what was sent and not yet removed is sent again by the
/// next run, with the same id. Run it again to resume.
///
/// A run takes the letters that are there when it begins, oldest first and one at a time, so that
/// letters of one key stay in order. Copies that die meanwhile are left for the next run.
///
/// # Default
///
/// All letters, at 100 a second, up to generation 10, until 10 in a row have failed.
///
/// # Example
///
/// ```
/// use seawall_dlq::{BoxError, Envelope, Failure, Letter, MemorySink, Origin, Queue, Redrive, Sink};
/// use std::time::SystemTime;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let sink = MemorySink::with_capacity(100);
/// let envelope = Envelope::new(Origin::log("orders", 3, 17), "payload");
/// let letter = Letter::new(envelope, Failure::new("timeout", "slow"), SystemTime::now());
/// sink.write(letter).await.unwrap();
///
/// let summary = Redrive::new(sink.clone())
///     .run(|copy: Letter| async move {
///         assert_eq!((copy.generation, &copy.payload[..]), (1, &b"payload"[..]));
///         Ok::<(), BoxError>(()) // produced, and known to be
///     })
///     .await
///     .unwrap();
/// assert_eq!(summary.redriven, 1);
/// assert_eq!(sink.depth().await.unwrap().letters, 0);
/// # }
/// ```
#[must_use = "a redrive does nothing until it is run"]
pub struct Redrive<Q> {
    queue: Q,
    filter: Filter,
    limit: u64,
    interval: Duration,
    loop_cap: u32,
    give_up_after: u32,
    dry_run: bool,
    progress: Option<Box<Progress>>,
    problems: Option<Box<Problems>>,
}

impl<Q: Queue> Redrive<Q> {
    /// Takes letters from this queue.
    pub fn new(queue: Q) -> Self {
        Self {
            queue,
            filter: Filter::all(),
            limit: u64::MAX,
            interval: Duration::from_millis(10),
            loop_cap: 10,
            give_up_after: 10,
            dry_run: false,
            progress: None,
            problems: None,
        }
    }

    /// Only letters that match.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// At most so many letters.
    pub fn limit(mut self, letters: u64) -> Self {
        self.limit = letters;
        self
    }

    /// At most so many letters a second, evenly spaced. What falls behind is made up for by up to 50 ms.
    ///
    /// # Panics
    ///
    /// If it is not finite, or below one letter a day.
    pub fn per_second(self, letters: f64) -> Self {
        in_code!(self.try_per_second(letters))
    }

    /// [`per_second`](Self::per_second) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is not finite, or below one letter a day.
    pub fn try_per_second(mut self, letters: f64) -> Result<Self, ConfigError> {
        const WRONG: ConfigError =
            ConfigError::new("the rate of a redrive must be finite, and at least one letter a day");
        if !(letters.is_finite() && letters > 0.0) {
            return Err(WRONG);
        }
        let interval = Duration::try_from_secs_f64(1.0 / letters).map_err(|_| WRONG)?;
        if interval > LONGEST_INTERVAL {
            return Err(WRONG);
        }
        self.interval = interval;
        Ok(self)
    }

    /// Leaves letters where they are that have been redriven so often already: they go in circles.
    pub fn loop_cap(mut self, generations: u32) -> Self {
        self.loop_cap = generations;
        self
    }

    /// Stops when so many letters in a row could not be sent.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn give_up_after(self, failures: u32) -> Self {
        in_code!(self.try_give_up_after(failures))
    }

    /// [`give_up_after`](Self::give_up_after) for a value that is not known to be right.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn try_give_up_after(mut self, failures: u32) -> Result<Self, ConfigError> {
        if failures == 0 {
            return Err(ConfigError::new(
                "a redrive cannot give up before its first failure",
            ));
        }
        self.give_up_after = failures;
        Ok(self)
    }

    /// Sends nothing and removes nothing: only counts what a run would send.
    pub fn dry_run(mut self, dry_run: bool) -> Self {
        self.dry_run = dry_run;
        self
    }

    /// Is told how far the run has come after each letter.
    pub fn progress(mut self, progress: impl FnMut(&Summary) + Send + 'static) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Is told of each letter that is left where it is because it could not be sent
    /// ([`RedriveReason::NotSent`]) or not be read ([`RedriveReason::Queue`]). The run goes on with the others.
    pub fn problems(mut self, problems: impl FnMut(&RedriveReason) + Send + 'static) -> Self {
        self.problems = Some(Box::new(problems));
        self
    }

    /// Sends each copy through `send`, which answers when the copy is known to be written.
    ///
    /// # Errors
    ///
    /// If the queue fails, or too many letters in a row could not be sent.
    pub async fn run<F, Fut, T, E>(self, send: F) -> Result<Summary, RedriveError>
    where
        F: FnMut(Letter) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<BoxError>,
    {
        self.through(SendFn(send)).await
    }

    /// Sends each copy through a service, readied before each, which answers when the copy is known
    /// to be written.
    ///
    /// # Errors
    ///
    /// If the queue fails, or too many letters in a row could not be sent.
    pub async fn through<S>(mut self, mut service: S) -> Result<Summary, RedriveError>
    where
        S: Service<Letter>,
        S::Error: Into<BoxError>,
    {
        let mut summary = Summary::default();
        match self.drive(&mut summary, &mut service).await {
            Ok(()) => Ok(summary),
            Err(reason) => Err(RedriveError { summary, reason }),
        }
    }
}

impl<Q> fmt::Debug for Redrive<Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redrive")
            .field("filter", &self.filter)
            .field("limit", &self.limit)
            .field("interval", &self.interval)
            .field("loop_cap", &self.loop_cap)
            .field("give_up_after", &self.give_up_after)
            .field("dry_run", &self.dry_run)
            .finish_non_exhaustive()
    }
}

/// What a redrive has done, so far or in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Letters in the queue when it began, matching or not.
    pub total: u64,
    /// Letters looked at that match the filter.
    pub matched: u64,
    /// Letters sent and removed. In a dry run: letters that would be.
    pub redriven: u64,
    /// Letters that could not be sent. They are still in the queue.
    pub failed: u64,
    /// Letters left alone because they have been redriven as often as the loop cap allows.
    pub looping: u64,
    /// What could not be read, matching or not. It is where it was.
    pub unreadable: u64,
}
