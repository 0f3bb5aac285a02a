//! A disk that fills up: a small file system of its own where one may be mounted, else a limit on the process's files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::process::Server;

/// Bytes beyond which no file may grow while the disk is full; every file of a running pipeline is larger.
const LIMIT: u64 = 32 << 10;

/// Where a run's data lies.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
    mounted: bool,
}

impl Disk {
    /// A file system of so many MiB at a directory that is made for it, or only the directory where this process may
    /// not mount one.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn make(directory: &Path, mib: u32) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(directory)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        let directory = directory.to_owned();
        Ok(Self { directory, mounted })
    }

    /// A directory on whatever disk it lies.
    ///
    /// # Errors
    ///
    /// When the directory cannot be made.
    pub fn plain(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let directory = directory.to_owned();
        Ok(Self {
            directory,
            mounted: false,
        })
    }

    /// Where to put the data.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Leaves no room, for this server at least.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub fn fill(&self, server: &Server) -> Result<()> {
        if !self.mounted {
            return server.limit_files(Some(LIMIT));
        }
        let mut ballast = File::create(self.ballast())?;
        let block = vec![0; 1 << 16];
        // Until there is no room, which is the point; then byte by byte what a block did not fit into.
        while ballast.write_all(&block).is_ok() {}
        while ballast.write_all(&block[..512]).is_ok() {}
        Ok(())
    }

    /// Makes room again.
    ///
    /// # Errors
    ///
    /// When that cannot be done.
    pub fn free(&self, server: Option<&Server>) -> Result<()> {
        if self.mounted {
            return Ok(fs::remove_file(self.ballast())?);
        }
        server.map_or(Ok(()), |server| server.limit_files(None))
    }

    /// Saves what lies on a disk that ends with the run.
    ///
    /// # Errors
    ///
    /// When it cannot be copied.
    pub fn keep(&self, to: &Path) -> Result<()> {
        if self.mounted {
            fs::create_dir_all(to)?;
            for entry in fs::read_dir(self.data())? {
                let entry = entry?;
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Lazily: a process that was just killed may hold it for a moment.
            let _ = Command::new("umount")
                .arg("-l")
                .arg(&self.directory)
                .status();
        }
    }
}
