//! Queues of destinations, and the receivers that they belong to.
//!
//! # Guarantees
//!
//! - A queue is bound to the receiver of its first destination and keeps it, so no delivery reaches
//!   another receiver (`queue_keeps_its_url_when_the_list_changes`).
//! - Pause, 410 and busy state belong to the receiver, wherever its URL stands in a list
//!   (`state_stays_with_its_url_when_the_list_changes`).
//! - No delivery is signed for another destination: a URL alone identifies only the destinations of
//!   a list, which share their terms (`named_destination_serves_only_its_own_queues`).
//! - After the first start, a queue that has no URL but holds entries is bound to no destination
//!   (`unbound_queue_with_deliveries_stays_parked`).
//! - Only an operator can give a queue another receiver, by [`Queue::hand_over_queue`]
//!   (`operator_hands_over_parked_deliveries`).
//!
//! # Design
//!
//! Keys are named after queues, and a queue after its first destination. A changed list of URLs
//! moves no entry; it only changes which queue belongs to which destination. Processes with
//! different lists can therefore run side by side without misdirecting a delivery.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use redis::from_redis_value;

use super::codec::array;
use super::keys::DESTINATION_URLS;
use super::{CallError, Queue};
use crate::outbound::{Destination, DestinationName, UrlFingerprint};

/// Receiver that a queue belongs to, as far as Redis knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundUrl {
    /// Digest of the URL.
    pub fingerprint: String,
    /// Host of the URL, for display.
    pub host: String,
    /// Scope of the destination, see [`Destination::scope`].
    pub scope: String,
    /// Stored text of this binding.
    stored: String,
}

impl BoundUrl {
    fn read(stored: &str) -> Self {
        let mut parts = stored.split(' ').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Self { fingerprint: next(), host: next(), scope: next(), stored: stored.to_owned() }
    }

    fn belongs_to(&self, destination: &Destination) -> bool {
        self.fingerprint == UrlFingerprint::of(&destination.url).to_string()
            && self.scope == destination.scope()
    }
}

fn host(destination: &Destination) -> &str {
    destination.url.host_str().unwrap_or_default()
}

/// Kinds of destinations that a process knows completely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompleteKinds {
    /// No kind.
    Unknown,
    /// Destinations from the configuration.
    Configured,
    /// All, including those of registered platforms.
    All,
}

impl CompleteKinds {
    const fn kinds(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Configured => "c",
            Self::All => "cr",
        }
    }
}

/// Queues of all destinations at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueBindings {
    /// Queue of each destination's new deliveries, in the order of the destinations.
    pub homes: Vec<DestinationName>,
    /// Queue whose state and rate limit apply to each destination, in the same order. Destinations
    /// of one receiver share them.
    pub states: Vec<DestinationName>,
    /// Other queues of a destination's receiver, with the position of that destination.
    pub others: Vec<(usize, DestinationName)>,
    /// Every queue that has a receiver.
    pub urls: BTreeMap<DestinationName, BoundUrl>,
}

impl QueueBindings {
    fn new(
        destinations: &[&Destination],
        homes: Vec<DestinationName>,
        states: Vec<DestinationName>,
        urls: BTreeMap<DestinationName, BoundUrl>,
    ) -> Self {
        let others = urls.iter().filter(|(queue, _)| !homes.contains(queue));
        let others = others.filter_map(|(queue, url)| {
            let position =
                destinations.iter().position(|destination| url.belongs_to(destination))?;
            Some((position, queue.clone()))
        });
        Self { others: others.collect(), homes, states, urls }
    }

    /// Queues to which the state of the queue `state` applies.
    pub fn queues_of<'b>(
        &'b self,
        state: &'b DestinationName,
    ) -> impl Iterator<Item = &'b DestinationName> {
        let homes = self.homes.iter().enumerate();
        let others = self.others.iter().map(|(position, queue)| (*position, queue));
        let all = homes.chain(others);
        all.filter(move |(position, _)| self.states.get(*position) == Some(state))
            .map(|(_, queue)| queue)
    }

    /// Returns true if `queue` belongs to one of the destinations.
    #[must_use]
    pub fn serves(&self, queue: &DestinationName) -> bool {
        self.homes.contains(queue) || self.others.iter().any(|(_, other)| other == queue)
    }
}

