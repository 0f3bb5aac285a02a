//! A dead-letter queue as a tower layer: what finally fails is written down before it is acknowledged, and can be redriven.
