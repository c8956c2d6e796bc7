//! Small file systems that can be filled, in a private mount namespace.
//!
//! # Guarantees
//!
//! - No other process sees the mounts, and they end with this process, even if it is killed. The
//!   kernel removes the namespace.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::process;
use tokio::task::JoinHandle;

/// Variable that marks a process with its own mount namespace.
const OWN_MOUNTS_ENV: &str = "CHAOS_OWN_MOUNTS";
/// Mount options. The size is much more than a run needs.
const MOUNT_OPTIONS: &str = "size=768m,mode=0777";
/// Interval at which a full disk is filled again, since files on it may be deleted meanwhile.
const REFILL_INTERVAL: Duration = Duration::from_millis(50);

/// Restarts this program in a mount namespace of its own. Returns only in the new program, or on an
/// error.
///
/// # Errors
/// If the system or the user may not create a mount namespace.
pub(crate) fn own_mounts() -> io::Result<()> {
    if have_own_mounts() {
        return Ok(());
    }
    let root = Command::new("id").arg("-u").output()?.stdout.trim_ascii() == b"0";
    if !root || !cfg!(target_os = "linux") {
        return Err(io::Error::other("needs root on Linux"));
    }
    let mut may = Command::new("unshare");
    may.args(["--mount", "--propagation", "private", "true"]).stderr(Stdio::null());
    if !may.status()?.success() {
        return Err(io::Error::other("unshare --mount is not permitted"));
    }
    let mut again = Command::new("unshare");
    again.args(["--mount", "--propagation", "private", "--"]).arg(std::env::current_exe()?);
    Err(again.args(std::env::args_os().skip(1)).env(OWN_MOUNTS_ENV, "1").exec())
}

/// Returns true if this process has its own mount namespace.
pub(crate) fn have_own_mounts() -> bool {
    std::env::var_os(OWN_MOUNTS_ENV).is_some()
}

/// File system in memory.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// Mounts a file system. Returns `None` if that is not possible.
    pub(crate) fn mount() -> Option<Self> {
        if !have_own_mounts() {
            return None;
        }
        let folder = process::folder();
        mount(folder.path(), MOUNT_OPTIONS).then_some(Self { folder })
    }

    /// Returns the mount point.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills the file system until the returned value is dropped.
    pub(crate) fn fill(&self) -> Filler {
        let path = self.path().join("filler");
        let file = path.clone();
        // Created once, so that a late refill does not create the file again.
        drop(File::create(&path));
        fill(&file);
        let refilling = tokio::spawn(async move {
            loop {
                tokio::time::sleep(REFILL_INTERVAL).await;
                fill(&file);
            }
        });
        Filler { path, refilling }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A process may still use the mount. It ends with the namespace of this process anyway.
        let _ =
            Command::new("umount").arg("--lazy").arg(self.path()).stderr(Stdio::null()).status();
    }
}

/// Mounts a file system in memory at `path`. Returns false on failure.
pub(crate) fn mount(path: &Path, options: &str) -> bool {
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).stderr(Stdio::null());
    mount.status().is_ok_and(|status| status.success())
}

/// Keeps a disk full until it is dropped.
#[derive(Debug)]
pub(crate) struct Filler {
    path: PathBuf,
    refilling: JoinHandle<()>,
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.refilling.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Writes until the disk is full.
fn fill(path: &Path) {
    let Ok(mut file) = File::options().append(true).open(path) else { return };
    for size in [1 << 20, 4 << 10, 1] {
        let zeros = vec![0; size];
        while file.write_all(&zeros).is_ok() {}
    }
}