impl Queue {
    /// Binds `destinations` to queues and returns the bindings. New receivers get a queue.
    /// `complete`: kinds of which `destinations` holds all.
    ///
    /// # Errors
    /// If Redis does not answer. Calling again is safe.
    pub async fn bind_queues(
        &self,
        destinations: &[&Destination],
        complete: CompleteKinds,
    ) -> Result<QueueBindings, CallError> {
        if let Some(bindings) = self.try_bind(destinations, complete, None).await? {
            return Ok(bindings);
        }
        let occupied = self.occupied(destinations).await?;
        let bindings = self.try_bind(destinations, complete, Some(&occupied)).await?;
        bindings.ok_or_else(|| CallError::unexpected_reply("a queue for each destination expected"))
    }

    /// Assigns queues. Returns `None` if a new queue is needed and `occupied` is not known.
    async fn try_bind(
        &self,
        destinations: &[&Destination],
        complete: CompleteKinds,
        occupied: Option<&[DestinationName]>,
    ) -> Result<Option<QueueBindings>, CallError> {
        let script = &self.scripts.bind_urls;
        let mut call = script.call(&[DESTINATION_URLS], destinations.len() * 192);
        call.arg(complete.kinds());
        match occupied {
            None => call.arg("?"),
            Some(names) => call.arg(names.len()),
        };
        for name in occupied.into_iter().flatten() {
            call.arg(name.as_str());
        }
        for one in destinations {
            let kind = if one.name.is_for_registered_platform() { "r" } else { "c" };
            call.arg(one.name.as_str()).arg(one.scope()).arg(kind);
            call.arg(UrlFingerprint::of(&one.url).to_string()).arg(host(one));
        }
        let [homes, states, urls] = array(script.run(&self.connection, &call).await?)?;
        let unreadable = |error: redis::ParsingError| CallError::Unknown(error.into());
        let names = |value| -> Result<Vec<DestinationName>, CallError> {
            let texts: Vec<String> = from_redis_value(value).map_err(unreadable)?;
            let names: Result<Vec<_>, _> =
                texts.iter().map(|text| DestinationName::new(text)).collect();
            names.map_err(|_| CallError::unexpected_reply("names of queues expected"))
        };
        let (homes, states) = (names(homes)?, names(states)?);
        if homes.len() != destinations.len() || states.len() != destinations.len() {
            return Ok(None);
        }
        let urls: HashMap<String, String> = from_redis_value(urls).map_err(unreadable)?;
        // Fields that are not queues are no valid queue names.
        let urls = urls.iter().filter_map(|(queue, url)| {
            Some((DestinationName::new(queue).ok()?, BoundUrl::read(url)))
        });
        Ok(Some(QueueBindings::new(destinations, homes, states, urls.collect())))
    }

    /// Queues that hold entries, or whose state stops deliveries.
    async fn occupied(
        &self,
        destinations: &[&Destination],
    ) -> Result<Vec<DestinationName>, CallError> {
        let mut names: BTreeSet<_> = self.destination_queues().await?.into_iter().collect();
        // An import may have created a queue that no delivery was ever enqueued to.
        names.extend(destinations.iter().map(|one| one.name.clone()));
        let mut occupied = Vec::new();
        for name in names {
            let keys = self.layout.destination(&name);
            let holds = match self.depth(&keys.queue).await {
                Ok(depth) => depth.length > 0 || depth.dead_letters > 0,
                Err(fault) if fault.is_wrong_type() => true,
                Err(fault) => return Err(fault),
            };
            let state = self.destination_state(&keys).await?;
            if holds || state.gone || state.paused == Some(true) {
                occupied.push(name);
            }
        }
        Ok(occupied)
    }

    /// Binds `queue` to `destination` if its receiver is still `before`. The destination's own
    /// state then applies to the queue. Returns false, and changes nothing, if the receiver has
    /// changed.
    ///
    /// # Errors
    /// If Redis does not answer. Calling again is safe.
    pub async fn hand_over_queue(
        &self,
        queue: &DestinationName,
        before: Option<&BoundUrl>,
        destination: &Destination,
    ) -> Result<bool, CallError> {
        let script = &self.scripts.hand_over_queue;
        let mut call = script.call(&[DESTINATION_URLS], 256);
        call.arg(queue.as_str()).arg(before.map_or("", |url| url.stored.as_str()));
        let print = UrlFingerprint::of(&destination.url);
        call.arg(format!("{print} {} {}", host(destination), destination.scope()));
        Ok(self.number(script.run(&self.connection, &call).await?)? == 1)
    }
}
