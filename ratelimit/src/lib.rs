//! Sliding-window rate limits as a tower layer: strict in memory and on Redis, all rules in one round trip.
