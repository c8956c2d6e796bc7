//! Names of destinations, and which of their addresses may be connected to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::AllowPrivate;

/// No address of the name is allowed.
#[derive(Debug, thiserror::Error)]
#[error("its address is not public; WEBHOOK_ALLOW_PRIVATE allows networks")]
pub(super) struct BlockedAddressError;

/// The name has no address.
#[derive(Debug, thiserror::Error)]
#[error("the name has no address")]
pub(super) struct NameNotFoundError(#[source] Option<io::Error>);

/// Looks up the addresses of a name.
pub(super) trait NameLookup: Send + Sync {
    /// All addresses of `name`.
    ///
    /// # Errors
    /// When there is no answer, or the name does not exist.
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The host's own resolver.
pub(super) struct SystemLookup;

impl NameLookup for SystemLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
    }
}

/// Resolves names to those of their addresses that are allowed.
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
