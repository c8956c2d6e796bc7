//! Queues of destinations, and the receivers that they belong to.
//!
//! # Guarantees
//!
//! - A queue is bound to the receiver of its first destination and keeps it, so that no delivery
//!   reaches another one (`a_queue_keeps_its_url_when_the_list_changes`).
//! - Pause, 410 and busy state belong to the receiver, wherever its URL stands in a list
//!   (`state_stays_with_its_url_when_the_list_changes`).
//! - No delivery is signed for another destination: a URL alone identifies only the destinations of
//!   a list, which share their terms (`named_destination_serves_only_its_own_queues`).
//! - A queue without a URL that holds something is given to nobody after the first start
//!   (`unbound_queue_with_deliveries_stays_parked`).
//! - Only an operator can give a queue another receiver, by [`Queue::hand_over_queue`].
//!
//! # Design
//!
//! Keys are named after queues, and a queue after the destination that had it first. A list of URLs
//! that changes moves no entry: it only changes which queue belongs to which destination. Processes
//! with different lists therefore misdirect nothing, however long they run beside each other.

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
    /// Host of the URL, for showing.
    pub host: String,
    /// Scope of the destination, see [`Destination::scope`].
    pub scope: String,
    /// The whole of it, as it is stored.
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
    /// None for certain.
    Unknown,
    /// Those that are configured.
    Configured,
    /// All, those of registered platforms too.
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
    /// Queue that each destination's new deliveries go to, in the order of the destinations.
    pub homes: Vec<DestinationName>,
    /// Queue whose state and limit hold for each destination, in the same order. Destinations of one
    /// receiver share them.
    pub states: Vec<DestinationName>,
    /// Other queues that have the receiver of a destination, by the position of that destination.
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

    /// Queues for which the state of the queue `state` holds.
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

    /// True if `queue` belongs to one of the destinations.
    #[must_use]
    pub fn serves(&self, queue: &DestinationName) -> bool {
        self.homes.contains(queue) || self.others.iter().any(|(_, other)| other == queue)
    }
}

impl Queue {
    /// Queues of `destinations`; new receivers get a queue. `complete`: kinds of which
    /// `destinations` holds all.
    ///
    /// # Errors
    /// If Redis did not answer. Calling again is safe.
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

    /// Assigns queues; `None`: new ones are needed, and `occupied` is not known.
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
        // Other fields than queues have no name of a queue.
        let urls = urls.iter().filter_map(|(queue, url)| {
            Some((DestinationName::new(queue).ok()?, BoundUrl::read(url)))
        });
        Ok(Some(QueueBindings::new(destinations, homes, states, urls.collect())))
    }

    /// Queues that hold something, or have a state that stops deliveries.
    async fn occupied(
        &self,
        destinations: &[&Destination],
    ) -> Result<Vec<DestinationName>, CallError> {
        let mut names: BTreeSet<_> = self.destination_queues().await?.into_iter().collect();
        // An import may have made one that nothing was ever forwarded to.
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

    /// Gives `queue` to `destination`, if its receiver is still `before`. False: it has another by
    /// now, and nothing was changed. The destination's own state holds for the queue from then on.
    ///
    /// # Errors
    /// If Redis did not answer. Calling again is safe.
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
