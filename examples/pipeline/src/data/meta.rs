//! What a directory is, in a file that people can read.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Damage, DataError};
use crate::log::LogId;
use crate::order::{hex, unhex};

const SCHEMA: u32 = 1;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Meta {
    schema: u32,
    log: String,
    pub(super) partitions: u16,
    pub(super) shards: u16,
}

impl Meta {
    /// A new directory's, with an id for its log that no other has.
    pub(super) fn new(partitions: u16, shards: u16) -> Result<Self, DataError> {
        let mut id = [0; 16];
        let source = Path::new("/dev/urandom");
        std::fs::File::open(source)
            .and_then(|mut random| std::io::Read::read_exact(&mut random, &mut id))
            .map_err(|why| DataError::io(source, why))?;
        Ok(Self {
            schema: SCHEMA,
            log: hex(&id),
            partitions,
            shards,
        })
    }

    pub(super) fn read(path: &Path) -> Result<Self, DataError> {
        let damaged = |damage| DataError::damaged(path, damage);
        let bytes = std::fs::read(path).map_err(|why| match why.kind() {
            ErrorKind::NotFound => damaged(Damage::Missing),
            _ => DataError::io(path, why),
        })?;
        let unreadable = |why: String| damaged(Damage::Unreadable(why));
        let meta: Self =
            serde_json::from_slice(&bytes).map_err(|why| unreadable(why.to_string()))?;
        if meta.schema != SCHEMA {
            return Err(unreadable(format!(
                "it has schema {}, this program reads {SCHEMA}",
                meta.schema
            )));
        }
        if meta.id().is_none() {
            return Err(unreadable("its log's id is not 32 hex digits".to_owned()));
        }
        if meta.partitions == 0 || meta.shards == 0 {
            return Err(unreadable("it has no partitions or no shards".to_owned()));
        }
        Ok(meta)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("plain fields serialise");
        text.push(b'\n');
        text
    }

    pub(super) fn log(&self) -> LogId {
        self.id()
            .expect("checked when it was read, and hex when it was made")
    }

    fn id(&self) -> Option<LogId> {
        unhex(&self.log)?.try_into().ok().map(LogId)
    }
}
