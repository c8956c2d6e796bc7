//! Checks that the database files that are open are the files at their paths, with what was written
//! to them.
//!
//! # Guarantees
//! - Events are acknowledged only if their commit went into the file at the path
//!   (`sqlite_file_replaced_under_a_worker_gets_no_commit`).
//! - A file that was renamed and linked to takes no commit: the next process would look for its
//!   write-ahead log elsewhere (`sqlite_file_renamed_behind_a_link_gets_no_commit`).
//! - A file that comes back is used again without a restart, another file never
//!   (`sqlite_file_moved_away_and_back_is_used_again`).
//! - A file that something else than SQLite wrote over takes no commit
//!   (`sqlite_file_copied_over_gets_no_commit`).
//! - A write-ahead log that something else than SQLite cut off takes no commit
//!   (`sqlite_log_cut_off_gets_no_commit`).
//!
//! # Design
//! A connection keeps its files open when their names change, so a removed or replaced file
//! still takes commits. Inode numbers are not reused while a connection has the file open. A copy
//! into the open file keeps its inode; the counters in its header go back then, because every
//! backup is older than the file. They are read only after the file's size or time of change has
//! changed, which checkpoints do.

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

    /// Returns `true` if this process has the file open, or if there is no `/proc` to tell.
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
    /// The same file under another name, which another process would name other logs after.
    #[error("{} leads to {} now, while it is in use", path.display(), real.display())]
    Renamed {
        /// The path.
        path: PathBuf,
        /// The file that it leads to.
        real: PathBuf,
    },
    /// The same file, with older content.
    #[error("{} was written over while it is in use", .0.display())]
    Overwritten(PathBuf),
    /// The path cannot be examined.
    #[error("{} cannot be examined: {error}", path.display())]
    Hidden {
        /// The path.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
}

/// The database file that was opened first: no other one is ever written.
#[derive(Clone, Debug)]
pub(super) struct OriginalFile {
    path: PathBuf,
    /// Unknown before the first connection.
    opened: Arc<OnceLock<OpenedFile>>,
}

/// The content of a database file, as far as it was seen.
#[derive(Debug)]
struct OpenedFile {
    id: FileId,
    /// Path without links, which SQLite names the other files after.
    real: PathBuf,
    /// Never closed: that would drop the locks that SQLite has on the file in this process.
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
    /// 0 where pages may be given back (auto-vacuum).
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
    /// `None`: this is no SQLite database.
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
    pub(super) fn confirm(&self) -> Result<(), Displaced> {
        let found = fs::metadata(&self.path).map_err(|error| classify(&self.path, error))?;
        let Some(content) = self.opened.get() else { return Ok(()) };
        if content.id != FileId::of(&found) {
            return Err(Displaced::Replaced(self.path.clone()));
        }
        let real = self.path.canonicalize().map_err(|error| classify(&self.path, error))?;
        if !is_same_place(&real, &content.real) {
            return Err(Displaced::Renamed { path: self.path.clone(), real });
        }
        let mut seen = content.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = FileStamp::of(&found);
        if seen.0 != stamp {
            let header =
                SqliteHeader::read(content.file).map_err(|error| classify(&self.path, error))?;
            match header.filter(|header| *header >= seen.1) {
                Some(header) => *seen = (stamp, header),
                None => return Err(Displaced::Overwritten(self.path.clone())),
            }
        }
        Ok(())
    }

    /// Records the file, which a connection has open.
    fn record(&self) -> Result<(), Displaced> {
        if self.opened.get().is_none() {
            let error = |error| classify(&self.path, error);
            let file = Box::leak(Box::new(fs::File::open(&self.path).map_err(error)?));
            let metadata = file.metadata().map_err(error)?;
            let header = SqliteHeader::read(file).map_err(error)?;
            let header = header.ok_or_else(|| Displaced::Overwritten(self.path.clone()))?;
            let seen = Mutex::new((FileStamp::of(&metadata), header));
            let real = self.path.canonicalize().map_err(error)?;
            self.opened.get_or_init(|| OpenedFile { id: FileId::of(&metadata), real, file, seen });
        }
        self.confirm()
    }
}

/// The files of one connection: the database, its write-ahead log, and the index of that.
#[derive(Debug)]
pub(super) struct OpenFiles {
    database: OriginalFile,
    /// The others, the write-ahead log first.
    beside: Vec<(PathBuf, FileId)>,
    /// Bytes of the log that were seen, if there is one.
    log_bytes: Cell<u64>,
    seen: Cell<CheckState>,
}

/// The outcome of the last check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckState {
    InPlace,
    Displaced,
    /// As before, and [`OpenFiles::newly_displaced`] has returned it once.
    Reported,
}

