//! Whose keys they are, as a type: a layer that does not say is not a layer.

/// There is no scope yet: call `.scope(..)` or `.unscoped()`.
#[derive(Debug, Clone, Copy)]
pub struct ScopeMissing;

/// All keys are of one scope.
#[derive(Debug, Clone, Copy)]
pub struct Unscoped;
