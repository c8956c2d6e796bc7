//! Real redis-server on a free loopback port and in a temporary folder. Port and data stay the same
//! after a restart.

use std::path::Path;
use std::time::Duration;

use crate::process::{self, Process, Program};
use crate::{poll, ports};

/// Longest wait for a server that loads its data.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Configuration of the server.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    settings: Vec<(String, String)>,
    env: Vec<(String, String)>,
}

impl RedisOptions {
    /// No persistence, which is fastest. Data survive a freeze, but not a restart.
    #[must_use]
    pub fn fast() -> Self {
        Self::default()
    }

    /// `appendonly yes`, `appendfsync always` and `maxmemory-policy noeviction`, as
    /// `DURABILITY=strict` requires.
    #[must_use]
    pub fn durable() -> Self {
        Self::default()
            .set("appendonly", "yes")
            .set("appendfsync", "always")
            .set("maxmemory-policy", "noeviction")
    }

    /// Adds a setting of redis.conf. A later one of the same name replaces it.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a variable to the server's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A redis-server. On drop it is killed and its folder removed; its log is shown if the test fails.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    program: Program,
    process: Option<Process>,
    folder: tempfile::TempDir,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// If redis-server is not installed or does not answer in time.
    pub async fn start(options: RedisOptions) -> Self {
        let folder = process::folder();
        let port = ports::free();
        let mut program = Program::at("redis-server", "redis-server").in_folder(folder.path());
        let fixed =
            [("port", port.to_string()), ("bind", "127.0.0.1".into()), ("save", String::new())];
        let fixed = fixed.iter().map(|(name, value)| (*name, value.as_str()));
        let more = [
            ("dir", folder.path().to_str().expect("a UTF-8 path")),
            ("appendonly", "no"),
            ("loglevel", "notice"),
        ];
        let chosen = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in fixed.chain(more).chain(chosen) {
            program = program.arg(format!("--{name}")).arg(value);
        }
        for (name, value) in &options.env {
            program = program.env(name, value);
        }
        let mut server = Self { port, program, process: None, folder };
        server.restart().await;
        server
    }

    /// Returns `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the port, which is the same after every restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the data folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns true while the server runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// Returns the running process.
    ///
    /// # Panics
    /// If the server is stopped.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("redis-server is stopped")
    }

    /// Sends SIGKILL and waits for the exit.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Sends SIGTERM and waits for the exit.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.terminate();
            process.wait_until_ended(START_TIMEOUT).await;
        }
    }

    /// Starts the server again on the same port and data, and waits until its data are loaded and
    /// it answers. A running server is killed first.
    ///
    /// # Panics
    /// If it does not answer in time.
    pub async fn restart(&mut self) {
        self.try_restart().await.unwrap_or_else(|why| panic!("redis-server does not start: {why}"));
    }

    /// Restarts the server like [`Self::restart`].
    ///
    /// # Errors
    /// The reason why it did not start, with the end of its log.
    pub async fn try_restart(&mut self) -> Result<(), String> {
        self.kill();
        let process = self.program.spawn();
        let url = self.url();
        let started = poll::try_until("redis-server answers", START_TIMEOUT, async || {
            if !process.is_running() {
                return Ok(Err(format!("the server exited; log:\n{}", process.tail())));
            }
            let mut connection = connect(&url).await.map_err(|error| error.to_string())?;
            let answer = ::redis::cmd("PING").query_async::<String>(&mut connection).await;
            answer.map(|_| Ok(())).map_err(|error| error.to_string())
        });
        started.await.map_err(|late| late.to_string())??;
        self.process = Some(process);
        Ok(())
    }

    /// Opens a new connection.
    ///
    /// # Panics
    /// If the server is unavailable.
    pub async fn connection(&self) -> ::redis::aio::MultiplexedConnection {
        connect(&self.url()).await.expect("a connection to the test's redis-server")
    }

    /// Runs a command given as words: `server.command(&["XLEN", "webhooks:incoming:mux"])`.
    ///
    /// # Panics
    /// If Redis returns an error, or a reply that is not a `T`.
    pub async fn command<T: ::redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.connection().await;
        let mut command = ::redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command
            .query_async(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }
}

async fn connect(url: &str) -> ::redis::RedisResult<::redis::aio::MultiplexedConnection> {
    let config = ::redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(5)))
        .set_response_timeout(Some(Duration::from_secs(10)));
    ::redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}
