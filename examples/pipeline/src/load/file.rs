//! The ledger on disk: what a load notes, one JSON object a line, synced before the order that it tells of is
//! sent. Whatever is killed then, the file knows of every order that can have arrived.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::ledger::{Ledger, Sent, Told};
use super::reads::Shown;
use crate::order::{OpId, unhex};

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "note", rename_all = "lowercase")]
enum Line {
    Sent {
        op: String,
        account: String,
        quantity: u32,
    },
    Told {
        op: String,
        status: u16,
        replayed: bool,
        body: String,
    },
    Nothing {
        op: String,
    },
    Order {
        op: String,
        shown: Shown,
        quantity: u32,
        last: bool,
    },
    Account {
        account: String,
        orders: u64,
        units: u64,
        last: bool,
    },
}

/// A ledger's file, open for adding to it.
#[derive(Debug)]
pub struct LedgerFile {
    lines: Option<Sender<(Line, Option<oneshot::Sender<()>>)>>,
    writer: Option<JoinHandle<io::Result<()>>>,
}

impl LedgerFile {
    /// Opens a file, or makes it. A last line that was cut off is completed, so that it spoils no other.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        if !ends_with_newline(&file)? {
            file.write_all(b"\n")?;
        }
        let (lines, queue) = channel();
        let writer = std::thread::Builder::new()
            .name("load-ledger".into())
            .spawn(move || write(file, &queue))?;
        Ok(Self {
            lines: Some(lines),
            writer: Some(writer),
        })
    }

    /// Notes an order that is about to be sent. It is on disk when the receiver gets something, and will
    /// never be when it is closed.
    pub(super) fn sent(&self, op: OpId, sent: &Sent) -> oneshot::Receiver<()> {
        let (synced, wait) = oneshot::channel();
        let Sent { account, quantity } = sent.clone();
        self.add(
            Line::Sent {
                op: op.to_string(),
                account,
                quantity,
            },
            Some(synced),
        );
        wait
    }

    /// Notes an answer. Should it not reach the disk, its order is in doubt, which is true then.
    pub(super) fn told(&self, op: OpId, told: &Told) {
        let op = op.to_string();
        let line = match told {
            Told::Nothing => Line::Nothing { op },
            Told::Answer {
                status,
                replayed,
                body,
            } => {
                let body = String::from_utf8_lossy(body).into_owned();
                Line::Told {
                    op,
                    status: *status,
                    replayed: *replayed,
                    body,
                }
            }
        };
        self.add(line, None);
    }

    /// Notes how an order was shown.
    pub(super) fn shown(&self, op: OpId, shown: Shown, quantity: u32, last: bool) {
        let op = op.to_string();
        let line = Line::Order {
            op,
            shown,
            quantity,
            last,
        };
        self.add(line, None);
    }

    /// Notes the sums that an account was shown with.
    pub(super) fn summed(&self, account: &str, orders: u64, units: u64, last: bool) {
        let account = account.to_owned();
        let line = Line::Account {
            account,
            orders,
            units,
            last,
        };
        self.add(line, None);
    }

    fn add(&self, line: Line, synced: Option<oneshot::Sender<()>>) {
        if let Some(lines) = &self.lines {
            // After an error of the file nobody takes it; the order waits in vain and is not sent.
            let _ = lines.send((line, synced));
        }
    }

    /// Writes the rest and closes the file.
    ///
    /// # Errors
    ///
    /// What went wrong with it, now or earlier.
    pub fn close(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.lines = None;
        match self.writer.take() {
            Some(writer) => writer
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("its thread panicked"))),
            None => Ok(()),
        }
    }
}

impl Drop for LedgerFile {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "the ledger's file could not be written");
        }
    }
}

fn ends_with_newline(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;

    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 {
        file.read_exact_at(&mut last, length - 1)?;
    }
    Ok(last == [b'\n'])
}

