//! Where registered platforms have their processed events sent.
//!
//! Guarantee: every registration with a `url` has its destination, also in a process that cannot open its secret: there
//! deliveries are kept and nothing is sent, since nobody could verify it.

use secrecy::SecretString;

use super::record::StoredSecret;
use super::seal::Sealer;
use super::snapshot::Snapshot;
use crate::outbound::config::{DestinationDefaults, destination_url, signing_key};
use crate::outbound::{Destination, PreviousSecret};

impl Snapshot {
    /// The destinations of registered platforms, those included that are being removed: what they have queued is still
    /// processed.
    #[must_use]
    pub fn destinations(
        &self,
        defaults: &DestinationDefaults,
        sealer: &Sealer,
    ) -> Vec<Destination> {
        let mut found = Vec::new();
        for (name, record) in &self.records {
            let Some(url) = record.url.as_deref().and_then(|url| destination_url(url).ok()) else {
                continue;
            };
            let open = |stored: &StoredSecret| {
                let opened = sealer.open(name, stored).ok()?;
                let unusable = |_| SecretString::from(opened.secret());
                let secret = signing_key(&opened.text()).unwrap_or_else(unusable);
                Some(PreviousSecret { secret, expires_at: stored.expires_at_ms })
            };
            let newest = record.secrets.first().and_then(open);
            let secret_unreadable = newest.is_none();
            let secret = newest.map_or_else(SecretString::default, |one| one.secret);
            // One that this process cannot open adds no signature; the newest is what matters.
            let previous_secrets = record.secrets.iter().skip(1).filter_map(open).collect();
            match defaults.registered(name, url, secret) {
                Ok(destination) => {
                    found.push(Destination { secret_unreadable, previous_secrets, ..destination })
                }
                Err(error) => {
                    tracing::error!(platform = %name, %error, "its processed events cannot be forwarded")
                }
            }
        }
        found
    }
}
