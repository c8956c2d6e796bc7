//! Checks that the open database files are the files at their paths, with unchanged content.
//!
//! # Guarantees
//! - Events are acknowledged only if their commit went into the file at the path
//!   (`sqlite_file_replaced_under_a_worker_gets_no_commit`).
//! - A file that was renamed and is reached by a link gets no commit, since the next process would
//!   look for its write-ahead log elsewhere (`sqlite_file_renamed_behind_a_link_gets_no_commit`).
//! - A file that comes back is used again without a restart, another file never
//!   (`sqlite_file_moved_away_and_back_is_used_again`).
//! - A file that another program overwrote gets no commit
//!   (`sqlite_file_copied_over_gets_no_commit`).
//! - A write-ahead log that another program cut off gets no commit
//!   (`sqlite_log_cut_off_gets_no_commit`).
//!
//! # Design
//! A connection keeps its files open when their names change, so a removed or replaced file still
//! takes commits. An inode number is not reused while a connection has the file open.
//!
//! A copy into the open file keeps its inode. But the counters in its header then go back, because
//! every backup is older than the file. They are read only if the file's size or time of change
//! differs, which a checkpoint causes.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Identity of a file in the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|found| Self::of(&found))
    }

    /// Returns true if this process has the file open, or if there is no `/proc` to check it.
    fn is_open_here(self) -> bool {
        let Ok(descriptors) = fs::read_dir("/proc/self/fd") else { return true };
        descriptors.flatten().any(|entry| Self::at(&entry.path()).is_ok_and(|id| id == self))
    }
}

/// Mismatch between a path and the file that is open.
#[derive(Debug, thiserror::Error)]
pub enum DisplacedFileError {
    /// No file is there.
    #[error("{} was removed or renamed while it is in use", .0.display())]
    Removed(PathBuf),
    /// Another file is there.
    #[error("{} was replaced by another file while it is in use", .0.display())]
    Replaced(PathBuf),
    /// The same file is there under another name, from which another process would derive other
    /// names of logs.
    #[error("{} leads to {} now, while it is in use", path.display(), real.display())]
    Renamed {
        /// Path of the database.
        path: PathBuf,
        /// File that the path leads to.
        real: PathBuf,
    },
    /// The same file is there, with older content.
    #[error("{} was written over while it is in use", .0.display())]
    Overwritten(PathBuf),
    /// The path cannot be examined.
    #[error("{} cannot be examined: {error}", path.display())]
    Hidden {
        /// Path that was examined.
        path: PathBuf,
        /// Cause of the failure.
        error: io::Error,
    },
}

/// The database file that was opened first. No other file is ever written.
#[derive(Clone, Debug)]
pub(super) struct OriginalFile {
    path: PathBuf,
    /// Unset before the first connection.
    opened: Arc<OnceLock<OpenedFile>>,
}

/// Content of a database file at the last check.
#[derive(Debug)]
struct OpenedFile {
    id: FileId,
    /// Path without links. SQLite derives the names of the other files from it.
    real: PathBuf,
    /// Never closed, because that would drop the locks that SQLite has on the file in this process.
    file: &'static fs::File,
    seen: Mutex<(FileStamp, SqliteHeader)>,
}

/// Changes with every write to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

/// Fields of SQLite's file header that never go back (sqlite.org/fileformat.html, 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SqliteHeader {
    change_counter: u32,
    /// 0 if the file may shrink (auto-vacuum).
    pages: u32,
}

impl FileStamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            bytes: metadata.len(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        }
    }
}

impl SqliteHeader {
    /// Returns `None` if the file is no SQLite database.
    fn read(file: &fs::File) -> io::Result<Option<Self>> {
        let mut bytes = [0; 100];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        Ok(Self::parse(&bytes))
    }

    fn parse(bytes: &[u8; 100]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let pages = if number(52)? == 0 { number(28)? } else { 0 };
        bytes
            .starts_with(b"SQLite format 3\0")
            .then_some(Self { change_counter: number(24)?, pages })
    }
}

