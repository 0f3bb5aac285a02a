//! Retries as a tower layer: exponential backoff, a budget that cannot amplify an outage, deadlines, typed final errors.
