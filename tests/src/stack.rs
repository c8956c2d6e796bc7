//! Whole system on free ports: Redis, ingress replicas, workers and a database, ended on drop.

use std::path::PathBuf;
use std::time::Duration;

use crate::database::Database;
use crate::postgres::{self, PostgresOptions, PostgresServer};
use crate::process::{self, Program, ProgramOutput};
use crate::redis::{RedisOptions, RedisServer};
use crate::sender::{self, Sender};
pub use crate::server_process::ServerProcess;
use crate::tcp_proxy::TcpProxy;
use crate::{poll, ports};

/// Longest wait for a process to become ready.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Definition of the platform that every stack has in addition to the bundled ones.
const ACME: &str = r#"
[platforms.acme]
preset = "generic"
secrets = ["env:ACME_SECRET"]
rate_limit = 60000
"#;

/// Database of the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseKind {
    /// A file of this stack.
    Sqlite,
    /// A new database on the server that all tests share.
    Postgres,
    /// A database on a server of this stack, which the test may stop.
    OwnPostgres,
}

/// Configuration of a stack.
#[derive(Clone, Debug)]
pub struct StackBuilder {
    redis: RedisOptions,
    proxied: bool,
    database_proxied: bool,
    ingresses: usize,
    workers: usize,
    kind: DatabaseKind,
    database_folder: Option<PathBuf>,
    platforms: String,
    env: Vec<(String, String)>,
    ingress_env: Vec<(String, String)>,
    worker_env: Vec<(String, String)>,
}

/// A running system.
#[derive(Debug)]
pub struct Stack {
    /// The Redis server.
    pub redis: RedisServer,
    /// Proxy between Redis and the processes, if configured.
    pub proxy: Option<TcpProxy>,
    /// Proxy between the workers and PostgreSQL, if configured.
    pub database_proxy: Option<TcpProxy>,
    /// The ingress replicas.
    pub ingresses: Vec<ServerProcess>,
    /// The workers.
    pub workers: Vec<ServerProcess>,
    /// The session database.
    pub database: Database,
    /// The PostgreSQL server, if the stack has its own.
    pub postgres: Option<PostgresServer>,
    builder: StackBuilder,
    platforms_file: PathBuf,
    _folder: tempfile::TempDir,
}

impl Default for StackBuilder {
    fn default() -> Self {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect()
        };
        Self {
            redis: RedisOptions::fast(),
            proxied: false,
            database_proxied: false,
            ingresses: 1,
            workers: 1,
            kind: DatabaseKind::Sqlite,
            database_folder: None,
            platforms: String::new(),
            env: pairs(&[("RUST_LOG", "info"), ("SHUTDOWN_GRACE_MS", "5000")]),
            ingress_env: pairs(&[
                ("INGRESS_WORKERS", "1"),
                ("ADMIN_TOKEN", sender::ADMIN_TOKEN),
                ("STREAMING_WEBHOOK_SIGNING_SECRET", sender::MUX_SECRET),
                ("LIVEKIT_API_KEY", sender::LIVEKIT_KEY),
                ("LIVEKIT_API_SECRET", sender::LIVEKIT_SECRET),
                ("NETFLIX_WEBHOOK_SECRET", sender::NETFLIX_SECRET),
                ("ACME_SECRET", sender::ACME_SECRET),
            ]),
            worker_env: pairs(&[
                ("ADMIN_TOKEN", sender::ADMIN_TOKEN),
                ("WORKER_NAME", "harness"),
                ("RETRY_BASE_MS", "100"),
                ("RETRY_MAX_MS", "1000"),
                ("CLAIM_IDLE_MS", "2000"),
            ]),
        }
    }
}

impl StackBuilder {
    /// Sets the configuration of Redis; default [`RedisOptions::fast`].
    #[must_use]
    pub fn redis(mut self, options: RedisOptions) -> Self {
        self.redis = options;
        self
    }

    /// Puts a [`TcpProxy`] between the processes and Redis.
    #[must_use]
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Puts a [`TcpProxy`] between the workers and PostgreSQL.
    #[must_use]
    pub fn database_proxied(mut self) -> Self {
        self.database_proxied = true;
        self
    }

    /// Sets the number of ingress replicas; default 1.
    #[must_use]
    pub fn ingresses(mut self, count: usize) -> Self {
        self.ingresses = count;
        self
    }