/// Writes what waits, syncs it, and says so.
fn write(mut file: File, queue: &Receiver<(Line, Option<oneshot::Sender<()>>)>) -> io::Result<()> {
    while let Ok(first) = queue.recv() {
        let mut text = Vec::new();
        let mut waiting = Vec::new();
        for (line, synced) in std::iter::once(first).chain(queue.try_iter()) {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
            waiting.extend(synced);
        }
        file.write_all(&text)?;
        file.sync_data()?;
        for synced in waiting {
            // Its sender may have been stopped meanwhile.
            let _ = synced.send(());
        }
    }
    Ok(())
}

/// Reads a ledger back. A line that was cut off ends nothing: what it would have told is in doubt.
///
/// # Errors
///
/// When the file cannot be read, or holds a whole line that is not of a ledger.
pub fn read(path: &Path) -> io::Result<Ledger> {
    let mut ledger = Ledger::default();
    let lines: Vec<String> = BufReader::new(File::open(path)?)
        .lines()
        .collect::<io::Result<_>>()?;
    for (number, text) in (1..).zip(&lines).filter(|(_, text)| !text.is_empty()) {
        let line = match serde_json::from_str(text) {
            Ok(line) => line,
            // The process was killed while it wrote. The line goes no further than that.
            Err(error) if error.is_eof() => continue,
            Err(error) => {
                return Err(io::Error::other(format!(
                    "line {number} is not of a ledger: {error}"
                )));
            }
        };
        note(&mut ledger, line)
            .ok_or_else(|| io::Error::other(format!("line {number} names no operation")))?;
    }
    Ok(ledger)
}

fn note(ledger: &mut Ledger, line: Line) -> Option<()> {
    let id = |text: &str| Some(OpId(unhex(text)?.try_into().ok()?));
    match line {
        Line::Sent {
            op,
            account,
            quantity,
        } => ledger.sent(id(&op)?, Sent { account, quantity }),
        Line::Told {
            op,
            status,
            replayed,
            body,
        } => {
            ledger.told(
                id(&op)?,
                Told::Answer {
                    status,
                    replayed,
                    body: Bytes::from(body),
                },
            );
        }
        Line::Nothing { op } => {
            ledger.told(id(&op)?, Told::Nothing);
        }
        Line::Order {
            op,
            shown,
            quantity,
            last,
        } => ledger.reads_mut().order(id(&op)?, shown, quantity, last),
        Line::Account {
            account,
            orders,
            units,
            last,
        } => ledger.reads_mut().account(account, orders, units, last),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: OpId = OpId([3; 16]);

    #[tokio::test]
    async fn a_ledger_reads_back_as_it_was_noted_and_a_cut_line_leaves_its_order_in_doubt() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger");
        let sent = Sent {
            account: "user:u".into(),
            quantity: 2,
        };
        let file = LedgerFile::open(&path).expect("it opens");
        file.sent(OP, &sent).await.expect("it is synced");
        let body = Bytes::from_static(b"{\"orderId\":\"x\"}");
        file.told(
            OP,
            &Told::Answer {
                status: 202,
                replayed: false,
                body: body.clone(),
            },
        );
        file.close().expect("it is written");
        let whole = read(&path).expect("it reads");
        assert_eq!(
            whole.operations()[&OP]
                .accepted
                .as_ref()
                .map(|(_, body)| body),
            Some(&body)
        );

        let bytes = std::fs::read(&path).expect("it is there");
        std::fs::write(&path, &bytes[..bytes.len() - 5]).expect("it can be cut");
        let cut = read(&path).expect("it reads");
        assert_eq!((cut.accepted(), cut.indeterminate()), (0, 1));

        // A later run goes on in the same file.
        let file = LedgerFile::open(&path).expect("it opens");
        file.told(
            OP,
            &Told::Answer {
                status: 202,
                replayed: true,
                body,
            },
        );
        file.close().expect("it is written");
        assert_eq!(read(&path).expect("it reads").accepted(), 1);
    }

    #[test]
    fn a_file_that_is_no_ledger_is_refused_with_its_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger");
        for text in [
            "hello\n",
            "{\"note\":\"sent\"}\n",
            "{\"note\":\"nothing\",\"op\":\"zz\"}\n",
        ] {
            std::fs::write(&path, text).expect("it can be written");
            let error = read(&path).expect_err("it is no ledger");
            assert!(error.to_string().starts_with("line 1 "), "{error}");
        }
    }
}
