//! What a power cut does to an append-only file that is synced once a second: its last second is gone.
//!
//! kill -9 alone does not show that, since what was written and not yet synced survives in the kernel. So the size of the
//! file is noted all the time, and after the kill the file is cut to what it was a second before.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// What is not synced yet, at most, by Redis's own documentation.
pub(crate) const UNSYNCED: Duration = Duration::from_secs(1);
/// How often the size is noted.
const NOTED: Duration = Duration::from_millis(20);

/// Notes sizes until dropped.
#[derive(Debug)]
pub(crate) struct Sizes {
    folder: PathBuf,
    noted: Arc<Mutex<VecDeque<Note>>>,
    noting: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Note {
    at: Instant,
    file: PathBuf,
    bytes: u64,
}

impl Sizes {
    /// Notes what Redis writes below `folder`, its data folder.
    pub(crate) fn note(folder: &Path) -> Self {
        let folder = folder.join("appendonlydir");
        let noted: Arc<Mutex<VecDeque<Note>>> = Arc::default();
        let noting = tokio::spawn({
            let (folder, noted) = (folder.clone(), Arc::clone(&noted));
            async move {
                loop {
                    if let Some(note) = newest(&folder) {
                        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                        noted.push_back(note);
                        while noted.front().is_some_and(|note| note.at.elapsed() > 3 * UNSYNCED) {
                            noted.pop_front();
                        }
                    }
                    tokio::time::sleep(NOTED).await;
                }
            }
        });
        Self { folder, noted, noting }
    }

    /// Cuts the file that a killed Redis wrote last. Gives how many bytes that took.
    pub(crate) fn cut(&self) -> u64 {
        let Some(now) = newest(&self.folder) else { return 0 };
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let synced = noted.iter().rev().find(|note| now.at - note.at >= UNSYNCED && note.file == now.file);
        // A file that did not exist a second ago may have nothing of it on disk.
        let bytes = synced.map_or(0, |note| note.bytes).min(now.bytes);
        let file = std::fs::File::options().write(true).open(&now.file).expect("the append-only file");
        file.set_len(bytes).expect("a shorter append-only file");
        now.bytes - bytes
    }
}

impl Drop for Sizes {
    fn drop(&mut self) {
        self.noting.abort();
    }
}

/// The file that Redis appends to now, as its manifest says.
fn newest(folder: &Path) -> Option<Note> {
    let manifest = std::fs::read_to_string(folder.join("appendonly.aof.manifest")).ok()?;
    let line = manifest.lines().rev().find(|line| line.trim_end().ends_with("type i"))?;
    let file = folder.join(line.split_whitespace().nth(1)?);
    let bytes = std::fs::metadata(&file).ok()?.len();
    Some(Note { at: Instant::now(), file, bytes })
}
