//! Budgets by key.

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use proptest::prelude::*;
use seawall_retry::{Backoff, Budget, Budgets, RetryError, RetryLayer, Stopped};
use support::{Busy, call, seconds};
use tower::{Layer, service_fn};

fn spend(budget: &Budget) -> bool {
    budget
        .withdraw()
        .map(seawall_retry::Withdrawal::spend)
        .is_some()
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_down_spends_no_retries_of_the_others() {
    let hosts = Budgets::ratio(0.1).burst(2);
    let calls: Arc<[AtomicU64; 2]> = Arc::default();
    let (picked, counted) = (hosts.clone(), Arc::clone(&calls));
    let mut service = RetryLayer::new(Backoff::constant(seconds(1)).attempts(2))
        .budget_by(move |host: &usize| Some(picked.of(host)))
        .layer(service_fn(move |host: usize| {
            counted[host].fetch_add(1, Relaxed);
            std::future::ready(Err::<(), _>(Busy))
        }));
    for _ in 0..50 {
        call(&mut service, 0).await.unwrap_err();
    }
    assert_eq!(calls[0].load(Relaxed), 50 + 2);
    let error = call(&mut service, 0).await.unwrap_err();
    assert_eq!(RetryError::find(&error).unwrap().stopped, Stopped::Budget);
    // The other host has all of its own.
    call(&mut service, 1).await.unwrap_err();
    assert_eq!(calls[1].load(Relaxed), 2);
    assert_eq!(
        (hosts.of(0_usize).balance(), hosts.of(1_usize).balance()),
        (0.0, 1.0)
    );
}

#[tokio::test(start_paused = true)]
async fn where_no_key_is_found_the_budget_of_all_counts() {
    let all = Budget::ratio(0.1).burst(1);
    let hosts = Budgets::ratio(0.1).burst(3);
    let picked = hosts.clone();
    let mut service = RetryLayer::new(Backoff::constant(seconds(1)).attempts(2))
        .budget(all.clone())
        .budget_by(move |host: &Option<&str>| host.map(|host| picked.of(host)))
        .layer(service_fn(|_| std::future::ready(Err::<(), _>(Busy))));
    call(&mut service, None).await.unwrap_err();
    assert_eq!((all.balance(), hosts.in_trouble()), (0.0, 0));
    call(&mut service, Some("a")).await.unwrap_err();
    assert_eq!(hosts.of("a").balance(), 2.0);
}

#[test]
fn keys_are_forgotten_when_their_budget_is_full_and_nothing_is_lost_by_it() {
    let budgets = Budgets::ratio(0.5).burst(2);
    for key in 0..1000 {
        assert!(spend(&budgets.of(key)));
    }
    assert_eq!(budgets.in_trouble(), 1000);
    for key in 0..1000 {
        budgets.of(key).deposit();
        budgets.of(key).deposit();
        budgets.of(key).deposit(); // beyond full
    }
    assert_eq!(budgets.in_trouble(), 0);
    assert_eq!(budgets.of(7).balance(), 2.0);
    // A retry that is given back fills it as well.
    let unspent = budgets.of(7).withdraw();
    assert_eq!(budgets.in_trouble(), 1);
    drop(unspent);
    assert_eq!(budgets.in_trouble(), 0);
}

#[test]
fn past_the_capacity_keys_share_one_budget() {
    let budgets = Budgets::ratio(0.5).burst(3).capacity(10);
    let spent = |keys: std::ops::Range<u32>| {
        let budgets = &budgets;
        let spend_all = |key| std::iter::repeat_with(move || spend(&budgets.of(key))).take(5);
        keys.flat_map(spend_all).filter(|spent| *spent).count()
    };
    assert_eq!(spent(0..10), 30);
    assert_eq!(
        spent(10..1_000),
        3,
        "memory and retries are bounded, whatever keys arrive"
    );
    assert_eq!(budgets.in_trouble(), 10);
    budgets.of(5_000).deposit();
    budgets.of(6_000).deposit();
    assert_eq!(spent(2_000..3_000), 1);
    // Shared ones that are given back go back to where they came from.
    budgets.of(5_000).deposit();
    budgets.of(6_000).deposit();
    drop(budgets.of(77).withdraw().unwrap());
    assert_eq!(budgets.of(88).balance(), 1.0);

    let one = Budgets::ratio(0.5).burst(1).capacity(0);
    assert!(spend(&one.of(1)) && !spend(&one.of(2)));
}

#[test]
fn wrong_settings_are_refused() {
    for ratio in [0.0, -0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(Budgets::try_ratio(ratio).is_err());
    }
    assert!(Budgets::ratio(0.1).try_burst(0).is_err());
}

#[test]
fn it_holds_for_each_key_with_threads_racing() {
    const KEYS: usize = 8;
    let budgets = Budgets::ratio(0.3).burst(4);
    let counts: Vec<[AtomicU64; 2]> = (0..KEYS).map(|_| Default::default()).collect();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (budgets, counts) = (&budgets, &counts);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread);
                for _ in 0..2_000 {
                    let key = rng.usize(..KEYS);
                    let [retries, successes] = &counts[key];
                    // Counted before, so that no other thread can spend what is not counted yet.
                    if rng.u8(..) < 150 {
                        successes.fetch_add(1, Relaxed);
                        budgets.of(key).deposit();
                    } else if spend(&budgets.of(key)) {
                        retries.fetch_add(1, Relaxed);
                    }
                }
            });
        }
    });
    for [retries, successes] in counts {
        let bound = 0.3 * successes.into_inner() as f64 + 4.0;
        assert!(retries.into_inner() as f64 <= bound);
    }
}

proptest! {
    /// A budget of a key is one of its own, as long as the capacity is not reached.
    #[test]
    fn a_key_has_what_a_budget_of_its_own_would_have(
        ratio in 0.01..=1.0_f64,
        burst in 1..6_u32,
        steps in prop::collection::vec((0..5_u8, 0..3_u8), 0..200),
    ) {
        let budgets = Budgets::ratio(ratio).burst(burst);
        let mut own: HashMap<u8, Budget> = HashMap::new();
        for (key, step) in steps {
            let alone = own.entry(key).or_insert_with(|| Budget::ratio(ratio).burst(burst));
            match step {
                0 => {
                    budgets.of(key).deposit();
                    alone.deposit();
                }
                1 => prop_assert_eq!(spend(&budgets.of(key)), spend(alone)),
                _ => drop((budgets.of(key).withdraw(), alone.withdraw())),
            }
            prop_assert_eq!(budgets.of(key).balance(), alone.balance());
        }
        let short = own.values().filter(|alone| alone.balance() < f64::from(burst)).count();
        prop_assert_eq!(budgets.in_trouble(), short);
    }
}
