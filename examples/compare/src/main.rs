//! Side-by-side measurements of the layers against their peers, interleaved in one run.

fn main() {}
