//! Queues of destinations, and the URLs that they belong to.
//!
//! # Guarantees
//!
//! - A queue is bound to the URL of its first destination and keeps it, so that no delivery reaches
//!   another receiver (`a_queue_keeps_its_url_when_the_list_changes`).
//! - Only an operator can give a queue another URL, by [`Queue::hand_over_queue`].
//!
//! # Design
//!
//! Keys are named after queues, and a queue after the destination that had it first. A list of URLs
//! that changes moves no entry: it only changes which queue belongs to which destination. Processes
//! with different lists therefore misdirect nothing, however long they run beside each other.

use std::collections::{BTreeMap, HashMap};

use redis::from_redis_value;

use super::codec::array;
use super::keys::DESTINATION_URLS;
use super::{Fault, Queue};
use crate::outbound::{Destination, DestinationName, UrlFingerprint};

/// URL that a queue belongs to, as far as Redis knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundUrl {
    /// Digest of the URL.
    pub fingerprint: String,
    /// Host of the URL, for showing.
    pub host: String,
}

impl BoundUrl {
    fn of(destination: &Destination) -> Self {
        Self {
            fingerprint: UrlFingerprint::of(&destination.url).to_string(),
            host: destination.url.host_str().unwrap_or_default().to_owned(),
        }
    }

    fn read(stored: &str) -> Self {
        let (fingerprint, host) = stored.split_once(' ').unwrap_or((stored, ""));
        Self { fingerprint: fingerprint.to_owned(), host: host.to_owned() }
    }

    fn stored(&self) -> String {
        format!("{} {}", self.fingerprint, self.host)
    }
}

/// Queues of all destinations at one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueBindings {
    /// Queue that each destination's new deliveries go to, in the order of the destinations.
    pub homes: Vec<DestinationName>,
    /// Other queues that have the URL of a destination, by the position of that destination.
    pub others: Vec<(usize, DestinationName)>,
    /// Every queue that has a URL.
    pub urls: BTreeMap<DestinationName, BoundUrl>,
}

impl QueueBindings {
    fn new(
        destinations: &[&Destination],
        homes: Vec<DestinationName>,
        urls: BTreeMap<DestinationName, BoundUrl>,
    ) -> Self {
        let mut first = HashMap::new();
        for (position, destination) in destinations.iter().enumerate() {
            let fingerprint = UrlFingerprint::of(&destination.url).to_string();
            first.entry(fingerprint).or_insert(position);
        }
        let others = urls.iter().filter(|(queue, _)| !homes.contains(queue));
        let others =
            others.filter_map(|(queue, url)| Some((*first.get(&url.fingerprint)?, queue.clone()))).collect();
        Self { homes, others, urls }
    }

    /// True if `queue` belongs to one of the destinations.
    #[must_use]
    pub fn serves(&self, queue: &DestinationName) -> bool {
        self.homes.contains(queue) || self.others.iter().any(|(_, other)| other == queue)
    }
}

impl Queue {
    /// Queues of `destinations`, which are all that the caller knows; new URLs get a queue.
    ///
    /// # Errors
    /// If Redis did not answer. Calling again is safe.
    pub async fn bind_queues(&self, destinations: &[&Destination]) -> Result<QueueBindings, Fault> {
        let script = &self.scripts.bind_urls;
        let mut call = script.call(&[DESTINATION_URLS], destinations.len() * 160);
        for destination in destinations {
            let url = BoundUrl::of(destination);
            call.arg(destination.name.as_str()).arg(url.fingerprint).arg(url.host);
        }
        let [homes, urls] = array(script.run(&self.connection, &call).await?)?;
        let unreadable = |error: redis::ParsingError| Fault::Unknown(error.into());
        let homes: Vec<String> = from_redis_value(homes).map_err(unreadable)?;
        let urls: HashMap<String, String> = from_redis_value(urls).map_err(unreadable)?;
        let name = |text: &str| DestinationName::new(text).ok();
        let homes: Option<Vec<_>> = homes.iter().map(|text| name(text)).collect();
        let homes = homes.filter(|homes| homes.len() == destinations.len());
        let urls = urls.iter().filter_map(|(queue, url)| Some((name(queue)?, BoundUrl::read(url))));
        let homes = homes.ok_or_else(|| Fault::nonsense("a queue for each destination expected"))?;
        Ok(QueueBindings::new(destinations, homes, urls.collect()))
    }

    /// Gives `queue` to `destination`, if its URL is still `before`. False: it has another by now.
    ///
    /// The queue's 410, circuit and busy state end. It is paused if the destination is.
    ///
    /// # Errors
    /// If Redis did not answer. Calling again is safe.
    pub async fn hand_over_queue(
        &self,
        queue: &DestinationName,
        before: Option<&BoundUrl>,
        destination: &Destination,
        home: &DestinationName,
    ) -> Result<bool, Fault> {
        let paused = self.destination_state(&self.layout.destination(home)).await?.paused;
        self.forget_receiver(&self.layout.destination(queue), paused).await?;
        let script = &self.scripts.hand_over_queue;
        let mut call = script.call(&[DESTINATION_URLS], 256);
        call.arg(queue.as_str()).arg(before.map(BoundUrl::stored).unwrap_or_default());
        call.arg(BoundUrl::of(destination).stored());
        Ok(self.number(script.run(&self.connection, &call).await?)? == 1)
    }
}
