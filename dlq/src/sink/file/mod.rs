//! Letters in a file.
