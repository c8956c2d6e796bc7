//! Metrics of a destination.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use super::{
    CIRCUIT_OPEN, DELIVERIES, DELIVERY_DURATION, PARKED_DELIVERIES, bool_value, gauge_value,
};
use crate::outbound::DestinationName;

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident $text:literal),+ $(,)?) => {
        /// Outcome of a delivery attempt, as a label value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DeliveryOutcome { $($(#[doc = $doc])+ $variant),+ }

        impl DeliveryOutcome {
            /// All outcomes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The label's value.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Meaning of the value: the sentences of its doc comment.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii_start()),+ }
            }
        }
    };
}

outcomes! {
    /// The destination confirmed the delivery.
    Delivered "delivered",
    /// The delivery will be retried.
    Retried "retried",
    /// The destination is busy. The delivery will be retried, and no attempt is spent.
    Busy "busy",
    /// The delivery became a dead letter.
    DeadLettered "dead_lettered",
    /// The destination's queue is full. The delivery became a dead letter without an attempt.
    Overflow "overflow",
    /// The queue and the dead letters are full. The delivery is lost.
    Lost "lost",
}

const OUTCOMES: usize = DeliveryOutcome::ALL.len();

/// A worker's metrics of one destination.
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

    /// Counts `number` deliveries with this outcome.
    pub fn delivery(&self, outcome: DeliveryOutcome, number: u64) {
        self.deliveries[outcome as usize].increment(number);
    }

    /// Records the time from request to response.
    pub fn duration(&self, taken: Duration) {
        self.duration.record(taken);
    }

    /// Sets whether the circuit is open: only probes are sent.
    pub fn circuit_open(&self, open: bool) {
        self.circuit_open.set(bool_value(open));
    }
}

/// Gauge of deliveries that wait for URLs that are not configured.
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
    /// Sets the number of waiting deliveries in all queues.
    pub fn parked(&self, deliveries: u64) {
        self.0.set(gauge_value(deliveries));
    }
}
