//! What the load consists of: which request comes next, for whom.

use fastrand::Rng;

/// How many orders back a client's own retry may reach.
const MEMORY: usize = 4_096;

/// The shares of the mix, each of all requests.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Writes; the rest are reads.
    pub writes: f64,
    /// Of the writes, those that repeat an earlier order under its key, as a client that lost the answer does.
    pub repeats: f64,
    /// Of the writes, those that name a product that does not exist.
    pub poison: f64,
    /// Of the reads, those of products; of the rest two thirds read a user and one third an order.
    pub products: f64,
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            writes: 0.2,
            repeats: 0.05,
            poison: 0.005,
            products: 0.75,
        }
    }
}

/// An order as a client would send it, again and again if need be.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// Who places it.
    pub(super) user: usize,
    /// The idempotency key.
    pub(super) key: String,
    /// The JSON body.
    pub(super) body: String,
    /// Units.
    pub(super) quantity: u32,
}

/// One request of the load.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Place an order.
    Place(Placed),
    /// Read a product, by number from 1.
    Product(usize),
    /// Read a user's sums.
    User(usize),
    /// Read an order that was accepted.
    Order(String),
}

/// Draws requests one after the other.
#[derive(Debug)]
pub(super) struct Plan {
    rng: Rng,
    mix: Mix,
    run: u64,
    users: Zipf,
    products: Zipf,
    sent: Ring<Placed>,
    accepted: Ring<(usize, String)>,
    keys: u64,
}

impl Plan {
    /// A plan over so many users and products, the same for the same seed.
    pub(super) fn new(mix: Mix, users: usize, products: usize, seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            mix,
            run: seed,
            users: Zipf::new(users, 0.8),
            products: Zipf::new(products, 0.99),
            sent: Ring::new(MEMORY),
            accepted: Ring::new(MEMORY),
            keys: 0,
        }
    }

    /// The next request, and who makes it.
    pub(super) fn draw(&mut self) -> (usize, Request) {
        if self.rng.f64() < self.mix.writes {
            let placed = self.place();
            return (placed.user, Request::Place(placed));
        }
        let user = self.users.draw(&mut self.rng);
        let kind = self.rng.f64();
        if kind < self.mix.products || self.accepted.is_empty() {
            return (
                user,
                Request::Product(1 + self.products.draw(&mut self.rng)),
            );
        }
        let (owner, order) = self
            .accepted
            .pick(&mut self.rng)
            .expect("not empty, as seen above")
            .clone();
        if kind < self.mix.products + (1.0 - self.mix.products) * 2.0 / 3.0 {
            (user, Request::User(owner))
        } else {
            (user, Request::Order(order))
        }
    }

    fn place(&mut self) -> Placed {
        let kind = self.rng.f64();
        if kind < self.mix.repeats
            && let Some(earlier) = self.sent.pick(&mut self.rng)
        {
            return earlier.clone();
        }
        self.keys += 1;
        let item = if kind > 1.0 - self.mix.poison {
            format!("no-such-product-{}", self.rng.u32(..1_000))
        } else {
            format!("product-{}", 1 + self.products.draw(&mut self.rng))
        };
        let key = format!("{:x}-{:x}", self.run, self.keys);
        let quantity = self.rng.u32(1..=5);
        let body = format!(r#"{{"requestId":"{key}","item":"{item}","quantity":{quantity}}}"#);
        let placed = Placed {
            user: self.users.draw(&mut self.rng),
            key,
            body,
            quantity,
        };
        self.sent.push(placed.clone());
        placed
    }

    /// Notes an accepted order, so that later reads can ask for it and its user.
    pub(super) fn accepted(&mut self, user: usize, order: String) {
        self.accepted.push((user, order));
    }
}

/// The last so many of what was pushed.
#[derive(Debug)]
struct Ring<T> {
    items: Vec<T>,
    next: usize,
}

impl<T> Ring<T> {
    fn new(capacity: usize) -> Self {
        Self {
            items: Vec::with_capacity(capacity),
            next: 0,
        }
    }

    fn push(&mut self, item: T) {
        if self.items.len() < self.items.capacity() {
            self.items.push(item);
        } else {
            let at = self.next;
            self.items[at] = item;
        }
        self.next = (self.next + 1) % self.items.capacity();
    }

    fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn pick(&self, rng: &mut Rng) -> Option<&T> {
        (!self.items.is_empty()).then(|| &self.items[rng.usize(..self.items.len())])
    }
}

/// Ranks from zero, rank k with a chance in proportion to 1/(k+1)^s.
#[derive(Debug)]
struct Zipf {
    cumulative: Vec<f64>,
}

impl Zipf {
    fn new(ranks: usize, s: f64) -> Self {
        let mut sum = 0.0;
        let cumulative = (1..=ranks.max(1))
            .map(|k| {
                sum += (k as f64).powf(-s);
                sum
            })
            .collect();
        Self { cumulative }
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let total = self.cumulative.last().expect("there is at least one rank");
        let x = rng.f64() * total;
        self.cumulative
            .partition_point(|&c| c <= x)
            .min(self.cumulative.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_what_it_says() {
        let mut plan = Plan::new(Mix::default(), 10_000, 1_000, 7);
        let (mut writes, mut poison, mut keys) = (0, 0, std::collections::HashMap::new());
        for _ in 0..100_000 {
            if let (_, Request::Place(placed)) = plan.draw() {
                writes += 1;
                poison += usize::from(placed.body.contains("no-such"));
                *keys.entry(placed.key).or_insert(0) += 1;
            }
        }
        let repeats = writes - keys.len();
        assert!((19_000..21_000).contains(&writes), "{writes}");
        assert!((50..200).contains(&poison), "{poison}");
        assert!((800..1_200).contains(&repeats), "{repeats}");
    }

    #[test]
    fn zipf_favours_low_ranks_in_proportion() {
        let zipf = Zipf::new(1_000, 1.0);
        let mut rng = Rng::with_seed(1);
        let mut counts = vec![0_f64; 1_000];
        for _ in 0..200_000 {
            counts[zipf.draw(&mut rng)] += 1.0;
        }
        let ratio = counts[0] / counts[9];
        assert!((8.0..12.5).contains(&ratio), "{ratio}");
    }
}
