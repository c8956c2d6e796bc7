//! Describes destinations and their queues for the admin routes.

use serde::Serialize;
use shared::clock;
use shared::outbound::{Destination, DestinationName, PayloadFormat};
use shared::queue::{CallError, DestinationState, Queue, QueueBindings};
use utoipa::ToSchema;

use crate::error::Error;
use crate::pipeline::EnqueueError;

/// Destinations and parked queues.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Destinations)]
pub(crate) struct DestinationList {
    /// All destinations, by name.
    pub(super) destinations: Vec<DestinationStatus>,
    /// Queues whose URL is not configured any more. Their deliveries are kept and not sent.
    pub(super) parked: Vec<ParkedQueue>,
}

/// Status of a destination.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Destination)]
pub(crate) struct DestinationStatus {
    /// Name of the destination.
    #[schema(value_type = String)]
    name: DestinationName,
    /// Queue of new deliveries: `out:<name>`, unless its URL or its position changed.
    queue: String,
    /// Host of its URL. The rest of the URL may be a secret.
    host: String,
    /// `standard`, `slack` or `discord`.
    #[schema(value_type = String)]
    format: PayloadFormat,
    /// Event types that it subscribes to.
    events: Vec<String>,
    /// True: it is paused, and its deliveries are kept.
    paused: bool,
    /// True: it answered 410, and gets nothing until it is resumed.
    gone: bool,
    /// Time until which it is busy, RFC 3339; null: it is not busy.
    busy_until: Option<String>,
    /// Time of its first busy answer since the last success, RFC 3339; null: none.
    busy_since: Option<String>,
    /// `closed`, or `open` or `half-open` while deliveries fail and only probes are sent.
    circuit: String,
    /// Waiting deliveries, including retries.
    depth: u64,
    /// Waiting retries.
    retrying: u64,
    /// Dead letters of the destination.
    dead_letters: u64,
    /// Deliveries that the destination confirmed.
    delivered: u64,
    /// Deliveries that became dead letters.
    failed: u64,
    /// Error of the last failure.
    last_error: Option<String>,
    /// Time of the last failure, RFC 3339.
    last_error_at: Option<String>,
    /// Deliveries that were lost because queue and dead letters were full; null: none.
    overflow: Option<OverflowSummary>,
}

/// Lost deliveries.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Overflow)]
pub(crate) struct OverflowSummary {
    /// Number of deliveries.
    count: u64,
    /// Id of the first one.
    first: Option<String>,
    /// Id of the last one.
    last: Option<String>,
}

/// Queue whose URL is not configured any more.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ParkedQueue)]
pub(crate) struct ParkedQueue {
    /// Name of the queue in dlq-tool.
    queue: String,
    /// Host of its URL; null: unknown.
    host: Option<String>,
    /// Waiting deliveries, including retries.
    depth: u64,
    /// Waiting retries.
    retrying: u64,
    /// Dead letters of the queue.
    dead_letters: u64,
}

/// Returns the status of `destination`, at `position` of `bindings`, with the totals of all its
/// queues.
pub(super) async fn destination_status(
    queue: &Queue,
    destination: &Destination,
    bindings: &QueueBindings,
    position: usize,
) -> Result<DestinationStatus, Error> {
    let home = bindings.homes.get(position).unwrap_or(&destination.name);
    let receiver = bindings.states.get(position).unwrap_or(home);
    let others = bindings.others.iter().filter(|(at, _)| *at == position).map(|(_, name)| name);
    let loaded = async {
        let mut state = queue.destination_state(&queue.layout().destination(receiver)).await?;
        if receiver != home {
            let own = queue.destination_state(&queue.layout().destination(home)).await?;
            let DestinationState { overflow, overflow_first, overflow_last, .. } = own;
            state = DestinationState { overflow, overflow_first, overflow_last, ..state };
        }
        let mut sums = QueueTotals::default();
        for name in others.chain([home]) {
            sums.add(queue, name).await?;
        }
        Ok::<_, CallError>((state, sums))
    };
    let (state, sums) = loaded.await.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))?;
    let DestinationState { overflow, overflow_first, overflow_last, .. } = &state;
    Ok(DestinationStatus {
        name: destination.name.clone(),
        queue: home.queue().to_string(),
        host: destination.url.host_str().unwrap_or_default().to_owned(),
        format: destination.format,
        events: destination.subscription.patterns().into_iter().map(str::to_owned).collect(),
        paused: destination.secret_unreadable || state.paused.unwrap_or(destination.paused),
        gone: state.gone,
        busy_until: state.busy_until.filter(|until| *until > clock::now_ms()).map(clock::rfc3339),
        busy_since: state.busy_since.map(clock::rfc3339),
        circuit: state.circuit.clone().unwrap_or_else(|| "closed".to_owned()),
        depth: sums.depth,
        retrying: sums.retrying,
        dead_letters: sums.dead_letters,
        delivered: sums.delivered,
        failed: sums.failed,
        last_error: state.last_error.clone(),
        last_error_at: state.last_error_at.map(clock::rfc3339),
        overflow: (*overflow > 0).then(|| OverflowSummary {
            count: *overflow,
            first: overflow_first.clone(),
            last: overflow_last.clone(),
        }),
    })
}

#[derive(Default)]
struct QueueTotals {
    depth: u64,
    retrying: u64,
    dead_letters: u64,
    delivered: u64,
    failed: u64,
}

impl QueueTotals {
    async fn add(&mut self, queue: &Queue, name: &DestinationName) -> Result<(), CallError> {
        let keys = queue.layout().destination(name).queue;
        let (depth, counters) = (queue.depth(&keys).await?, queue.counters(&keys).await?);
        let counted = |name: &str| counters.get(name).copied().unwrap_or(0);
        self.depth += depth.backlog + depth.pending + depth.retrying;
        self.retrying += depth.retrying;
        self.dead_letters += depth.dead_letters;
        self.delivered += counted("processed");
        self.failed += counted("dead_lettered");
        Ok(())
    }
}

/// Returns the queues that hold deliveries and have no destination.
pub(super) async fn parked(
    queue: &Queue,
    bindings: &QueueBindings,
) -> Result<Vec<ParkedQueue>, Error> {
    let loaded = async {
        let mut parked = Vec::new();
        for name in queue.destination_queues().await? {
            if bindings.serves(&name) {
                continue;
            }
            let depth = match queue.depth(&queue.layout().destination(&name).queue).await {
                Err(fault) if fault.is_wrong_type() => continue,
                depth => depth?,
            };
            if depth.length > 0 || depth.dead_letters > 0 {
                parked.push(ParkedQueue {
                    queue: name.queue().to_string(),
                    host: bindings.urls.get(&name).map(|url| url.host.clone()),
                    depth: depth.backlog + depth.pending + depth.retrying,
                    retrying: depth.retrying,
                    dead_letters: depth.dead_letters,
                });
            }
        }
        Ok::<_, CallError>(parked)
    };
    loaded.await.map_err(|fault| Error::from(EnqueueError::NotRun(fault)))
}