impl OriginalFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, opened: Arc::default() }
    }

    /// Checks that the path leads to the file that was opened first, if any was.
    pub(super) fn confirm(&self) -> Result<(), DisplacedFileError> {
        let found = fs::metadata(&self.path).map_err(|error| classify(&self.path, error))?;
        let Some(content) = self.opened.get() else { return Ok(()) };
        if content.id != FileId::of(&found) {
            return Err(DisplacedFileError::Replaced(self.path.clone()));
        }
        let real = self.path.canonicalize().map_err(|error| classify(&self.path, error))?;
        if !is_same_place(&real, &content.real) {
            return Err(DisplacedFileError::Renamed { path: self.path.clone(), real });
        }
        let mut seen = content.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = FileStamp::of(&found);
        if seen.0 != stamp {
            let header =
                SqliteHeader::read(content.file).map_err(|error| classify(&self.path, error))?;
            match header.filter(|header| *header >= seen.1) {
                Some(header) => *seen = (stamp, header),
                None => return Err(DisplacedFileError::Overwritten(self.path.clone())),
            }
        }
        Ok(())
    }

    /// Records the file that a connection has open.
    fn record(&self) -> Result<(), DisplacedFileError> {
        if self.opened.get().is_none() {
            let error = |error| classify(&self.path, error);
            let file = Box::leak(Box::new(fs::File::open(&self.path).map_err(error)?));
            let metadata = file.metadata().map_err(error)?;
            let header = SqliteHeader::read(file).map_err(error)?;
            let header =
                header.ok_or_else(|| DisplacedFileError::Overwritten(self.path.clone()))?;
            let seen = Mutex::new((FileStamp::of(&metadata), header));
            let real = self.path.canonicalize().map_err(error)?;
            self.opened.get_or_init(|| OpenedFile { id: FileId::of(&metadata), real, file, seen });
        }
        self.confirm()
    }
}

/// Files of one connection: the database, its write-ahead log, and the log's index.
#[derive(Debug)]
pub(super) struct OpenFiles {
    database: OriginalFile,
    /// The other files, the write-ahead log first.
    sidecars: Vec<(PathBuf, FileId)>,
    /// Bytes of the log at the last check, if there is one.
    log_bytes: Cell<u64>,
    seen: Cell<CheckState>,
}

/// Result of the last check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckState {
    InPlace,
    Displaced,
    /// Displaced, and [`OpenFiles::newly_displaced`] has returned it once.
    Reported,
}

impl OpenFiles {
    /// Records the files of a connection that was just opened on `database` and has read something.
    pub(super) fn record(database: &OriginalFile) -> Result<Self, DisplacedFileError> {
        database.record()?;
        let path = &database.path;
        // SQLite keeps these files beside the file itself, not beside a link to it.
        let real = path.canonicalize().map_err(|error| classify(path, error))?;
        let mut sidecars = Vec::new();
        for suffix in ["-wal", "-shm"] {
            let path = with_suffix(&real, suffix);
            // Some VFS have no such files.
            if let Ok(id) = FileId::at(&path) {
                sidecars.push((path, id));
            }
        }
        match sidecars.iter().find(|(_, id)| !id.is_open_here()) {
            // The file was replaced after it was opened.
            Some((path, _)) => Err(DisplacedFileError::Replaced(path.clone())),
            None => {
                let seen = Cell::new(CheckState::InPlace);
                let files =
                    Self { database: database.clone(), sidecars, log_bytes: Cell::new(0), seen };
                files.accept_log();
                Ok(files)
            }
        }
    }

    /// Compares each path with the open file.
    pub(super) fn check(&self) -> Result<(), DisplacedFileError> {
        let checked = self.compare();
        match (&checked, self.seen.get()) {
            (Ok(()), _) => self.seen.set(CheckState::InPlace),
            (Err(_), CheckState::InPlace) => self.seen.set(CheckState::Displaced),
            (Err(_), _) => {}
        }
        checked
    }

    fn compare(&self) -> Result<(), DisplacedFileError> {
        self.database.confirm()?;
        for (path, id) in &self.sidecars {
            match fs::metadata(path).map(|found| (FileId::of(&found), found.len())) {
                Ok((found, bytes)) if found == *id => self.compare_log(path, bytes)?,
                Ok(_) => return Err(DisplacedFileError::Replaced(path.clone())),
                Err(error) => return Err(classify(path, error)),
            }
        }
        Ok(())
    }

