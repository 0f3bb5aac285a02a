//! What most calls never have.

/// Something in a box, or nothing. The glue that drops an `Option<Box<_>>` is a function that is called whether or not there is anything
/// in it, and it was a fifteenth of a call that succeeds: here it is called only where there is.
#[derive(Debug)]
pub(crate) struct Rarely<T>(Option<Box<T>>);

impl<T> Rarely<T> {
    #[inline]
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }

    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }

    pub(crate) fn get_or_insert_with(&mut self, make: impl FnOnce() -> T) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(make()))
    }
}

impl<T> Drop for Rarely<T> {
    #[inline]
    fn drop(&mut self) {
        if let Some(had) = self.0.take() {
            let_go(had);
        }
    }
}

#[cold]
#[inline(never)]
fn let_go<T>(had: Box<T>) {
    drop(had);
}
