//! Why a data directory was not opened.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::log::LogId;

/// Why a data directory was not opened. Each is one line that names the file or the directory.
#[derive(Debug)]
#[non_exhaustive]
pub enum DataError {
    /// Another process has it open.
    InUse {
        /// The directory.
        directory: PathBuf,
    },
    /// It holds something, and not what this program wrote.
    NotOurs {
        /// The directory, or the file that stands in its place.
        directory: PathBuf,
    },
    /// It was made with another number of partitions or shards than was asked for.
    OtherSettings {
        /// The directory.
        directory: PathBuf,
        /// What differs: `partitions` or `shards`.
        setting: &'static str,
        /// What was asked for.
        asked: u16,
        /// What it was made with.
        made_with: u16,
    },
    /// A new directory cannot be put there.
    BadPlace {
        /// The directory.
        directory: PathBuf,
        /// Why, and what to do.
        why: &'static str,
    },
    /// A setting that no directory can have.
    BadSettings(&'static str),
    /// A file is not what was written into it. Nothing was changed.
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        damage: Damage,
    },
    /// A file cannot be made, read or written.
    Io {
        /// The file or directory.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// SQLite cannot write to a file that was found sound.
    Sqlite {
        /// The file.
        file: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
}

/// What is wrong with a file of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// It is not there.
    Missing,
    /// It cannot be read as what it should be.
    Unreadable(String),
    /// A record of the log is gone, or does not match its checksum or the chain.
    Record {
        /// The record's offset.
        offset: u64,
        /// What does not match.
        what: &'static str,
    },
    /// The log ends before a record that was acknowledged.
    BelowMark {
        /// The last record found, 0 for none.
        end: u64,
        /// The last record acknowledged.
        mark: u64,
    },
    /// The log ends before what a shard has applied.
    BelowWatermark {
        /// The partition.
        partition: u16,
        /// How far the shard has applied it.
        watermark: u64,
        /// The position after the log's last record.
        end: u64,
    },
    /// A shard's watermark names another log.
    ForeignLog {
        /// The log that it names.
        names: LogId,
    },
    /// It contradicts itself or the rest of the directory.
    Contradiction(String),
}

impl DataError {
    pub(crate) fn damaged(file: impl Into<PathBuf>, damage: Damage) -> Self {
        Self::Damaged {
            file: file.into(),
            damage,
        }
    }

    pub(crate) fn io(file: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io {
            file: file.into(),
            source,
        }
    }

    pub(crate) fn sqlite(file: impl Into<PathBuf>, source: rusqlite::Error) -> Self {
        Self::Sqlite {
            file: file.into(),
            source,
        }
    }
}

impl fmt::Display for DataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { directory } => {
                write!(f, "{} is in use by another process", directory.display())
            }
            Self::NotOurs { directory } => write!(
                f,
                "{} is not a data directory of this program: name an empty or a new one",
                directory.display()
            ),
            Self::OtherSettings {
                directory,
                setting,
                asked,
                made_with,
            } => write!(
                f,
                "{} was made with {made_with} {setting}, not {asked}: leave the setting out, or name a new directory",
                directory.display()
            ),
            Self::BadPlace { directory, why } => write!(f, "{}: {why}", directory.display()),
            Self::BadSettings(why) => f.write_str(why),
            Self::Damaged { file, damage } => {
                write!(
                    f,
                    "{} is damaged, nothing was changed: {damage}",
                    file.display()
                )
            }
            Self::Io { file, source } => write!(f, "{}: {source}", file.display()),
            Self::Sqlite { file, source } => {
                write!(
                    f,
                    "{}: {}",
                    file.display(),
                    source.to_string().replace('\n', " ")
                )
            }
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the file is missing"),
            Self::Unreadable(why) | Self::Contradiction(why) => f.write_str(why),
            Self::Record { offset, what } => write!(f, "record {offset} {what}"),
            Self::BelowMark { end, mark } => {
                write!(
                    f,
                    "the log ends at record {end}, and record {mark} was acknowledged"
                )
            }
            Self::BelowWatermark {
                partition,
                watermark,
                end,
            } => write!(
                f,
                "partition {partition} is applied up to {watermark}, and the log ends at {end}"
            ),
            Self::ForeignLog { names } => {
                write!(f, "it belongs to the log {}", crate::order::hex(&names.0))
            }
        }
    }
}

impl std::error::Error for DataError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Sqlite { source, .. } => Some(source),
            _ => None,
        }
    }
}