    /// Checks that the log is no shorter than before, if `path` is the log.
    fn compare_log(&self, path: &Path, bytes: u64) -> Result<(), DisplacedFileError> {
        if self.log().is_none_or(|(log, _)| log != path) {
            return Ok(());
        }
        if bytes < self.log_bytes.get() {
            return Err(DisplacedFileError::Overwritten(path.to_owned()));
        }
        self.log_bytes.set(bytes);
        Ok(())
    }

    fn log(&self) -> Option<&(PathBuf, FileId)> {
        self.sidecars
            .first()
            .filter(|(path, _)| path.as_os_str().as_encoded_bytes().ends_with(b"-wal"))
    }

    /// Returns the bytes of the log if it is shorter than before. A checkpoint of another program
    /// may have shortened it, but not while this process writes.
    pub(super) fn shorter_log(&self) -> Option<u64> {
        let found = fs::metadata(&self.log()?.0).ok()?.len();
        (found < self.log_bytes.get()).then_some(found)
    }

    /// Accepts the current length of the log.
    pub(super) fn accept_log(&self) {
        if let Some(found) = self.log().and_then(|(path, _)| fs::metadata(path).ok()) {
            self.log_bytes.set(found.len());
        }
    }

    /// Returns why [`Self::check`] fails, once after it last succeeded. The caller must handle the
    /// write-ahead log at once, because a later process may apply it to another file.
    pub(super) fn newly_displaced(&self) -> Option<DisplacedFileError> {
        if self.seen.get() != CheckState::Displaced {
            return None;
        }
        self.seen.set(CheckState::Reported);
        self.compare().err()
    }

    /// Renames the write-ahead log and its index, unless other files have taken their places.
    pub(super) fn set_log_aside(&self) -> io::Result<()> {
        for (path, id) in &self.sidecars {
            if FileId::at(path).is_ok_and(|found| found == *id) {
                fs::rename(path, with_suffix(path, ".overwritten"))?;
            }
        }
        Ok(())
    }
}

/// Returns true if both paths are the same name in the same folder.
fn is_same_place(one: &Path, other: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|folder| FileId::at(folder).ok());
    one == other || (one.file_name() == other.file_name() && folder(one) == folder(other))
}

/// Returns the file that SQLite opens for `path`, even if it does not exist. SQLite follows links.
pub(super) fn resolve_links(path: &Path) -> PathBuf {
    /// Linux follows as many links.
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&path) else { break };
        path = path.parent().map_or_else(|| next.clone(), |folder| folder.join(&next));
    }
    path.canonicalize().unwrap_or(path)
}

/// Returns the path of a file that SQLite keeps beside `file`.
pub(super) fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn classify(path: &Path, error: io::Error) -> DisplacedFileError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            DisplacedFileError::Removed(path.to_owned())
        }
        _ => DisplacedFileError::Hidden { path: path.to_owned(), error },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(change_counter: u32, pages: u32, auto_vacuum: u32) -> Option<SqliteHeader> {
        let mut bytes = [0; 100];
        bytes[..16].copy_from_slice(b"SQLite format 3\0");
        for (at, number) in [(24, change_counter), (28, pages), (52, auto_vacuum)] {
            bytes[at..at + 4].copy_from_slice(&number.to_be_bytes());
        }
        SqliteHeader::parse(&bytes)
    }

    #[test]
    fn header_of_a_backup_is_older_than_the_live_one() {
        let live = header(3, 297, 0);
        for older in [header(1, 400, 0), header(3, 154, 0), header(2, 297, 0), None] {
            assert!(older < live, "{older:?}");
        }
        for later in [header(3, 297, 0), header(3, 298, 0), header(4, 10, 0)] {
            assert!(later >= live, "{later:?}");
        }
        assert!(header(3, 10, 7) >= header(3, 20, 7), "auto-vacuum gives pages back");
        assert_eq!(SqliteHeader::parse(&[0; 100]), None);
    }
}
