//! Builds HTTP clients on hosts that may have no CA certificates.
//!
//! # Guarantees
//!
//! - Without certificates, a client reaches `http://` URLs, and refuses `https://` URLs
//!   (`https_waits_for_certificates_and_http_does_not`).
//! - The search for certificates is repeated, so certificates that arrive later need no restart.
//! - A separate thread reads the certificates. A read that blocks, such as from a hanging mount,
//!   delays neither `http://` nor the end of the process
//!   (`sigterm_while_certificates_cannot_be_read_ends_the_process`).

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Client, ClientBuilder};
use tokio::sync::watch;

/// Interval between searches for certificates.
const SEARCH_INTERVAL: Duration = Duration::from_secs(30);
/// Variables that replace the system's certificates.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Configures a client that trusts the system's certificates, or those of `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`.
type ClientFactory = Box<dyn Fn() -> ClientBuilder + Send + Sync>;

/// Error: no CA certificates are available, so no server's certificate can be verified.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}; https is disabled")]
pub struct CertificatesError(String);

impl CertificatesError {
    fn none_found() -> Self {
        let set = VARIABLES.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
        let wrong: Vec<String> = set
            .map(|(name, path)| {
                format!("{name}{}", if Path::new(&path).exists() { "" } else { " (no such path)" })
            })
            .collect();
        Self(match wrong.as_slice() {
            [] => "no CA certificates on this host: install ca-certificates, or set SSL_CERT_FILE"
                .to_owned(),
            names => format!("no CA certificates in {}", names.join(" and ")),
        })
    }

    fn still_reading() -> Self {
        let set: Vec<&str> =
            VARIABLES.iter().copied().filter(|name| std::env::var_os(name).is_some()).collect();
        let place =
            if set.is_empty() { String::new() } else { format!(" in {}", set.join(" and ")) };
        Self(format!("the CA certificates{place} are still being read"))
    }
}

/// A client for `http`, and a client for `https` once certificates are found.
pub(crate) struct HttpClients {
    plain: Client,
    search: Arc<CertificateSearch>,
}

/// The search for certificates, shared with the thread that reads them.
struct CertificateSearch {
    build: ClientFactory,
    secure: OnceLock<Client>,
    is_reading: watch::Sender<bool>,
    /// Start of the last search.
    started: Mutex<Instant>,
}

impl HttpClients {
    /// Starts the search for certificates. Logs an error if the host has none.
    pub(crate) fn new(
        build: impl Fn() -> ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self, reqwest::Error> {
        // An error means that a provider is installed already. The process has one TLS library.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clients = Self {
            plain: build().tls_certs_only([]).build()?,
            search: Arc::new(CertificateSearch {
                build: Box::new(build),
                secure: OnceLock::new(),
                is_reading: watch::Sender::new(false),
                started: Mutex::new(Instant::now()),
            }),
        };
        clients.search.start(true);
        Ok(clients)
    }

    /// Waits until the current search ends, for at most `timeout`.
    pub(crate) async fn wait_for_search(&self, timeout: Duration) {
        let mut reading = self.search.is_reading.subscribe();
        let _ = tokio::time::timeout(timeout, reading.wait_for(|reading| !reading)).await;
    }

    /// Returns the client for `https` or `http`.
    pub(crate) fn get(&self, https: bool) -> Result<&Client, CertificatesError> {
        match self.search.secure.get() {
            Some(client) => Ok(client),
            None if !https => Ok(&self.plain),
            None if *self.search.is_reading.borrow() => Err(CertificatesError::still_reading()),
            None => Err(CertificatesError::none_found()),
        }
    }

    /// Starts another search for certificates if one is due.
    pub(crate) fn search(&self) {
        if self.search.secure.get().is_some() || *self.search.is_reading.borrow() {
            return;
        }
        let mut started = self.search.started.lock().unwrap_or_else(PoisonError::into_inner);
        if started.elapsed() >= SEARCH_INTERVAL {
            *started = Instant::now();
            self.search.start(false);
        }
    }
}

impl CertificateSearch {
    /// Reads certificates on a new thread. The `first` search logs a failure, later ones a success.
    fn start(self: &Arc<Self>, first: bool) {
        self.is_reading.send_replace(true);
        let search = Arc::clone(self);
        let read = move || {
            match (search.build)().build() {
                Ok(client) => {
                    let _ = search.secure.set(client);
                    if !first {
                        tracing::info!("CA certificates found; https is enabled");
                    }
                }
                Err(error) if first => {
                    let reason = CertificatesError::none_found();
                    tracing::error!(%reason, %error, "no CA certificates; searching again later");
                }
                Err(_) => {}
            }
            search.is_reading.send_replace(false);
        };
        if let Err(error) = std::thread::Builder::new().name("certificates".to_owned()).spawn(read)
        {
            tracing::error!(
                %error,
                "cannot start the thread that reads CA certificates; https is disabled"
            );
            self.is_reading.send_replace(false);
        }
    }
}

impl std::fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpClients")
            .field("https", &self.search.secure.get().is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl HttpClients {
    /// Creates the clients of a host without certificates.
    pub(crate) fn without_certificates() -> Self {
        let plain = Client::builder().no_proxy().tls_certs_only([]).build();
        let search = CertificateSearch {
            build: Box::new(Client::builder),
            secure: OnceLock::new(),
            is_reading: watch::Sender::new(false),
            started: Mutex::new(Instant::now()),
        };
        Self { plain: plain.unwrap_or_default(), search: Arc::new(search) }
    }
}
