//! Real processes: scrubbed environment, output in a file, signals by pid, ended on drop.
//!
//! A guardian (one shell per test process, holding a pipe from it) ends what is still registered when this process dies
//! without running its destructors, and removes the folders.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::poll;

/// Lines of a log that a failure shows.
const LOG_TAIL_LINES: usize = 60;
/// Longest that a process takes to stop: a thread that waits for a disk stops after that.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(20);

/// Reads `pid N`, `done N` and `dir PATH`; when the pipe closes, ends the pids that are left and removes the folders.
const GUARDIAN: &str = r#"
trap '' INT TERM HUP
pids=' '
while read -r verb what; do
  case $verb in
    pid) pids="$pids$what " ;;
    done) pids="${pids%% $what *} ${pids#* $what }" ;;
    dir) dirs="$dirs
$what" ;;
  esac
done
for pid in $pids; do kill -9 "$pid" 2>/dev/null; done
sleep 1
printf '%s\n' "$dirs" | while IFS= read -r dir; do
  case $dir in */tributary-*) rm -rf -- "$dir" ;; esac
done
"#;

/// It outlives this process by design, so nobody waits for it.
#[allow(clippy::zombie_processes)]
fn tell_guardian(line: &str) {
    static GUARD: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let pipe = GUARD.get_or_init(|| {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", GUARDIAN])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("/bin/sh for the guardian");
        Mutex::new(shell.stdin.take().expect("a pipe"))
    });
    let mut pipe = pipe.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{line}").and_then(|()| pipe.flush()).expect("the guardian is alive");
}

/// A temporary folder named `tributary-*`, removed on drop, and by the guardian when this process is killed.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("tributary-").tempdir().expect("a temporary folder");
    tell_guardian(&format!("dir {}", dir.path().display()));
    dir
}

/// The path of one of the workspace's binaries: beside the running test (`target/<profile>/NAME`), or in the folder that
/// the variable `TEST_BINARIES` names.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the path of this executable");
    let folder = own.parent().expect("a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("a folder") } else { folder };
    let path =
        std::env::var_os("TEST_BINARIES").map_or(folder.to_owned(), PathBuf::from).join(name);
    assert!(path.is_file(), "{} is missing: run `cargo build --bins` first", path.display());
    path
}

/// A command that is not running yet. Nothing of this process's environment reaches it but `PATH` and `HOME`.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<String, OsString>,
    folder: Option<PathBuf>,
}

/// What a finished program left.
#[derive(Clone, Debug)]
pub struct ProgramOutput {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Signal that ended it.
    pub signal: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Program {
    /// One of the workspace's binaries (`ingress`, `worker`, `dlq-tool`).
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::at(name, binary(name))
    }

    /// Any executable.
    #[must_use]
    pub fn at(name: &str, path: impl Into<PathBuf>) -> Self {
        let mut env = BTreeMap::new();
        for kept in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(kept) {
                env.insert(kept.to_owned(), value);
            }
        }
        env.insert("RUST_BACKTRACE".to_owned(), "1".into());
        Self { name: name.to_owned(), path: path.into(), args: Vec::new(), env, folder: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Takes a variable out again.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Runs in `folder`.
    #[must_use]
    pub fn in_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.args).env_clear().envs(&self.env).stdin(Stdio::null()).process_group(0);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        command
    }

    /// Starts it; output and errors go into one file.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(&self) -> Process {
        let folder = folder();
        let log = folder.path().join(format!("{}.log", self.name));
        let mut command = self.command();
        let file = File::create(&log).expect("a log file");
        command.stdout(file.try_clone().expect("a handle")).stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.path.display()));
        tell_guardian(&format!("pid {}", child.id()));
        Process {
            program: self.clone(),
            child: Mutex::new(child),
            log,
            quiet: false,
            _folder: folder,
        }
    }

    /// Runs it to its end, at most `within`, with `input` on standard input.
    ///
    /// # Panics
    /// When it cannot be started or does not end in time.
    pub async fn run_with_input(&self, input: &[u8], within: Duration) -> ProgramOutput {
        let folder = folder();
        let (out, err, inp) =
            (folder.path().join("out"), folder.path().join("err"), folder.path().join("in"));
        std::fs::write(&inp, input).expect("an input file");
        let mut command = self.command();
        command
            .stdin(File::open(&inp).expect("an input file"))
            .stdout(File::create(&out).expect("an output file"))
            .stderr(File::create(&err).expect("an output file"));
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.path.display()));
        tell_guardian(&format!("pid {}", child.id()));
        let process = Process {
            program: self.clone(),
            child: Mutex::new(child),
            log: err.clone(),
            quiet: false,
            _folder: folder,
        };
        let status = process.wait_until_ended(within).await;
        let text = |path: &Path| {
            String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
        };
        ProgramOutput {
            code: status.code(),
            signal: status.signal(),
            stdout: text(&out),
            stderr: text(&err),
        }
    }

    /// Runs it to its end, at most `within`, with nothing on standard input.
    ///
    /// # Panics
    /// When it cannot be started or does not end in time.
    pub async fn run(&self, within: Duration) -> ProgramOutput {
        self.run_with_input(b"", within).await
    }
}

/// A running (or ended) process; ended with SIGKILL on drop. Its log is shown when the test fails.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Mutex<Child>,
    log: PathBuf,
    quiet: bool,
    _folder: tempfile::TempDir,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// What it was started as.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The most memory that it ever held, in bytes; `None` where the system does not tell (it is Linux's).
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        peak.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// Output and errors so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Its status once it has ended.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.child().try_wait().expect("a child's status")
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// Does not show its log when the test fails.
    pub fn hide_log(&mut self) {
        self.quiet = true;
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// SIGINT.
    pub fn interrupt(&self) {
        self.signal("INT");
    }

    /// SIGSTOP. None of its threads runs any more when this returns.
    ///
    /// # Panics
    /// When it cannot be stopped.
    pub fn freeze(&self) {
        self.signal("STOP");
        let end = Instant::now() + FREEZE_TIMEOUT;
        while !is_stopped(self.child().id()) {
            assert!(Instant::now() < end, "{} goes on after SIGSTOP", self.program.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let child = self.child();
        let done = Command::new("/bin/sh")
            .args(["-c", &format!("kill -s {name} {}", child.id())])
            .status();
        assert!(done.is_ok_and(|status| status.success()), "kill -s {name} {}", self.program.name);
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// With its log, when it still runs after `within`.
    pub async fn wait_until_ended(&self, within: Duration) -> ExitStatus {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "{} still runs after {within:?}; its log:\n{}",
                self.program.name,
                self.tail()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until its log holds `text`.
    ///
    /// # Panics
    /// When it does not within `within`.
    pub async fn wait_until_logged(&self, text: &str, within: Duration) {
        poll::until(&format!("{} logs {text:?}", self.program.name), within, async || {
            if self.log().contains(text) { Ok(()) } else { Err(self.tail()) }
        })
        .await;
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        tell_guardian(&format!("done {}", self.pid()));
        if std::thread::panicking() && !self.quiet {
            eprintln!("--- {} (pid {}) ---\n{}\n---", self.program.name, self.pid(), self.tail());
        }
    }
}

/// Whether every thread of a process has stopped, or is gone.
fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        // Elsewhere than on Linux there is one state for all of them.
        let state = Command::new("ps").args(["-o", "state=", "-p", &pid.to_string()]).output();
        return state
            .map_or(true, |state| state.stdout.is_empty() || state.stdout.starts_with(b"T"));
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name before it is in parentheses, and may hold any.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
    })
}
