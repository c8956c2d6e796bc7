//! HTTP clients on a host that may have no CA certificates.
//!
//! # Guarantees
//!
//! - Without certificates a client still reaches `http://` URLs, and verifies no `https://` URL.
//!   (`https_waits_for_certificates_and_http_does_not`)
//! - Certificates are looked for again, so that no restart is needed when they arrive.
//! - They are read on a thread of their own: a read that never ends, such as from a mount that
//!   hangs, delays neither `http://` nor the end of the process.
//!   (`sigterm_while_certificates_cannot_be_read_ends_the_process`)

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Client, ClientBuilder};
use tokio::sync::watch;

/// Pause between two searches for certificates.
const SEARCH_INTERVAL: Duration = Duration::from_secs(30);
/// Variables that name certificates instead of the system's.
const VARIABLES: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// Builds a client that trusts the system's certificates, or those of `SSL_CERT_FILE` and
/// `SSL_CERT_DIR`.
type ClientFactory = Box<dyn Fn() -> ClientBuilder + Send + Sync>;

/// No certificate of a server can be verified.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}; https is off")]
pub struct CertificatesError(String);

impl CertificatesError {
    fn found() -> Self {
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

    fn unread() -> Self {
        let set: Vec<&str> =
            VARIABLES.iter().copied().filter(|name| std::env::var_os(name).is_some()).collect();
        let place =
            if set.is_empty() { String::new() } else { format!(" in {}", set.join(" and ")) };
        Self(format!("the CA certificates{place} are still being read"))
    }
}

/// A client for `http` at once, and for `https` as soon as there are certificates.
pub(crate) struct HttpClients {
    plain: Client,
    search: Arc<CertificateSearch>,
}

/// The search for certificates, shared with the thread that reads them.
struct CertificateSearch {
    build: ClientFactory,
    secure: OnceLock<Client>,
    is_reading: watch::Sender<bool>,
    /// The beginning of the last search.
    begun: Mutex<Instant>,
}

impl HttpClients {
    /// Begins to search for certificates; a host without any is logged.
    pub(crate) fn new(
        build: impl Fn() -> ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self, reqwest::Error> {
        // Fails where it is installed already: there is one TLS stack.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let clients = Self {
            plain: build().tls_certs_only([]).build()?,
            search: Arc::new(CertificateSearch {
                build: Box::new(build),
                secure: OnceLock::new(),
                is_reading: watch::Sender::new(false),
                begun: Mutex::new(Instant::now()),
            }),
        };
        clients.search.begin(true);
        Ok(clients)
    }

    /// Waits until the search that is under way ends, for at most `timeout`.
    pub(crate) async fn wait_for_search(&self, timeout: Duration) {
        let mut reading = self.search.is_reading.subscribe();
        let _ = tokio::time::timeout(timeout, reading.wait_for(|reading| !reading)).await;
    }

    /// The client for `https`, or for `http`.
    pub(crate) fn get(&self, https: bool) -> Result<&Client, CertificatesError> {
        match self.search.secure.get() {
            Some(client) => Ok(client),
            None if !https => Ok(&self.plain),
            None if *self.search.is_reading.borrow() => Err(CertificatesError::unread()),
            None => Err(CertificatesError::found()),
        }
    }

    /// Begins to look for certificates again if that is due.
    pub(crate) fn search(&self) {
        if self.search.secure.get().is_some() || *self.search.is_reading.borrow() {
            return;
        }
        let mut begun = self.search.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.elapsed() >= SEARCH_INTERVAL {
            *begun = Instant::now();
            self.search.begin(false);
        }
    }
}

impl CertificateSearch {
    /// Reads certificates on a new thread. Logs that there are none the `first` time, and later that
    /// there are some.
    fn begin(self: &Arc<Self>, first: bool) {
        self.is_reading.send_replace(true);
        let search = Arc::clone(self);
        let read = move || {
            match (search.build)().build() {
                Ok(client) => {
                    let _ = search.secure.set(client);
                    if !first {
                        tracing::info!("CA certificates were found; https is on");
                    }
                }
                Err(error) if first => {
                    let reason = CertificatesError::found();
                    tracing::error!(%reason, %error, "http goes on; https waits");
                }
                Err(_) => {}
            }
            search.is_reading.send_replace(false);
        };
        if let Err(error) = std::thread::Builder::new().name("certificates".to_owned()).spawn(read)
        {
            tracing::error!(%error, "no thread to read CA certificates on; https waits");
            self.is_reading.send_replace(false);
        }
    }
}

impl std::fmt::Debug for HttpClients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients")
            .field("https", &self.search.secure.get().is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl HttpClients {
    /// As on a host without certificates.
    pub(crate) fn without_certificates() -> Self {
        let plain = Client::builder().no_proxy().tls_certs_only([]).build();
        let search = CertificateSearch {
            build: Box::new(Client::builder),
            secure: OnceLock::new(),
            is_reading: watch::Sender::new(false),
            begun: Mutex::new(Instant::now()),
        };
        Self { plain: plain.unwrap_or_default(), search: Arc::new(search) }
    }
}