    /// Sets the number of workers; default 1.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// Sets the kind of database; default SQLite.
    #[must_use]
    pub fn database(mut self, kind: DatabaseKind) -> Self {
        self.kind = kind;
        self
    }

    /// Sets the folder of the file of [`DatabaseKind::Sqlite`]; default: the stack's own folder.
    #[must_use]
    pub fn database_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.database_folder = Some(folder.into());
        self
    }

    /// Adds TOML to the stack's `PLATFORMS_FILE`, which defines `acme` with the preset `generic`
    /// and a high limit.
    #[must_use]
    pub fn platforms(mut self, toml: &str) -> Self {
        self.platforms.push_str(toml);
        self
    }

    /// Sets a variable of every process.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets a variable of the ingress replicas.
    #[must_use]
    pub fn ingress_env(mut self, name: &str, value: &str) -> Self {
        self.ingress_env.push((name.into(), value.into()));
        self
    }

    /// Removes a variable of the ingress replicas, for example a secret.
    #[must_use]
    pub fn without_ingress_env(mut self, name: &str) -> Self {
        self.ingress_env.retain(|(known, _)| known != name);
        self
    }

    /// Sets a variable of the workers.
    #[must_use]
    pub fn worker_env(mut self, name: &str, value: &str) -> Self {
        self.worker_env.push((name.into(), value.into()));
        self
    }

    /// Starts everything and waits until it is ready.
    ///
    /// # Panics
    /// With its log, if a process does not become ready.
    pub async fn start(self) -> Stack {
        let mut stack = self.servers().await;
        for _ in 0..stack.builder.workers {
            stack.add_worker().await;
        }
        for _ in 0..stack.builder.ingresses {
            stack.add_ingress().await;
        }
        stack
    }

    /// Starts Redis and the database only. Ingress replicas and workers are added later.
    pub async fn servers(self) -> Stack {
        let folder = process::folder();
        let redis = RedisServer::start(self.redis.clone()).await;
        let proxy = if self.proxied { Some(TcpProxy::start(&redis.address()).await) } else { None };
        let (database, postgres) = match self.kind {
            DatabaseKind::Sqlite => {
                let chosen = self.database_folder.as_deref().unwrap_or(folder.path());
                (Database::Sqlite(chosen.join("tributary.db")), None)
            }
            DatabaseKind::Postgres => {
                (Database::Postgres(postgres::shared().await.database().await), None)
            }
            DatabaseKind::OwnPostgres => {
                let server =
                    PostgresServer::start(PostgresOptions { fsync: true, ..Default::default() })
                        .await;
                (Database::Postgres(server.database().await), Some(server))
            }
        };
        let database_proxy = match (&database, self.database_proxied) {
            (Database::Postgres(url), true) => Some(TcpProxy::start(address(url)).await),
            _ => None,
        };
        let platforms_file = folder.path().join("platforms.toml");
        std::fs::write(&platforms_file, format!("{ACME}\n{}", self.platforms))
            .expect("a platforms file");
        let (ingresses, workers) = (Vec::new(), Vec::new());
        Stack {
            redis,
            proxy,
            database_proxy,
            ingresses,
            workers,
            database,
            postgres,
            builder: self,
            platforms_file,
            _folder: folder,
        }
    }
}

