//! Resolves names of destinations to allowed addresses.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::AllowPrivate;

/// Error: no address of the name is allowed.
#[derive(Debug, thiserror::Error)]
#[error("its address is not public; WEBHOOK_ALLOW_PRIVATE can allow it")]
pub(super) struct BlockedAddressError;

/// Error: the name has no address.
#[derive(Debug, thiserror::Error)]
#[error("the name has no address")]
pub(super) struct NameNotFoundError(#[source] Option<io::Error>);

/// Name lookup, replaceable in tests.
pub(super) trait NameLookup: Send + Sync {
    /// Looks up all addresses of `name`.
    ///
    /// # Errors
    /// The lookup failed, or the name does not exist.
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The host's resolver.
pub(super) struct SystemLookup;

impl NameLookup for SystemLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
    }
}

/// A resolver that returns allowed addresses only.
pub(super) struct AddressFilter {
    pub(super) allowed: Arc<AllowPrivate>,
    pub(super) names: Arc<dyn NameLookup>,
}

impl Resolve for AddressFilter {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = Arc::clone(&self.allowed);
        let found = self.names.lookup(name.as_str().to_owned());
        Box::pin(async move {
            let found = found.await.map_err(|error| NameNotFoundError(Some(error)))?;
            if found.is_empty() {
                return Err(NameNotFoundError(None).into());
            }
            let permitted: Vec<SocketAddr> =
                found.into_iter().filter(|address| allowed.permits(address.ip())).collect();
            if permitted.is_empty() {
                return Err(BlockedAddressError.into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}
