//! Wall clocks that can be set per process, by Debian's libfaketime and its control file.
//!
//! Only the wall clock is changed. Timeouts count true seconds, as when an operator sets a clock.

use std::path::{Path, PathBuf};

/// Wall clock of one process.
#[derive(Debug)]
pub(crate) struct FakeClock {
    /// Value of `LD_PRELOAD`.
    libraries: String,
    file: PathBuf,
}

impl FakeClock {
    /// Creates the clock of the program `name`, with its control file in `folder`.
    ///
    /// # Errors
    /// Names the package that is not installed.
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self, &'static str> {
        let library = library("faketime/libfaketime.so.1")
            .ok_or("libfaketime is not installed (Debian: faketime)")?;
        Ok(Self::with(folder, name, library.display().to_string()))
    }

    /// Creates the clock of redis-server, with another allocator. jemalloc reads the time while
    /// libfaketime allocates memory, which deadlocks.
    ///
    /// # Errors
    /// Names the package that is not installed.
    pub(crate) fn of_redis(folder: &Path) -> Result<Self, &'static str> {
        let clock = Self::new(folder, "redis")?;
        let allocator = library("libtcmalloc_minimal.so.4")
            .ok_or("no allocator for libfaketime is installed (Debian: libtcmalloc-minimal4)")?;
        Ok(Self { libraries: format!("{}:{}", allocator.display(), clock.libraries), ..clock })
    }

    fn with(folder: &Path, name: &str, libraries: String) -> Self {
        let clock = Self { libraries, file: folder.join(format!("{name}.clock")) };
        clock.set(0);
        clock
    }

    /// Returns the environment variables of the process.
    pub(crate) fn env(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", self.libraries.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }

    /// Sets the clock to the true time plus `offset` seconds. The process sees it within a second.
    pub(crate) fn set(&self, offset: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset:+}\n")).expect("write the clock file");
        std::fs::rename(&new, &self.file).expect("write the clock file");
    }
}

/// Finds a library of the system in its usual folders.
fn library(name: &str) -> Option<PathBuf> {
    let folders =
        std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut places = folders.chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    places.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()))
}
