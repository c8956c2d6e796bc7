//! Circuit breaker of a destination. It is pure: the caller passes the time.
//!
//! # Guarantees
//! - Consecutive faults of the destination open the circuit
//!   (`circuit_opens_only_after_consecutive_faults`).
//! - While it is open, one probe at a time is sent, each after a longer pause
//!   (`circuit_probes_one_at_a_time_after_longer_pauses`).
//! - The first success closes it (`circuit_closes_after_the_first_success`).
//! - Only deliveries sent while it is closed spend an attempt, so an outage of a destination costs
//!   its queue nothing (`slow_failing_and_dead_destinations_delay_no_other`).
//!
//! # Design
//! Five missing answers or twenty 5xx open the circuit. A destination that answers is reachable,
//! and may fail some deliveries only.

use std::time::{Duration, Instant};

/// Weight of consecutive faults that opens the circuit: five [`DestinationFault::NoAnswer`]. Five
/// is one more than the default attempts of a delivery. So a single delivery to a dead host ends
/// after its attempts, as documented.
const THRESHOLD: u32 = 20;
/// Pause before the first probe. Each failed probe doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two probes.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Fault of the destination, as opposed to a fault of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DestinationFault {
    /// No connection, or no answer in time.
    NoAnswer,
    /// Status 5xx.
    Failing,
}

impl DestinationFault {
    const fn weight(self) -> u32 {
        match self {
            Self::NoAnswer => 4,
            Self::Failing => 1,
        }
    }
}

/// State of one destination, as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Circuit {
    /// Weight of the consecutive faults.
    faults: u32,
    /// `None` if the circuit is closed.
    open: Option<OpenCircuit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenCircuit {
    probes: u32,
    next: Instant,
    probing: bool,
}

/// Deliveries that may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CircuitPermit {
    /// All deliveries.
    Unlimited,
    /// One delivery, as a probe.
    Probe,
    /// No delivery before this instant. `None`: not before the running probe has ended.
    Blocked(Option<Instant>),
}

impl Circuit {
    /// Creates a closed circuit.
    pub(crate) const fn new() -> Self {
        Self { faults: 0, open: None }
    }

    /// Returns which deliveries may be sent at `now`.
    pub(crate) fn permit(&self, now: Instant) -> CircuitPermit {
        match self.open {
            None => CircuitPermit::Unlimited,
            Some(OpenCircuit { probing: true, .. }) => CircuitPermit::Blocked(None),
            Some(OpenCircuit { next, .. }) if next > now => CircuitPermit::Blocked(Some(next)),
            Some(_) => CircuitPermit::Probe,
        }
    }

    /// Starts the probe that [`CircuitPermit::Probe`] allows.
    pub(crate) fn begin_probe(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = true;
        }
    }

    /// Ends a probe that was not sent.
    pub(crate) fn forget_probe(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = false;
        }
    }

    /// Records an answer of the destination.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::new();
    }

    /// Records a fault of the destination at `now`, in a probe or another delivery.
    pub(crate) fn failed(&mut self, now: Instant, fault: DestinationFault, probe: bool) {
        self.faults = self.faults.saturating_add(fault.weight());
        match &mut self.open {
            None if self.faults >= THRESHOLD => {
                self.open =
                    Some(OpenCircuit { probes: 0, next: now + FIRST_PAUSE, probing: false });
            }
            Some(open) if probe => {
                open.probes = open.probes.saturating_add(1);
                open.probing = false;
                open.next = now + pause(open.probes);
            }
            // Too few faults, or a delivery that was sent before the circuit opened.
            None | Some(_) => {}
        }
    }

    /// Returns true if the circuit is open.
    pub(crate) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Returns its name in the status route.
    pub(crate) const fn name(&self) -> &'static str {
        match self.open {
            None => "closed",
            Some(OpenCircuit { probing: true, .. }) => "half-open",
            Some(_) => "open",
        }
    }
}

fn pause(probes: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << probes.min(10)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(now: Instant) -> Circuit {
        let mut circuit = Circuit::new();
        for _ in 0..4 {
            circuit.failed(now, DestinationFault::NoAnswer, false);
            assert_eq!(circuit.permit(now), CircuitPermit::Unlimited);
        }
        circuit.failed(now, DestinationFault::NoAnswer, false);
        assert!(circuit.is_open());
        circuit
    }

    #[test]
    fn circuit_opens_only_after_consecutive_faults() {
        let now = Instant::now();
        let mut circuit = Circuit::new();
        for _ in 0..100 {
            (0..4).for_each(|_| circuit.failed(now, DestinationFault::NoAnswer, false));
            assert!(!circuit.is_open());
            circuit.succeeded();
        }
        opened(now);
    }

    #[test]
    fn circuit_probes_one_at_a_time_after_longer_pauses() {
        let mut now = Instant::now();
        let mut circuit = opened(now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            let CircuitPermit::Blocked(Some(next)) = circuit.permit(now) else { unreachable!() };
            pauses.push((next - now).as_secs());
            now = next;
            assert_eq!(circuit.permit(now), CircuitPermit::Probe);
            circuit.begin_probe();
            assert_eq!(
                (circuit.permit(now), circuit.name()),
                (CircuitPermit::Blocked(None), "half-open")
            );
            circuit.failed(now, DestinationFault::NoAnswer, true);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn circuit_tolerates_more_5xx_than_missing_answers() {
        let now = Instant::now();
        let mut circuit = Circuit::new();
        for _ in 0..19 {
            circuit.failed(now, DestinationFault::Failing, false);
            assert!(!circuit.is_open());
        }
        circuit.failed(now, DestinationFault::Failing, false);
        assert!(circuit.is_open());
    }

    #[test]
    fn circuit_closes_after_the_first_success() {
        let now = Instant::now();
        let mut circuit = opened(now);
        circuit.begin_probe();
        circuit.succeeded();
        assert_eq!((circuit.permit(now), circuit.name()), (CircuitPermit::Unlimited, "closed"));
    }

    #[test]
    fn circuit_ignores_faults_of_earlier_deliveries() {
        let now = Instant::now();
        let mut circuit = opened(now);
        let permit = circuit.permit(now);
        circuit.failed(now, DestinationFault::NoAnswer, false);
        assert_eq!(circuit.permit(now), permit);
        circuit.begin_probe();
        circuit.failed(now, DestinationFault::NoAnswer, false);
        assert_eq!(circuit.permit(now), CircuitPermit::Blocked(None));
        circuit.forget_probe();
        assert_eq!(circuit.permit(now + FIRST_PAUSE), CircuitPermit::Probe);
    }
}
