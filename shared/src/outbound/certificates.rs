//! HTTP clients on a host that may have no CA certificates.
//!
//! # Guarantees
//!
//! - Without certificates a client still reaches `http://` URLs, and verifies no `https://` URL.
//!   (`https_waits_for_certificates_and_http_does_not`)
//! - Certificates are looked for again, so that no restart is needed when they arrive.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Client, ClientBuilder};

/// Pause between two searches for certificates.
const SEARCHED_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Variables that name certificates instead of the system's.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Builds a client that trusts the system's certificates, or those of `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`.
type Build = Box<dyn Fn() -> ClientBuilder + Send + Sync>;

/// No certificate of a server can be verified.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("no CA certificates {0}; https is off")]
pub struct NoCertificates(String);

impl NoCertificates {
    fn found() -> Self {
        let set = VARIABLES.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
        let wrong: Vec<String> = set
            .map(|(name, path)| format!("{name}{}", if Path::new(&path).exists() { "" } else { " (no such path)" }))
            .collect();
        Self(match wrong.as_slice() {
            [] => "on this host: install ca-certificates, or set SSL_CERT_FILE".to_owned(),
            names => format!("in {}", names.join(" and ")),
        })
    }
}

/// A client for `http` at once, and for `https` as soon as there are certificates.
pub(crate) struct Clients {
    build: Build,
    plain: Client,
    secure: OnceLock<Client>,
    searched: Mutex<Instant>,
}

impl Clients {
    /// Searches for certificates; a host without any is logged.
    pub(crate) fn new(build: impl Fn() -> ClientBuilder + Send + Sync + 'static) -> Result<Self, reqwest::Error> {
        // Fails where it is installed already: there is one TLS stack.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (plain, secure) = match build().build() {
            Ok(client) => (client.clone(), OnceLock::from(client)),
            Err(error) => {
                let plain = build().tls_certs_only([]).build()?;
                let reason = NoCertificates::found();
                tracing::error!(%reason, %error, "http goes on; https waits");
                (plain, OnceLock::new())
            }
        };
        Ok(Self { build: Box::new(build), plain, secure, searched: Mutex::new(Instant::now()) })
    }

    /// The client for `https`, or for `http`.
    pub(crate) fn get(&self, https: bool) -> Result<&Client, NoCertificates> {
        match self.secure.get() {
            Some(client) => Ok(client),
            None if https => Err(NoCertificates::found()),
            None => Ok(&self.plain),
        }
    }

    /// Looks for certificates again if that is due. Returns true if `https` can be verified.
    pub(crate) fn search(&self) -> bool {
        if self.secure.get().is_some() {
            return true;
        }
        let mut searched = self.searched.lock().unwrap_or_else(PoisonError::into_inner);
        if searched.elapsed() < SEARCHED_AGAIN_AFTER {
            return false;
        }
        *searched = Instant::now();
        let Ok(client) = (self.build)().build() else { return false };
        tracing::info!("CA certificates were found; https is on");
        self.secure.get_or_init(|| client);
        true
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("https", &self.secure.get().is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Clients {
    /// As on a host without certificates.
    pub(crate) fn without_certificates() -> Self {
        let plain = Client::builder().no_proxy().tls_certs_only([]).build();
        let searched = Mutex::new(Instant::now());
        Self {
            build: Box::new(Client::builder),
            plain: plain.unwrap_or_default(),
            secure: OnceLock::new(),
            searched,
        }
    }
}
