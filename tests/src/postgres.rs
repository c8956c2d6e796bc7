//! Real PostgreSQL servers. `initdb` runs once per process; every server starts with a copy of its
//! result.
//!
//! [`shared()`] is one server for all tests that only need a database. A test that stops its server
//! starts its own with [`PostgresServer::start`]. For root, the server runs as user `postgres`,
//! since it refuses to run as root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;

use crate::process::{self, Process, Program};
use crate::{poll, ports};

const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two checks of the processes.
const PROCESS_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Configuration of the server.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// `fsync=on`: needed if the test kills the server and counts the data. Off is faster.
    pub fsync: bool,
    /// Further `name=value` settings.
    pub settings: Vec<(String, String)>,
}

/// A PostgreSQL server. On drop it is killed and its folder removed.
#[derive(Debug)]
pub struct PostgresServer {
    port: u16,
    program: Program,
    process: Option<Process>,
    _folder: tempfile::TempDir,
}

/// A process of this machine.
struct RunningProcess {
    pid: u32,
    parent: u32,
}

/// Returns the processes that are neither dead nor frozen.
fn running() -> Vec<RunningProcess> {
    let table =
        Command::new("ps").args(["-A", "-o", "pid=,ppid=,state="]).output().expect("ps runs");
    let one = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        (!words.next()?.starts_with(['T', 't', 'Z', 'X'])).then_some(RunningProcess { pid, parent })
    };
    String::from_utf8_lossy(&table.stdout).lines().filter_map(one).collect()
}

/// Returns the server shared by the tests of this process. It starts on first use; the guardian
/// ends it with the process.
pub async fn shared() -> &'static PostgresServer {
    static SHARED: OnceCell<PostgresServer> = OnceCell::const_new();
    SHARED.get_or_init(|| PostgresServer::start(PostgresOptions::default())).await
}

impl PostgresServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// If PostgreSQL is not installed or does not answer in time.
    pub async fn start(options: PostgresOptions) -> Self {
        let folder = process::folder();
        give_to_postgres(folder.path());
        let data = folder.path().join("data");
        let template = template().await;
        run(
            command_as_postgres(Path::new("cp")).arg("-a").arg(template).arg(&data),
            "copy of the initdb folder",
        );
        let port = ports::free();
        let fsync = if options.fsync { "on" } else { "off" };
        let fixed = [
            ("port", port.to_string()),
            ("listen_addresses", "127.0.0.1".into()),
            ("unix_socket_directories", String::new()),
            ("fsync", fsync.into()),
            ("full_page_writes", fsync.into()),
            ("max_connections", "200".into()),
            ("shared_buffers", "32MB".into()),
            ("timezone", "UTC".into()),
        ];
        let mut program =
            program(&find_binary("postgres")).arg("-D").arg(&data).in_folder(folder.path());
        for (name, value) in fixed
            .iter()
            .map(|(n, v)| (*n, v))
            .chain(options.settings.iter().map(|(n, v)| (n.as_str(), v)))
        {
            program = program.arg("-c").arg(format!("{name}={value}"));
        }
        let mut server = Self { port, program, process: None, _folder: folder };
        server.restart().await;
        server
    }

    /// Creates an empty database on this server and returns its URL.
    ///
    /// # Panics
    /// If the server is unavailable.
    pub async fn database(&self) -> String {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&self.url("postgres"))
            .await
            .expect("the test's PostgreSQL server");
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .expect("CREATE DATABASE");
        let _ = connection.close().await;
        self.url(&name)
    }

    /// Returns the URL of database `name`.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}?sslmode=disable", self.port)
    }

    /// Returns the port, which is the same after every restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the main process of the running server.
    ///
    /// # Panics
    /// If the server is stopped.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the PostgreSQL server is stopped")
    }

    /// Sends SIGKILL to the main process and waits until its children have exited, since a child
    /// may answer until it notices. Frozen children are not waited for.
    ///
    /// # Panics
    /// If the children do not exit in time.
    pub fn kill(&mut self) {
        let Some(process) = self.process.take() else { return };
        let parent = process.pid();
        let children: Vec<u32> =
            running().into_iter().filter(|one| one.parent == parent).map(|one| one.pid).collect();
        process.kill();
        let begun = Instant::now();
        while running().iter().any(|one| children.contains(&one.pid)) {
            assert!(begun.elapsed() < START_TIMEOUT, "children of a killed PostgreSQL go on");
            std::thread::sleep(PROCESS_POLL_INTERVAL);
        }
    }

    /// Runs a fast shutdown (SIGINT: open transactions are rolled back) and waits for the exit.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.interrupt();
            process.wait_until_ended(START_TIMEOUT).await;
        }
    }

    /// Restarts the server on the same port and data, and waits until its recovery is done and it
    /// answers.
    pub async fn restart(&mut self) {
        self.kill();
        let url = self.url("postgres");
        let mut process = self.program.spawn();
        // After a kill, the old children may hold the shared memory for a moment. The new server
        // then exits and is started again.
        poll::until("PostgreSQL answers", START_TIMEOUT, async || {
            if !process.is_running() {
                let log = process.tail();
                process = self.program.spawn();
                return Err(format!("the server exited; log:\n{log}"));
            }
            let connection =
                PgConnection::connect(&url).await.map_err(|error| error.to_string())?;
            let _ = connection.close().await;
            Ok(())
        })
        .await;
        self.process = Some(process);
    }
}

