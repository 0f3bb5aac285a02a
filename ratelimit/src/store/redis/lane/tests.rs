use std::future::{Future, pending};

use redis::{Cmd, Pipeline, RedisResult};

use super::*;
use crate::window::{Terms, WindowKind};

/// Never answers.
#[derive(Clone)]
struct Deaf;

impl Source for Deaf {
    fn command(&self, _: &Cmd) -> impl Future<Output = RedisResult<Value>> + Send {
        pending()
    }

    fn pipeline(&self, _: &Pipeline) -> impl Future<Output = RedisResult<Vec<Value>>> + Send {
        pending()
    }
}

fn refund() -> Refund {
    Refund {
        key: b"key".to_vec(),
        terms: Terms {
            limit: 1,
            width: 1,
            version: 0,
        },
        kind: WindowKind::Sliding,
        charged: 1,
        units: 1,
    }
}

fn waiting(lanes: &Lanes<Deaf>) -> (usize, State) {
    let queue = lanes.lanes[0].lock();
    (queue.refunds.len(), queue.state)
}

// On another thread, what comes between the last look into the queue and the end of the task was wiped with it.
#[tokio::test]
async fn what_comes_while_a_run_ends_is_left_to_the_next_one() {
    let lanes = Lanes::new(Client::new(Deaf), "test");
    let mut ending = Run::of(Arc::clone(&lanes), 0);
    assert!(ending.take().is_none(), "there is nothing");
    Arc::clone(&lanes).refund(vec![refund()]);
    drop(ending);
    assert_eq!(waiting(&lanes), (1, State::Gathering));
}

#[tokio::test]
async fn a_run_that_is_dropped_in_the_middle_leaves_an_idle_lane() {
    let lanes = Lanes::new(Client::new(Deaf), "test");
    Arc::clone(&lanes).refund(vec![refund()]);
    let mut run = Run::of(Arc::clone(&lanes), 0);
    assert!(run.take().is_some());
    Arc::clone(&lanes).refund(vec![refund()]);
    // The second one found this lane under way and took the other.
    assert_eq!(waiting(&lanes), (0, State::UnderWay));
    drop(run);
    assert_eq!(waiting(&lanes), (0, State::Idle));
}
