//! A call's hold on its settings, without counting owners where that can be spared.
//!
//! A call has to own what it needs, as it may outlive the service. Counting one owner more at its start
//! and one fewer at its end writes twice to a line that all threads share, which costs more than the
//! rest of a call that succeeds. So each thread keeps the hold of the last call that ended on it, and
//! gives it to the next call with the same settings. What a thread keeps too long is one set of numbers
//! and its budget, never anything of the user's: closures are not in the settings.

use std::{cell::Cell, ops::Deref, sync::Arc};

use crate::policy::Settings;

thread_local! {
    static SPARE: Cell<Option<Arc<Settings>>> = const { Cell::new(None) };
}

/// The settings of a call. They become the thread's spare when it ends.
pub(crate) struct Held(Option<Arc<Settings>>);

impl Held {
    /// The thread's spare where that is of these settings, else a clone.
    #[inline]
    pub(crate) fn new(settings: &Arc<Settings>) -> Self {
        // A thread that is ending keeps nothing.
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        Self(Some(match spare {
            Some(spare) if Arc::ptr_eq(&spare, settings) => spare,
            _ => Arc::clone(settings),
        }))
    }
}

impl Deref for Held {
    type Target = Settings;

    #[inline]
    fn deref(&self) -> &Settings {
        self.0.as_ref().expect("taken only when it is dropped")
    }
}

/// Two calls at once on this thread: one spare is enough.
#[cold]
#[inline(never)]
fn let_go(held: Arc<Settings>) {
    drop(held);
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        let held = self.0.take();
        let _ = SPARE.try_with(|spare| {
            if let Some(other) = spare.replace(held) {
                let_go(other);
            }
        });
    }
}
