//! Fastify and ioredis baseline, if it is requested and can be installed.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tests::process::{self, Program};
use tests::sender::MUX_SECRET;
use tokio::time::timeout;

use crate::LoadError;

const SERVER: &str = include_str!("../fastify/server.mjs");
const PACKAGE: &str = include_str!("../fastify/package.json");
/// Longest wait for the installation of the packages.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(180);

/// The server and its packages, in a temporary folder.
pub(crate) struct Fastify {
    folder: tempfile::TempDir,
}

impl Fastify {
    /// Installs the packages. Returns the reason if that is impossible.
    pub(crate) async fn install() -> Result<Self, String> {
        let version = Command::new("node").arg("--version").stderr(Stdio::null()).output();
        if !version.is_ok_and(|answer| answer.status.success()) {
            return Err("node is not installed".to_owned());
        }
        let folder = process::folder();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        write("package.json", PACKAGE)
            .and_then(|()| write("server.mjs", SERVER))
            .map_err(|e| e.to_string())?;
        let npm = install(folder.path());
        match timeout(INSTALL_TIMEOUT, npm).await {
            Ok(Ok(())) => Ok(Self { folder }),
            Ok(Err(error)) => Err(format!("npm cannot install fastify and ioredis: {error}")),
            Err(_) => Err("npm install timed out".to_owned()),
        }
    }

    /// Returns the server's program, which is not started yet.
    pub(crate) fn program(&self, address: SocketAddr, redis: &str) -> Program {
        Program::at("fastify", "node")
            .in_folder(self.folder.path())
            .arg("server.mjs")
            .env("NODE_ENV", "production")
            .env("PORT", address.port().to_string())
            .env("REDIS_URL", redis)
            .env("SECRET", MUX_SECRET)
    }
}

async fn install(folder: &Path) -> Result<(), LoadError> {
    let mut command = tokio::process::Command::new("npm");
    command
        .args(["install", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(folder);
    let done =
        command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true).output().await?;
    if done.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&done.stderr)
        .lines()
        .next()
        .unwrap_or("npm gave no reason")
        .to_owned()
        .into())
}
