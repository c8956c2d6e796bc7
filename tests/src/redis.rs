//! A real redis-server of one's own: free loopback port, temporary folder, same port and data after a restart.

use std::path::Path;
use std::time::Duration;

use crate::process::{self, Process, Program};
use crate::{poll, ports};

/// Longest wait for a server that loads its data.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// How the server is configured.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    settings: Vec<(String, String)>,
    env: Vec<(String, String)>,
}

impl RedisOptions {
    /// No persistence: the fastest. Data survive a freeze, not a restart.
    #[must_use]
    pub fn fast() -> Self {
        Self::default()
    }

    /// `appendonly yes`, `appendfsync always`, `maxmemory-policy noeviction`: what `DURABILITY=strict` wants.
    #[must_use]
    pub fn durable() -> Self {
        Self::default()
            .set("appendonly", "yes")
            .set("appendfsync", "always")
            .set("maxmemory-policy", "noeviction")
    }

    /// One setting of redis.conf; a later one of the same name wins.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A variable of the server's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A redis-server of this test's own. Killed, and its folder removed, on drop; its log is shown when the test fails.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    program: Program,
    process: Option<Process>,
    folder: tempfile::TempDir,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    ///
    /// # Panics
    /// When redis-server is not installed or does not answer in time.
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

    /// `redis://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port, the same after every restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its data folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Whether it runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// The running process.
    ///
    /// # Panics
    /// When it is stopped.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("redis-server is stopped")
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.terminate();
            process.wait_until_ended(START_TIMEOUT).await;
        }
    }

    /// Starts it again on the same port and data (after [`Self::kill`] or [`Self::stop`]; a running one is killed first)
    /// and waits until it answers, its data loaded.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub async fn restart(&mut self) {
        self.try_restart().await.unwrap_or_else(|why| panic!("redis-server does not start: {why}"));
    }

    /// [`Self::restart`].
    ///
    /// # Errors
    /// Why it did not start, with the end of its log.
    pub async fn try_restart(&mut self) -> Result<(), String> {
        self.kill();
        let process = self.program.spawn();
        let url = self.url();
        let started = poll::try_until("redis-server answers", START_TIMEOUT, async || {
            if !process.is_running() {
                return Ok(Err(format!("it ended; log:\n{}", process.tail())));
            }
            let mut connection = connect(&url).await.map_err(|error| error.to_string())?;
            let answer = ::redis::cmd("PING").query_async::<String>(&mut connection).await;
            answer.map(|_| Ok(())).map_err(|error| error.to_string())
        });
        started.await.map_err(|late| late.to_string())??;
        self.process = Some(process);
        Ok(())
    }

    /// A new connection.
    ///
    /// # Panics
    /// When the server is away.
    pub async fn connection(&self) -> ::redis::aio::MultiplexedConnection {
        connect(&self.url()).await.expect("a connection to the test's redis-server")
    }

    /// Runs one command, given as words: `server.command(&["XLEN", "webhooks:incoming:mux"])`.
    ///
    /// # Panics
    /// When Redis answers with an error, or with something that is no `T`.
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
