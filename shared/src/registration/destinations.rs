//! Lists the destinations of registered platforms.
//!
//! # Guarantees
//!
//! - Every registration with a `url` has its destination, even in a process that cannot open its
//!   secret. There, deliveries stay queued, since the receiver could not verify them
//!   (`worker_without_key_keeps_deliveries_and_reports_it`).

use secrecy::SecretString;

use super::record::StoredSecret;
use super::seal::Sealer;
use super::snapshot::Snapshot;
use crate::outbound::config::{DestinationDefaults, destination_url, signing_key};
use crate::outbound::{Destination, PreviousSecret};

impl Snapshot {
    /// Returns the destinations of registered platforms. Platforms that are being removed are
    /// included, since their queued events are still processed.
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
            // A previous secret that this process cannot open adds no signature. Only the newest
            // secret is required.
            let previous_secrets = record.secrets.iter().skip(1).filter_map(open).collect();
            match defaults.registered(name, url, secret) {
                Ok(destination) => {
                    found.push(Destination { secret_unreadable, previous_secrets, ..destination })
                }
                Err(error) => {
                    tracing::error!(
                        platform = %name,
                        %error,
                        "invalid destination of a registered platform; not forwarding its events"
                    )
                }
            }
        }
        found
    }
}
