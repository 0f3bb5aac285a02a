//! A new data directory: built aside, synced, and renamed into its place.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::meta::Meta;
use super::{DataError, Layout, Lock, lock};
use crate::{log, shard};

/// Makes `target` and answers its lock, held. A kill at any point leaves either no `target` or the whole of it.
pub(super) fn build(target: &Path, meta: &Meta) -> Result<Lock, DataError> {
    let (parent, site) = beside(target)?;
    fs::create_dir_all(&parent).map_err(|why| DataError::io(&parent, why))?;
    match fs::create_dir(&site) {
        Err(why) if why.kind() != ErrorKind::AlreadyExists => {
            return Err(DataError::io(&site, why));
        }
        _ => {}
    }
    let layout = Layout(site.clone());
    // Two who make the same directory at once meet here.
    let held = lock(&layout.lock(), target)?;
    clear(&layout)?;
    fill(&layout, meta)?;
    if let Ok(empty) = fs::metadata(target) {
        // What its owner made it to be, who may enter it above all.
        fs::set_permissions(&site, empty.permissions()).map_err(|why| DataError::io(&site, why))?;
    }
    sync(&site)?;
    fs::rename(&site, target).map_err(|why| match why.kind() {
        // Somebody was faster: it is theirs, and open.
        ErrorKind::DirectoryNotEmpty => DataError::InUse {
            directory: target.to_owned(),
        },
        // A volume of its own: nothing can take its place.
        ErrorKind::ResourceBusy | ErrorKind::CrossesDevices => DataError::BadPlace {
            directory: target.to_owned(),
            why: "it is where a volume is mounted, name a new directory in it",
        },
        _ => DataError::io(target, why),
    })?;
    sync(&parent)?;
    Ok(held)
}

/// The directory above `target`, and a name in it for the building site.
fn beside(target: &Path) -> Result<(PathBuf, PathBuf), DataError> {
    let absolute = std::path::absolute(target).map_err(|why| DataError::io(target, why))?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(DataError::NotOurs {
            directory: target.to_owned(),
        });
    };
    let mut site = OsString::from(".");
    site.push(name);
    site.push(".pipeline-building");
    Ok((parent.to_owned(), parent.join(site)))
}

/// Removes what an attempt left that was killed, and nothing that is not of such an attempt.
fn clear(layout: &Layout) -> Result<(), DataError> {
    let site = &layout.0;
    let entries = fs::read_dir(site).map_err(|why| DataError::io(site, why))?;
    for entry in entries {
        let path = entry.map_err(|why| DataError::io(site, why))?.path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned());
        let Some(name) = name.filter(|name| name != "lock") else {
            continue;
        };
        let ours = name == "meta.json" || name.starts_with("log.") || name.starts_with("shard-");
        if !ours {
            return Err(DataError::NotOurs {
                directory: site.clone(),
            });
        }
        fs::remove_file(&path).map_err(|why| DataError::io(&path, why))?;
    }
    Ok(())
}

fn fill(layout: &Layout, meta: &Meta) -> Result<(), DataError> {
    log::create(&layout.log(), meta.log(), meta.partitions)?;
    for shard in 0..meta.shards {
        let identity = shard::Identity {
            log: meta.log(),
            shard,
            shards: meta.shards,
        };
        shard::create(&layout.shard(shard), identity)?;
    }
    let path = layout.meta();
    let write = || {
        let mut file = File::create_new(&path)?;
        file.write_all(&meta.bytes())?;
        file.sync_all()
    };
    write().map_err(|why| DataError::io(&path, why))
}

/// Makes the names in a directory durable.
fn sync(directory: &Path) -> Result<(), DataError> {
    File::open(directory)
        .and_then(|open| open.sync_all())
        .map_err(|why| DataError::io(directory, why))
}