impl Stack {
    /// Returns a builder with the defaults of [`StackBuilder`].
    #[must_use]
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }

    /// Returns the Redis URL of the processes; the proxy's if there is one.
    #[must_use]
    pub fn redis_url(&self) -> String {
        self.proxy
            .as_ref()
            .map_or_else(|| self.redis.url(), |proxy| format!("redis://{}", proxy.address()))
    }

    /// Returns the database URL of the workers; the proxy's if there is one.
    #[must_use]
    pub fn database_url(&self) -> String {
        let url = self.database.url();
        self.database_proxy
            .as_ref()
            .map_or(url.clone(), |proxy| url.replace(address(&url), &proxy.address()))
    }

    /// Creates a command for a binary with the environment common to all processes of the stack.
    #[must_use]
    pub fn program(&self, name: &str) -> Program {
        let program = Program::new(name)
            .env("REDIS_URL", self.redis_url())
            .env("PLATFORMS_FILE", &self.platforms_file);
        with(program, &self.builder.env)
    }

    /// Creates a command for a worker, and returns it with its ops address.
    #[must_use]
    pub fn worker_program(&self) -> (Program, String) {
        let ops = format!("127.0.0.1:{}", ports::free());
        let program =
            self.program("worker").env("DATABASE_URL", self.database_url()).env("OPS_BIND", &ops);
        (with(program, &self.builder.worker_env), format!("http://{ops}"))
    }

    /// Creates a command for an ingress, and returns it with its address and its ops address.
    #[must_use]
    pub fn ingress_program(&self) -> (Program, String, String) {
        let (bind, ops) =
            (format!("127.0.0.1:{}", ports::free()), format!("127.0.0.1:{}", ports::free()));
        let program = self.program("ingress").env("INGRESS_BIND", &bind).env("OPS_BIND", &ops);
        (
            with(program, &self.builder.ingress_env),
            format!("http://{bind}"),
            format!("http://{ops}"),
        )
    }

    /// Starts another worker and waits until it is ready.
    pub async fn add_worker(&mut self) {
        self.spawn_worker();
        self.workers[self.workers.len() - 1].ready(START_TIMEOUT).await;
    }

    /// Starts another worker.
    pub fn spawn_worker(&mut self) {
        let (program, ops) = self.worker_program();
        self.workers.push(ServerProcess { process: program.spawn(), url: ops.clone(), ops });
    }

    /// Starts another ingress and waits until it is ready.
    pub async fn add_ingress(&mut self) {
        self.spawn_ingress();
        self.ingresses[self.ingresses.len() - 1].ready(START_TIMEOUT).await;
    }

    /// Starts another ingress.
    pub fn spawn_ingress(&mut self) {
        let (program, url, ops) = self.ingress_program();
        self.ingresses.push(ServerProcess { process: program.spawn(), url, ops });
    }

    /// Returns a client of the first ingress.
    #[must_use]
    pub fn sender(&self) -> Sender {
        self.ingresses[0].sender()
    }

    /// Runs `dlq-tool` with these arguments to its end.
    pub async fn dlq_tool(&self, args: &[&str]) -> ProgramOutput {
        let program =
            Program::new("dlq-tool").env("REDIS_URL", self.redis.url()).env("NO_COLOR", "1");
        program.args(args).run(Duration::from_secs(20)).await
    }

    /// Returns all platforms with a stream of incoming events or dead letters.
    pub async fn platforms(&self) -> Vec<String> {
        let keys: Vec<String> = self.redis.command(&["KEYS", "webhooks:*"]).await;
        let names = keys.iter().filter_map(|key| {
            key.strip_prefix("webhooks:incoming:")
                .or_else(|| key.strip_prefix("webhooks:dlq:"))
                .map(str::to_owned)
        });
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.dedup();
        names
    }

    /// Returns the number of unfinished entries of `platform`: waiting, pending or to be retried.
    pub async fn unfinished(&self, platform: &str) -> usize {
        self.redis.command(&["XLEN", &format!("webhooks:incoming:{platform}")]).await
    }

    /// Returns the number of entries of `platform` that wait for a retry.
    pub async fn retrying(&self, platform: &str) -> usize {
        self.redis.command(&["ZCARD", &format!("webhooks:retry:{platform}")]).await
    }

    /// Returns the number of dead letters of `platform`.
    pub async fn dead(&self, platform: &str) -> usize {
        self.redis.command(&["XLEN", &format!("webhooks:dlq:{platform}")]).await
    }

    /// Waits until no platform has an unfinished event.
    ///
    /// # Panics
    /// If some are left after `within`.
    pub async fn wait_until_drained(&self, within: Duration) {
        poll::until("nothing is unfinished", within, async || {
            for platform in self.platforms().await {
                let left = self.unfinished(&platform).await;
                if left > 0 {
                    return Err(format!("{platform}: {left} left"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Waits until `room` has `status`.
    ///
    /// # Panics
    /// If it has not after `within`.
    pub async fn status(&self, room: &str, status: &str, within: Duration) {
        poll::until(&format!("session {room} is {status}"), within, async || {
            let seen = self.database.status(room).await;
            if seen == status { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

/// Returns `HOST:PORT` of a URL.
fn address(url: &str) -> &str {
    let rest = url.rsplit('@').next().unwrap_or(url);
    rest.split('/').next().unwrap_or(rest)
}

fn with(program: Program, env: &[(String, String)]) -> Program {
    env.iter().fold(program, |program, (name, value)| program.env(name, value))
}