/// Returns the folder that `initdb` created, once per process.
async fn template() -> &'static Path {
    static TEMPLATE: OnceCell<(tempfile::TempDir, PathBuf)> = OnceCell::const_new();
    let (_, path) = TEMPLATE
        .get_or_init(async || {
            let folder = process::folder();
            give_to_postgres(folder.path());
            let data = folder.path().join("template");
            let mut command = command_as_postgres(&find_binary("initdb"));
            command.current_dir(folder.path()).arg("-D").arg(&data).args([
                "--username=postgres",
                "--auth=trust",
                "--no-sync",
                "--no-locale",
                "--encoding=UTF8",
            ]);
            run(&mut command, "initdb");
            (folder, data)
        })
        .await;
    path
}

fn find_binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|entry| entry.path().join("bin").join(name))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(
        std::env::split_paths(&on_path)
            .map(|folder| folder.join(name))
            .filter(|path| path.is_file())
            .take(1),
    );
    found.pop().unwrap_or_else(|| {
        panic!(
            "PostgreSQL's {name} is neither in /usr/lib/postgresql nor in PATH: install postgresql"
        )
    })
}

/// Returns the words before a command that run it as user `postgres`; none unless this process is
/// root.
fn postgres_user_prefix() -> Vec<&'static str> {
    if !is_root() {
        return Vec::new();
    }
    if Path::new("/usr/bin/setpriv").exists() {
        vec!["/usr/bin/setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
    } else {
        vec!["runuser", "-u", "postgres", "--"]
    }
}

fn is_root() -> bool {
    id(&["-u"]) == Some(0)
}

fn id(args: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(args).stderr(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn give_to_postgres(folder: &Path) {
    if is_root() {
        let (user, group) = (id(&["-u", "postgres"]), id(&["-g", "postgres"]));
        assert!(user.is_some(), "there is no user postgres, and PostgreSQL refuses to run as root");
        std::os::unix::fs::chown(folder, user, group).expect("chown to postgres");
    }
}

fn command_as_postgres(program: &Path) -> Command {
    let mut words = postgres_user_prefix().into_iter();
    match words.next() {
        Some(first) => {
            let mut command = Command::new(first);
            command.args(words).arg(program);
            command
        }
        None => Command::new(program),
    }
}

fn program(path: &Path) -> Program {
    let mut words = postgres_user_prefix().into_iter();
    match words.next() {
        Some(first) => Program::at("postgres", first).args(words).arg(path),
        None => Program::at("postgres", path),
    }
}

fn run(command: &mut Command, what: &str) {
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} failed:\n{log}");
}
