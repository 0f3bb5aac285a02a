//! Real servers for tests: redis-server on a free port, stopped, killed and cut on purpose.
