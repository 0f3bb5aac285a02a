//! The products that every shard is made with.

use std::ops::RangeInclusive;

/// How many products there are.
pub const PRODUCTS: u32 = 1_000;

/// A product of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Product {
    /// Its id, as an order names it: `product-1` to `product-1000`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its price, in cents.
    pub price_cents: u64,
}

/// The numbers of the products.
pub(super) const NUMBERS: RangeInclusive<u32> = 1..=PRODUCTS;

/// The product of a number: the same in every shard and every run.
pub fn product(number: u32) -> Product {
    const SHADES: [&str; 10] = [
        "Amber", "Slate", "Coral", "Olive", "Ivory", "Cobalt", "Rust", "Sage", "Plum", "Sand",
    ];
    const THINGS: [&str; 10] = [
        "lamp", "kettle", "basket", "clock", "bench", "jug", "blanket", "shelf", "bowl", "mirror",
    ];
    let [shade, thing] = [number, number / 10].map(|n| n as usize % 10);
    Product {
        id: format!("product-{number}"),
        name: format!("{} {} {number}", SHADES[shade], THINGS[thing]),
        // Spread over 1.99 to 100.99 by a step that shares no factor with the range.
        price_cents: 199 + u64::from(number) * 37 % 100 * 100,
    }
}

/// A product's version: above what is not there, and never raised.
pub(super) const CATALOGUE: u64 = 1;
