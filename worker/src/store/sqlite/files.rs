//! Checks that the database files that are open are the files at their paths.
//!
//! # Guarantees
//! - Events are acknowledged only if their commit went into the file at the path
//!   (`sqlite_file_replaced_under_a_worker_takes_nothing`).
//! - A file that comes back is used again without a restart, another file never
//!   (`sqlite_file_moved_away_and_back_is_used_again`).
//!
//! # Design
//! A connection keeps its files open whatever happens to their names, so a removed or replaced file still takes commits.
//! Inode numbers are not reused while a connection has the file open. The files are only looked at, never opened: closing
//! any descriptor of a file would drop SQLite's locks on it.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What the file system calls a file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// Returns the identity of the file that `path` leads to.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self { device: found.dev(), inode: found.ino() })
    }

    /// Whether this process has the file open. Unknown without `/proc`, which counts as yes.
    fn is_open_here(self) -> bool {
        let Ok(descriptors) = fs::read_dir("/proc/self/fd") else { return true };
        descriptors.flatten().any(|entry| Self::at(&entry.path()).is_ok_and(|id| id == self))
    }
}

/// A path that does not lead to the file that is open.
#[derive(Debug, thiserror::Error)]
pub enum Displaced {
    /// Nothing is there.
    #[error("{} was removed or renamed while it is in use", .0.display())]
    Removed(PathBuf),
    /// Another file is there.
    #[error("{} was replaced by another file while it is in use", .0.display())]
    Replaced(PathBuf),
    /// The path cannot be looked at.
    #[error("{} cannot be looked at: {error}", path.display())]
    Hidden {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// The files of one connection: the database, its write-ahead log, and the index of that.
#[derive(Debug)]
pub(super) struct OpenFiles {
    files: Vec<(PathBuf, FileId)>,
    seen: Cell<Seen>,
}

/// The outcome of the last check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    InPlace,
    Displaced,
    /// As before, and [`OpenFiles::are_newly_displaced`] has said so.
    Told,
}

impl OpenFiles {
    /// Records the files of a connection that has just been opened on `path` and has read something. `expected`: the
    /// database file of earlier connections.
    pub(super) fn record(path: &Path, expected: Option<FileId>) -> Result<(Self, FileId), Displaced> {
        let database = confirm(path, expected)?;
        // Beside the file itself, not beside a link to it.
        let real = path.canonicalize().map_err(|error| classify(path, error))?;
        let mut files = vec![(path.to_owned(), database)];
        for suffix in ["-wal", "-shm"] {
            let path = with_suffix(&real, suffix);
            // Not every VFS has these.
            if let Ok(id) = FileId::at(&path) {
                files.push((path, id));
            }
        }
        match files.iter().find(|(_, id)| !id.is_open_here()) {
            // Replaced between the opening and the look.
            Some((path, _)) => Err(Displaced::Replaced(path.clone())),
            None => Ok((Self { files, seen: Cell::new(Seen::InPlace) }, database)),
        }
    }

    /// Compares each path with the file that is open.
    pub(super) fn check(&self) -> Result<(), Displaced> {
        let checked = self.files.iter().try_for_each(|(path, id)| confirm(path, Some(*id)).map(drop));
        match (&checked, self.seen.get()) {
            (Ok(()), _) => self.seen.set(Seen::InPlace),
            (Err(_), Seen::InPlace) => self.seen.set(Seen::Displaced),
            (Err(_), _) => {}
        }
        checked
    }

    /// Whether [`Self::check`] has failed since it last succeeded; `true` once. What happens to the write-ahead log has
    /// to happen at once: a later process may use it for another file.
    pub(super) fn are_newly_displaced(&self) -> bool {
        let newly = self.seen.get() == Seen::Displaced;
        if newly {
            self.seen.set(Seen::Told);
        }
        newly
    }
}

/// Returns the identity of the file at `path`, which must be `expected`.
pub(super) fn confirm(path: &Path, expected: Option<FileId>) -> Result<FileId, Displaced> {
    let found = FileId::at(path).map_err(|error| classify(path, error))?;
    if expected.is_some_and(|expected| expected != found) {
        return Err(Displaced::Replaced(path.to_owned()));
    }
    Ok(found)
}

/// The path of a file that SQLite keeps beside `database`.
pub(super) fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn classify(path: &Path, error: io::Error) -> Displaced {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Displaced::Removed(path.to_owned()),
        _ => Displaced::Hidden { path: path.to_owned(), error },
    }
}
