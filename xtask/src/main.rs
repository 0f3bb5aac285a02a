//! The project's chores: test, ci, prove.

fn main() {}