impl OpenFiles {
    /// Records the files of a connection that has just been opened on `database` and has read
    /// something.
    pub(super) fn record(database: &OriginalFile) -> Result<Self, Displaced> {
        database.record()?;
        let path = &database.path;
        // Beside the file itself, not beside a link to it.
        let real = path.canonicalize().map_err(|error| classify(path, error))?;
        let mut beside = Vec::new();
        for suffix in ["-wal", "-shm"] {
            let path = with_suffix(&real, suffix);
            // Not every VFS has these.
            if let Ok(id) = FileId::at(&path) {
                beside.push((path, id));
            }
        }
        match beside.iter().find(|(_, id)| !id.is_open_here()) {
            // Replaced between the opening and the look.
            Some((path, _)) => Err(Displaced::Replaced(path.clone())),
            None => {
                let seen = Cell::new(CheckState::InPlace);
                let files =
                    Self { database: database.clone(), beside, log_bytes: Cell::new(0), seen };
                files.accept_log();
                Ok(files)
            }
        }
    }

    /// Compares each path with the file that is open.
    pub(super) fn check(&self) -> Result<(), Displaced> {
        let checked = self.compare();
        match (&checked, self.seen.get()) {
            (Ok(()), _) => self.seen.set(CheckState::InPlace),
            (Err(_), CheckState::InPlace) => self.seen.set(CheckState::Displaced),
            (Err(_), _) => {}
        }
        checked
    }

    fn compare(&self) -> Result<(), Displaced> {
        self.database.confirm()?;
        for (path, id) in &self.beside {
            match fs::metadata(path).map(|found| (FileId::of(&found), found.len())) {
                Ok((found, bytes)) if found == *id => self.compare_log(path, bytes)?,
                Ok(_) => return Err(Displaced::Replaced(path.clone())),
                Err(error) => return Err(classify(path, error)),
            }
        }
        Ok(())
    }

    /// Checks that the log, if `path` is that, is no shorter than it was.
    fn compare_log(&self, path: &Path, bytes: u64) -> Result<(), Displaced> {
        if self.log().is_none_or(|(log, _)| log != path) {
            return Ok(());
        }
        if bytes < self.log_bytes.get() {
            return Err(Displaced::Overwritten(path.to_owned()));
        }
        self.log_bytes.set(bytes);
        Ok(())
    }

    fn log(&self) -> Option<&(PathBuf, FileId)> {
        self.beside
            .first()
            .filter(|(path, _)| path.as_os_str().as_encoded_bytes().ends_with(b"-wal"))
    }

    /// Returns the bytes of the log if it is shorter than it was. A checkpoint of another program
    /// may have shortened it, but not while this process writes.
    pub(super) fn shorter_log(&self) -> Option<u64> {
        let found = fs::metadata(&self.log()?.0).ok()?.len();
        (found < self.log_bytes.get()).then_some(found)
    }

    /// Takes the log to be as long as it should be.
    pub(super) fn accept_log(&self) {
        if let Some(found) = self.log().and_then(|(path, _)| fs::metadata(path).ok()) {
            self.log_bytes.set(found.len());
        }
    }

    /// Reason why [`Self::check`] fails. `None` if it does not, or on a second call since it last
    /// succeeded. What happens to the write-ahead log has to happen at once: a later process may
    /// use it for another file.
    pub(super) fn newly_displaced(&self) -> Option<Displaced> {
        if self.seen.get() != CheckState::Displaced {
            return None;
        }
        self.seen.set(CheckState::Reported);
        self.compare().err()
    }

    /// Renames the write-ahead log and its index, unless others are there by now.
    pub(super) fn set_log_aside(&self) -> io::Result<()> {
        for (path, id) in &self.beside {
            if FileId::at(path).is_ok_and(|found| found == *id) {
                fs::rename(path, with_suffix(path, ".overwritten"))?;
            }
        }
        Ok(())
    }
}

/// Returns `true` if both paths are one name in one folder.
fn is_same_place(one: &Path, other: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|folder| FileId::at(folder).ok());
    one == other || (one.file_name() == other.file_name() && folder(one) == folder(other))
}

/// The file that SQLite opens for `path`, even if it does not exist: it follows links.
pub(super) fn resolve_links(path: &Path) -> PathBuf {
    /// As many as the kernel follows.
    const MAX_LINKS: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&path) else { break };
        path = path.parent().map_or_else(|| next.clone(), |folder| folder.join(&next));
    }
    path.canonicalize().unwrap_or(path)
}

/// The path of a file that is kept beside `file`.
pub(super) fn with_suffix(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn classify(path: &Path, error: io::Error) -> Displaced {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Displaced::Removed(path.to_owned())
        }
        _ => Displaced::Hidden { path: path.to_owned(), error },
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
