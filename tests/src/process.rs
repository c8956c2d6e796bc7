//! Real processes with a clean environment and a log file, ended on drop.
//!
//! If this process dies without running destructors, a guardian ends the registered processes and
//! removes the folders. The guardian is one shell per test process, at the other end of a pipe.

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
/// Longest wait for a process to freeze. A thread in disk I/O stops only afterwards.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(20);

/// Script of the guardian: reads `pid N`, `done N` and `dir PATH`. When the pipe closes, it kills
/// the remaining processes and removes the folders.
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

/// The guardian outlives this process by design, so it is never waited for.
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

/// Creates a temporary folder named `tributary-*`. It is removed on drop, or by the guardian if
/// this process is killed.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("tributary-").tempdir().expect("a temporary folder");
    tell_guardian(&format!("dir {}", dir.path().display()));
    dir
}

/// Returns the path of a binary of the workspace: next to the running test
/// (`target/<profile>/NAME`), or in the folder of the variable `TEST_BINARIES`.
///
/// # Panics
/// If the binary has not been built.
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

/// A command to start. Of this process's environment it inherits `PATH` and `HOME` only.
#[derive(Clone, Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<String, OsString>,
    folder: Option<PathBuf>,
}

/// Result of a finished program.
#[derive(Clone, Debug)]
pub struct ProgramOutput {
    /// Exit code; `None` if a signal ended the program.
    pub code: Option<i32>,
    /// Signal that ended the program.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Program {
    /// Creates a command for a binary of the workspace (`ingress`, `worker`, `dlq-tool`).
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self::at(name, binary(name))
    }

    /// Creates a command for any executable.
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

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Sets the working directory.
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

    /// Starts the command; standard output and error go into one file.
    ///
    /// # Panics
    /// If the command cannot be started.
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

    /// Runs the command to its end within `within`, with `input` on standard input.
    ///
    /// # Panics
    /// If the command cannot be started or does not end in time.
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

    /// Runs the command to its end within `within`, without input.
    ///
    /// # Panics
    /// If the command cannot be started or does not end in time.
    pub async fn run(&self, within: Duration) -> ProgramOutput {
        self.run_with_input(b"", within).await
    }
}

/// A started process. It is killed on drop; its log is shown if the test fails.
#[derive(Debug)]
pub struct Process {
    program: Program,
    child: Mutex<Child>,
    log: PathBuf,
    quiet: bool,
    _folder: tempfile::TempDir,
}

impl Process {
    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Returns the command that was started.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Returns the peak memory in bytes, on Linux only.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        peak.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    }

    /// Returns the output so far.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Returns the exit status after the end.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.child().try_wait().expect("a child's status")
    }

    /// Returns true while the process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    /// Hides the log if the test fails.
    pub fn hide_log(&mut self) {
        self.quiet = true;
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends SIGINT.
    pub fn interrupt(&self) {
        self.signal("INT");
    }

    /// Sends SIGSTOP and waits until every thread is stopped.
    ///
    /// # Panics
    /// If the process does not stop in time.
    pub fn freeze(&self) {
        self.signal("STOP");
        let end = Instant::now() + FREEZE_TIMEOUT;
        while !is_stopped(self.child().id()) {
            assert!(Instant::now() < end, "{} goes on after SIGSTOP", self.program.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Sends SIGCONT.
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

    /// Waits until the process has exited.
    ///
    /// # Panics
    /// With its log, if it still runs after `within`.
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

    /// Waits until the log contains `text`.
    ///
    /// # Panics
    /// If it does not within `within`.
    pub async fn wait_until_logged(&self, text: &str, within: Duration) {
        poll::until(&format!("{} logs {text:?}", self.program.name), within, async || {
            if self.log().contains(text) { Ok(()) } else { Err(self.tail()) }
        })
        .await;
    }

    /// Returns the last lines of the log.
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

/// Returns true if every thread of a process is stopped or gone.
fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        // Outside Linux there is one state for all threads.
        let state = Command::new("ps").args(["-o", "state=", "-p", &pid.to_string()]).output();
        return state
            .map_or(true, |state| state.stdout.is_empty() || state.stdout.starts_with(b"T"));
    };
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // The name before the state is in parentheses and may contain any character.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
    })
}
