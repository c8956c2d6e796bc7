//! Where registered platforms have their processed events sent.
//!
//! Guarantee: every registration with a `url` has its destination, also in a process that cannot open its secret: there
//! deliveries are kept and nothing is sent, since nobody could verify it.

use secrecy::SecretString;

use super::build::Snapshot;
use super::record::Material;
use super::seal::Sealer;
use crate::outbound::Destination;
use crate::outbound::config::{Defaults, destination_url, signing_key};

impl Snapshot {
    /// The destinations of registered platforms, those included that are being removed: what they have queued is still
    /// processed.
    #[must_use]
    pub fn destinations(&self, defaults: &Defaults, sealer: &Sealer) -> Vec<Destination> {
        let mut found = Vec::new();
        for (name, record) in &self.records {
            let Some(url) = record.url.as_deref().and_then(|url| destination_url(url).ok()) else { continue };
            let opened = record.secrets.first().and_then(|stored| sealer.open(name, stored).ok());
            let sealed = opened.is_none();
            let key = |one: Material| signing_key(&one.text()).unwrap_or_else(|_| SecretString::from(one.secret()));
            let secret = opened.map_or_else(SecretString::default, key);
            match defaults.registered(name, url, secret) {
                Ok(destination) => found.push(Destination { sealed, ..destination }),
                Err(error) => tracing::error!(platform = %name, %error, "its processed events cannot be forwarded"),
            }
        }
        found
    }
}
