//! Whether a destination is worth trying.
//!
//! Guarantee: pure; time is given. After enough faults of the destination in a row nothing is sent to it but one probe at
//! a time, each after a longer pause than the last; the first success opens the way again. Only what is sent while the
//! circuit is closed spends an attempt of a delivery, so an outage of a destination costs its queue nothing.
//!
//! Enough are five without an answer, or twenty 5xx: a destination that answers is there, and may be failing some
//! deliveries only.

use std::time::{Duration, Instant};

/// The weight of faults in a row that opens the circuit: five [`DestinationFault::NoAnswer`]. That is one more than a delivery's
/// attempts by default, so that a lone delivery to a dead host ends as documented, after its attempts.
const THRESHOLD: u32 = 20;
/// The pause before the first probe; it doubles with each that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A fault of the destination, not of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DestinationFault {
    /// Nobody there, or no answer in time.
    NoAnswer,
    /// A 5xx.
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

/// The state of one destination, as this process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Circuit {
    /// What the faults in a row weigh.
    faults: u32,
    /// `None`: closed.
    open: Option<OpenCircuit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OpenCircuit {
    probes: u32,
    next: Instant,
    probing: bool,
}

/// What may be sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CircuitPermit {
    /// Anything.
    Unlimited,
    /// One delivery, to see.
    Probe,
    /// Nothing before then; `None`: before the probe that is under way has ended.
    Blocked(Option<Instant>),
}

impl Circuit {
    /// A destination nothing is known of.
    pub(crate) const fn new() -> Self {
        Self { faults: 0, open: None }
    }

    /// What may be sent at `now`.
    pub(crate) fn permit(&self, now: Instant) -> CircuitPermit {
        match self.open {
            None => CircuitPermit::Unlimited,
            Some(OpenCircuit { probing: true, .. }) => CircuitPermit::Blocked(None),
            Some(OpenCircuit { next, .. }) if next > now => CircuitPermit::Blocked(Some(next)),
            Some(_) => CircuitPermit::Probe,
        }
    }

    /// Takes the one probe that [`CircuitPermit::Probe`] allows.
    pub(crate) fn begin_probe(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = true;
        }
    }

    /// The probe came to nothing: it was not sent.
    pub(crate) fn forget_probe(&mut self) {
        if let Some(open) = &mut self.open {
            open.probing = false;
        }
    }

    /// The destination answered.
    pub(crate) fn succeeded(&mut self) {
        *self = Self::new();
    }

    /// A fault of the destination at `now`, of the probe or of another delivery.
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
            // Too few, or sent before it opened.
            None | Some(_) => {}
        }
    }

    /// Whether it is open.
    pub(crate) const fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Its name in the status route.
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
