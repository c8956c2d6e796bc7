//! Wall clocks that can be set, one per process: Debian's libfaketime, told through a file.
//!
//! Only the wall clock is moved; time-outs go on counting true seconds, as they do when an operator sets a clock.

use std::path::{Path, PathBuf};

/// The wall clock of one process.
#[derive(Debug)]
pub(crate) struct FakeClock {
    /// What `LD_PRELOAD` names.
    libraries: String,
    file: PathBuf,
}

impl FakeClock {
    /// The clock of the program `name`, whose file lies in `folder`.
    ///
    /// # Errors
    /// What is not installed.
    pub(crate) fn new(folder: &Path, name: &str) -> Result<Self, &'static str> {
        let library = library("faketime/libfaketime.so.1")
            .ok_or("libfaketime is not installed (Debian: faketime)")?;
        Ok(Self::with(folder, name, library.display().to_string()))
    }

    /// The clock of redis-server. Its allocator asks for the time while libfaketime asks it for memory, and both wait
    /// for ever, so it gets another one.
    ///
    /// # Errors
    /// What is not installed.
    pub(crate) fn of_redis(folder: &Path) -> Result<Self, &'static str> {
        let clock = Self::new(folder, "redis")?;
        let allocator = library("libtcmalloc_minimal.so.4")
            .ok_or("an allocator that libfaketime works with is not installed (Debian: libtcmalloc-minimal4)")?;
        Ok(Self { libraries: format!("{}:{}", allocator.display(), clock.libraries), ..clock })
    }

    fn with(folder: &Path, name: &str, libraries: String) -> Self {
        let clock = Self { libraries, file: folder.join(format!("{name}.clock")) };
        clock.set(0);
        clock
    }

    /// What the process's environment must hold.
    pub(crate) fn env(&self) -> [(&'static str, String); 5] {
        [
            ("LD_PRELOAD", self.libraries.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }

    /// Sets it to the true time and `offset` seconds; the process sees it within a second.
    pub(crate) fn set(&self, offset: i64) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset:+}\n")).expect("a clock's file");
        std::fs::rename(&new, &self.file).expect("a clock's file");
    }
}

/// A library of the system, wherever that keeps it.
fn library(name: &str) -> Option<PathBuf> {
    let folders =
        std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut places = folders.chain(["/usr/lib".into(), "/usr/local/lib".into()]);
    places.find_map(|folder| Some(folder.join(name)).filter(|file| file.is_file()))
}
