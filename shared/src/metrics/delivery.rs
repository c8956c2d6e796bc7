//! The series that every destination has.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{CIRCUIT_OPEN, DELIVERIES, DELIVERY_DURATION, PARKED_DELIVERIES, count, switch};
use crate::outbound::DestinationName;

macro_rules! outcomes {
    ($($(#[$doc:meta])* $variant:ident $text:literal),+ $(,)?) => {
        /// How an attempt at a delivery ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DeliveryOutcome { $($(#[$doc])* $variant),+ }

        impl DeliveryOutcome {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

outcomes! {
    /// The destination confirmed it.
    Delivered "delivered",
    /// It will be tried again.
    Retried "retried",
    /// The destination is busy: it will be tried again, and no attempt is spent.
    Busy "busy",
    /// It became a dead letter.
    DeadLettered "dead_lettered",
    /// Too many were waiting: it became a dead letter without an attempt.
    Overflow "overflow",
    /// Too many were waiting and too many were dead: it is gone.
    Lost "lost",
}

const OUTCOMES: usize = DeliveryOutcome::ALL.len();

/// What a worker counts for one destination.
#[derive(Clone)]
pub struct DeliveryMetrics {
    deliveries: [Counter; OUTCOMES],
    duration: Histogram,
    circuit_open: Gauge,
}

impl DeliveryMetrics {
    /// Registers all series of `destination`.
    #[must_use]
    pub fn new(destination: &DestinationName) -> Self {
        let name = destination.as_str().to_owned();
        let outcome = |i: usize| DeliveryOutcome::ALL.get(i).map_or("", |one| one.as_str());
        let circuit_open = gauge!(CIRCUIT_OPEN, "destination" => name.clone());
        Self {
            deliveries: std::array::from_fn(
                |i| counter!(DELIVERIES, "destination" => name.clone(), "outcome" => outcome(i)),
            ),
            duration: histogram!(DELIVERY_DURATION, "destination" => name),
            circuit_open,
        }
    }

    /// Counts deliveries by how an attempt ended.
    pub fn delivery(&self, outcome: DeliveryOutcome, number: u64) {
        self.deliveries[outcome as usize].increment(number);
    }

    /// Request to answer.
    pub fn duration(&self, taken: Duration) {
        self.duration.record(taken);
    }

    /// Whether nothing but probes is sent.
    pub fn circuit_open(&self, open: bool) {
        self.circuit_open.set(switch(open));
    }
}

/// Gauge of the deliveries that wait for URLs that are not configured.
pub struct ParkedMetrics(Gauge);

impl Default for ParkedMetrics {
    /// Registers the series at 0.
    fn default() -> Self {
        let gauge = gauge!(PARKED_DELIVERIES);
        gauge.set(0);
        Self(gauge)
    }
}

impl ParkedMetrics {
    /// Sets how many wait, in all queues.
    pub fn parked(&self, deliveries: u64) {
        self.0.set(count(deliveries));
    }
}
