//! What a power cut does to an append-only file that is synced once a second: its last second is gone.
//!
//! kill -9 alone does not show that, since what was written and not yet synced survives in the kernel. So the size of the
//! file is noted all the time, and after the kill the file is cut to what it was a second before.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// What is not synced yet, at most, by Redis's own documentation.
pub(crate) const FSYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How often the size is noted.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// Notes sizes until dropped, and when Redis was killed.
#[derive(Debug)]
pub(crate) struct AofSizes {
    folder: PathBuf,
    /// From when to when each kill may have lost what was answered.
    losses: Vec<(Instant, Instant)>,
    /// Since when the disk is, or was last, full, and when that ended.
    full: Option<(Instant, Option<Instant>)>,
    /// When the disk was full first since Redis read its log: from there on half a write may be in it.
    suspect: Option<Instant>,
    noted: Arc<Mutex<VecDeque<SizeSample>>>,
    noting: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct SizeSample {
    at: Instant,
    file: PathBuf,
    bytes: u64,
}

impl AofSizes {
    /// Notes what Redis writes below `folder`, its data folder.
    pub(crate) fn note(folder: &Path) -> Self {
        let folder = folder.join("appendonlydir");
        let noted: Arc<Mutex<VecDeque<SizeSample>>> = Arc::default();
        let noting = tokio::spawn({
            let (folder, noted) = (folder.clone(), Arc::clone(&noted));
            async move {
                loop {
                    if let Some(note) = newest(&folder) {
                        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
                        noted.push_back(note);
                        while noted
                            .front()
                            .is_some_and(|note| note.at.elapsed() > 3 * FSYNC_INTERVAL)
                        {
                            noted.pop_front();
                        }
                    }
                    tokio::time::sleep(SAMPLE_INTERVAL).await;
                }
            }
        });
        Self { folder, losses: Vec::new(), full: None, suspect: None, noted, noting }
    }

    /// Notes that Redis is killed. What it could not write since the disk was full is lost, too.
    pub(crate) fn record_kill(&mut self) {
        let now = Instant::now();
        let unwritten = self
            .full
            .filter(|(_, freed)| freed.is_none_or(|freed| now - freed < 2 * FSYNC_INTERVAL));
        self.losses.push((unwritten.map_or(now, |(since, _)| since), now));
    }

    /// Notes that the disk is full now, or no longer.
    pub(crate) fn record_disk_full(&mut self, full: bool) {
        let now = Instant::now();
        if full {
            self.suspect.get_or_insert(now);
        }
        self.full = match self.full {
            Some((since, None)) if !full => Some((since, Some(now))),
            before if !full => before,
            _ => Some((now, None)),
        };
    }

    /// Notes that Redis has read its log.
    pub(crate) fn record_log_read(&mut self) {
        self.suspect = None;
    }

    /// From when to when what was answered may have been lost, seen from `began`.
    pub(crate) fn loss_windows(
        &self,
        began: Instant,
    ) -> impl Iterator<Item = (Duration, Duration)> {
        let since = move |at: Instant| at.saturating_duration_since(began);
        self.losses.iter().map(move |(from, until)| {
            (since(*from).saturating_sub(2 * FSYNC_INTERVAL), since(*until))
        })
    }

    /// Cuts the file that a killed Redis wrote last. Gives how many bytes that took.
    pub(crate) fn truncate_unsynced(&self) -> u64 {
        let Some(now) = newest(&self.folder) else { return 0 };
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let synced = noted
            .iter()
            .rev()
            .find(|note| now.at - note.at >= FSYNC_INTERVAL && note.file == now.file);
        // A file that did not exist a second ago may have nothing of it on disk.
        let bytes = synced.map_or(0, |note| note.bytes).min(now.bytes);
        let file =
            std::fs::File::options().write(true).open(&now.file).expect("the append-only file");
        file.set_len(bytes).expect("a shorter append-only file");
        now.bytes - bytes
    }

    /// Does what Redis asks for when it refuses its log: has `redis-check-aof` cut what is broken, which is half a write
    /// from when the disk was full, and all that followed it until the kill.
    ///
    /// # Errors
    /// What that printed.
    pub(crate) fn repair(&mut self) -> Result<(), String> {
        if let (Some(since), Some((from, _))) = (self.suspect, self.losses.last_mut()) {
            *from = since.min(*from);
        }
        let mut check = Command::new("redis-check-aof");
        check.arg("--fix").arg(self.folder.join("appendonly.aof.manifest"));
        let started =
            check.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut started = started.map_err(|error| format!("redis-check-aof: {error}"))?;
        if let Some(mut asked) = started.stdin.take() {
            // It may have found nothing to ask about.
            let _ = asked.write_all(b"y\ny\n");
        }
        let printed =
            started.wait_with_output().map_err(|error| format!("redis-check-aof: {error}"))?;
        let text = String::from_utf8_lossy(&printed.stdout).into_owned();
        if printed.status.success() { Ok(()) } else { Err(text) }
    }
}

impl Drop for AofSizes {
    fn drop(&mut self) {
        self.noting.abort();
    }
}

/// The file that Redis appends to now, as its manifest says.
fn newest(folder: &Path) -> Option<SizeSample> {
    let manifest = std::fs::read_to_string(folder.join("appendonly.aof.manifest")).ok()?;
    let line = manifest.lines().rev().find(|line| line.trim_end().ends_with("type i"))?;
    let file = folder.join(line.split_whitespace().nth(1)?);
    let bytes = std::fs::metadata(&file).ok()?.len();
    Some(SizeSample { at: Instant::now(), file, bytes })
}
