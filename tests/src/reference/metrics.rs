//! Sections of `docs/reference/metrics.md`.

use shared::metrics::table::{METRICS, Metric, MetricGroup};
use shared::metrics::{Action, DeliveryOutcome, EventOutcome, RequestOutcome};

use super::markdown::{code, codes, list};
use super::sections::Section;

pub(super) const SECTIONS: &[Section] = &[
    ("metrics-ingress", || group(MetricGroup::Ingress)),
    ("request-outcomes", || {
        list(RequestOutcome::ALL.iter().map(|one| value(one.as_str(), one.description())))
    }),
    ("metrics-worker", || group(MetricGroup::Worker)),
    ("event-outcomes", || {
        list(EventOutcome::ALL.iter().map(|one| value(one.as_str(), one.description())))
    }),
    ("metrics-queues", || group(MetricGroup::Queues)),
    ("metrics-dependencies", || group(MetricGroup::Dependencies)),
    ("metrics-destinations", || group(MetricGroup::Destinations)),
    ("delivery-outcomes", || {
        list(DeliveryOutcome::ALL.iter().map(|one| value(one.as_str(), one.description())))
    }),
    ("metrics-retention", || group(MetricGroup::Retention)),
];

/// Meanings of the values of `action`.
pub(super) fn actions() -> String {
    list(Action::ALL.iter().map(|one| value(one.as_str(), one.description())))
}

/// Entry of a list of values.
pub(super) fn value(name: &str, description: &str) -> String {
    format!("{}: {description}", code(name))
}

fn group(group: MetricGroup) -> String {
    list(METRICS.iter().filter(|one| one.group == group).map(entry))
}

fn entry(metric: &Metric) -> String {
    let mut facts = metric.kind.as_str().to_owned();
    if !metric.labels.is_empty() {
        facts.push_str(&format!("; {}", codes(metric.labels, ", ")));
    }
    format!("{} ({facts}): {}.", code(metric.name), metric.help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_is_listed_with_kind_and_labels() {
        let text = group(MetricGroup::Worker);
        for line in [
            "- `webhook_events_total` (counter; `platform`, `outcome`): Executions of events by \
             outcome.\n",
            "- `webhook_database_up` (gauge): 1 while the database commits.\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
