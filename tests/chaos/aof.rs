//! Simulates a power cut for an append-only file that is synced once a second: its last second is
//! lost.
//!
//! kill -9 alone loses nothing, since written data that is not synced survives in the kernel. So
//! the size of the file is sampled. After the kill, the file is truncated to its size of a second
//! before.

use std::collections::VecDeque;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// Longest time before a write is synced with `appendfsync everysec`, by Redis's documentation.
pub(crate) const FSYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Interval between two samples of the size.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// Sampler of the file's size until it is dropped, and record of the kills of Redis.
#[derive(Debug)]
pub(crate) struct AofSizes {
    folder: PathBuf,
    /// Begin and end of each time in which an acknowledged write may be lost.
    losses: Vec<(Instant, Instant)>,
    /// Begin of the last time with a full disk, and its end.
    full: Option<(Instant, Option<Instant>)>,
    /// First time at which the disk was full since Redis read its log. A later write may be
    /// incomplete in the log.
    torn_since: Option<Instant>,
    samples: Arc<Mutex<VecDeque<SizeSample>>>,
    sampling: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct SizeSample {
    at: Instant,
    file: PathBuf,
    bytes: u64,
}

impl AofSizes {
    /// Starts to sample the append-only file in `folder`, Redis's data folder.
    pub(crate) fn sample(folder: &Path) -> Self {
        let folder = folder.join("appendonlydir");
        let samples: Arc<Mutex<VecDeque<SizeSample>>> = Arc::default();
        let sampling = tokio::spawn({
            let (folder, samples) = (folder.clone(), Arc::clone(&samples));
            async move {
                loop {
                    if let Some(sample) = newest(&folder) {
                        let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
                        samples.push_back(sample);
                        while samples
                            .front()
                            .is_some_and(|sample| sample.at.elapsed() > 3 * FSYNC_INTERVAL)
                        {
                            samples.pop_front();
                        }
                    }
                    tokio::time::sleep(SAMPLE_INTERVAL).await;
                }
            }
        });
        Self { folder, losses: Vec::new(), full: None, torn_since: None, samples, sampling }
    }

    /// Records a kill of Redis. Writes that failed on the full disk are lost too.
    pub(crate) fn record_kill(&mut self) {
        let now = Instant::now();
        let unwritten = self
            .full
            .filter(|(_, freed)| freed.is_none_or(|freed| now - freed < 2 * FSYNC_INTERVAL));
        self.losses.push((unwritten.map_or(now, |(since, _)| since), now));
    }

    /// Records that the disk is full, or no longer full.
    pub(crate) fn record_disk_full(&mut self, full: bool) {
        let now = Instant::now();
        if full {
            self.torn_since.get_or_insert(now);
        }
        self.full = match self.full {
            Some((since, None)) if !full => Some((since, Some(now))),
            before if !full => before,
            _ => Some((now, None)),
        };
    }

    /// Records that Redis has read its log.
    pub(crate) fn record_log_read(&mut self) {
        self.torn_since = None;
    }

    /// Returns the times, relative to `began`, in which an acknowledged write may be lost.
    pub(crate) fn loss_windows(
        &self,
        began: Instant,
    ) -> impl Iterator<Item = (Duration, Duration)> {
        let since = move |at: Instant| at.saturating_duration_since(began);
        self.losses.iter().map(move |(from, until)| {
            (since(*from).saturating_sub(2 * FSYNC_INTERVAL), since(*until))
        })
    }

    /// Truncates the file that a killed Redis wrote last. Returns the number of bytes removed.
    pub(crate) fn truncate_unsynced(&self) -> u64 {
        let Some(now) = newest(&self.folder) else { return 0 };
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let synced = samples
            .iter()
            .rev()
            .find(|sample| now.at - sample.at >= FSYNC_INTERVAL && sample.file == now.file);
        // A file that did not exist a second ago may have nothing on disk.
        let bytes = synced.map_or(0, |sample| sample.bytes).min(now.bytes);
        let file = std::fs::File::options()
            .write(true)
            .open(&now.file)
            .expect("open the append-only file");
        file.set_len(bytes).expect("truncate the append-only file");
        now.bytes - bytes
    }

    /// Repairs a log that Redis refuses: `redis-check-aof` removes an incomplete write of a full
    /// disk, and everything after it.
    ///
    /// # Errors
    /// The output of `redis-check-aof`.
    pub(crate) fn repair(&mut self) -> Result<(), String> {
        if let (Some(since), Some((from, _))) = (self.torn_since, self.losses.last_mut()) {
            *from = since.min(*from);
        }
        let mut check = Command::new("redis-check-aof");
        check.arg("--fix").arg(self.folder.join("appendonly.aof.manifest"));
        let started =
            check.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut started = started.map_err(|error| format!("redis-check-aof: {error}"))?;
        if let Some(mut answers) = started.stdin.take() {
            // The command may ask nothing.
            let _ = answers.write_all(b"y\ny\n");
        }
        let output =
            started.wait_with_output().map_err(|error| format!("redis-check-aof: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(()) } else { Err(text) }
    }
}

impl Drop for AofSizes {
    fn drop(&mut self) {
        self.sampling.abort();
    }
}

/// Returns the file that Redis appends to, as named by its manifest.
fn newest(folder: &Path) -> Option<SizeSample> {
    let manifest = std::fs::read_to_string(folder.join("appendonly.aof.manifest")).ok()?;
    let line = manifest.lines().rev().find(|line| line.trim_end().ends_with("type i"))?;
    let file = folder.join(line.split_whitespace().nth(1)?);
    let bytes = std::fs::metadata(&file).ok()?.len();
    Some(SizeSample { at: Instant::now(), file, bytes })
}
