/// How many heap allocations `work` makes on the calling thread.
///
/// Growing a buffer counts as one more; freeing does not count. What other threads allocate
/// meanwhile is not seen, so tests that run beside each other do not disturb the figure.
///
/// ```
/// let mut kept = Vec::new();
/// assert_eq!(test_support::count_allocations(|| kept.push(1_u64)), 1);
/// assert_eq!(test_support::count_allocations(|| kept.push(2_u64)), 0);
/// ```
pub fn count_allocations(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}
