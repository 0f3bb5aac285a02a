//! CPU time by stage: every thread is named for the stage it serves, and the kernel counts for each thread.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// The stages and the thread names that belong to them, by prefix.
const STAGES: [(&str, &str); 5] = [
    ("load", "load"),
    ("api", "api"),
    ("worker", "workers"),
    ("log", "log"),
    ("shard", "shards"),
];

/// CPU time that this process's threads have used so far, by stage; what no stage owns is `other`.
///
/// Read from the scheduler's statistics where the system has them (Linux), else empty. A thread that has
/// ended is not counted, so take it while the stages still run.
pub fn by_stage() -> BTreeMap<&'static str, Duration> {
    let mut sums = BTreeMap::new();
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        return sums;
    };
    for thread in threads.flatten() {
        let path = thread.path();
        let (Ok(name), Ok(stat)) = (
            fs::read_to_string(path.join("comm")),
            fs::read_to_string(path.join("schedstat")),
        ) else {
            continue;
        };
        let nanos = stat
            .split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0);
        *sums.entry(stage_of(name.trim())).or_default() += Duration::from_nanos(nanos);
    }
    sums
}

fn stage_of(thread: &str) -> &'static str {
    STAGES
        .iter()
        .find(|(prefix, _)| thread.starts_with(prefix))
        .map_or("other", |(_, stage)| stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_counted_for_its_stage() {
        std::thread::Builder::new()
            .name("shard-07".into())
            .spawn(|| {
                let mut x = 1_u64;
                let used = loop {
                    for i in 0..100_000 {
                        x = std::hint::black_box(x.wrapping_mul(31) ^ i);
                    }
                    let used = by_stage().get("shards").copied().unwrap_or_default();
                    if used > Duration::ZERO || !std::path::Path::new("/proc/self/task").exists() {
                        break used;
                    }
                };
                assert!(used > Duration::ZERO);
            })
            .expect("a thread starts")
            .join()
            .expect("its assertion holds");
    }
}
