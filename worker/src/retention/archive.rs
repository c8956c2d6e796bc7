//! Writes the archive of expired dead letters: a folder of files with one line per dead letter.
//! `dlq-tool import` reads these files.
//!
//! # Guarantees
//! - [`Archive::append`] returns only after the lines are synced to disk
//!   (`dead_letter_that_cannot_be_archived_stays`).
//! - A line that a crash or a full disk cut off is ended before another one is added
//!   (`archive_line_cut_off_stays_a_line_of_its_own`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use shared::event::Millis;
use shared::platform::PlatformName;

/// A folder, and the name of the worker that writes. Each worker has files of its own.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    folder: PathBuf,
    writer: String,
}

impl Archive {
    /// Creates the archive in `folder` for the worker of that name.
    pub(super) fn new(folder: &Path, worker: &str) -> Self {
        let escape = |character: char| {
            if character.is_ascii_alphanumeric() || character == '-' { character } else { '_' }
        };
        Self { folder: folder.to_owned(), writer: worker.chars().map(escape).collect() }
    }

    /// Returns the file for dead letters of `platform` that expire at `now`. There is one file per
    /// day.
    pub(super) fn path(&self, platform: &PlatformName, now: Millis) -> PathBuf {
        let day: String = shared::clock::rfc3339(now).chars().take(10).collect();
        let platform = platform.as_str().replace(':', "_");
        self.folder.join(format!("{platform}-{day}-{}.ndjson", self.writer))
    }

    /// Appends `lines` to the file at `path`. Blocks the thread.
    pub(super) fn append(&self, path: &Path, lines: &[u8]) -> io::Result<()> {
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        // Bodies may be confidential.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        let length = file.metadata()?.len();
        if length > 0 {
            let mut last = [0];
            file.seek(SeekFrom::Start(length - 1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
            }
        }
        file.write_all(lines)?;
        file.sync_all()?;
        if is_new {
            // The name of a new file has to survive a power loss, too.
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn archive_has_one_file_per_day_and_worker() {
        let archive = Archive::new(Path::new("/archive"), "host/a.b-1");
        let path = archive.path(&PlatformName::new("mux").unwrap(), 1_767_225_600_000);
        assert_eq!(path, Path::new("/archive/mux-2026-01-01-host_a_b-1.ndjson"));
    }

    #[test]
    fn archive_line_cut_off_stays_a_line_of_its_own() {
        let folder = std::env::temp_dir().join(format!("archive-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let archive = Archive::new(&folder, "w");
        let path = archive.path(&PlatformName::new("mux").unwrap(), 0);
        archive.append(&path, b"one\n").unwrap();
        std::fs::write(&path, b"one\ntw").unwrap();
        archive.append(&path, b"two\nthree\n").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntw\ntwo\nthree\n");
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(archive.append(&path, b"x\n").is_err());
    }
}
