//! Reading, claiming and handing back of entries; consumer groups, consumers and their leases.
//!
//! # Guarantees
//!
//! - A claim never takes an entry whose holder extended its claim in time
//!   (`claim_takes_idle_entries_and_counts_the_delivery`).
//! - Extending a claim takes no entry back from a worker that has claimed it since
//!   (`extend_claims_leaves_entries_of_other_consumers`).
//! - Handed-back entries can be claimed at once, with an unchanged delivery count
//!   (`hand_back_allows_a_claim_at_once_and_keeps_the_count`).
//! - A consumer name has one holder (`lease_has_one_holder`).
//! - Only idle consumers without pending entries are deleted
//!   (`reap_deletes_only_idle_consumers_without_entries`).

use std::time::Duration;

use redis::{Cmd, Value, cmd};
use uuid::Uuid;

use super::codec::{array, entries, stream_id};
use super::connection::pages;
use super::keys::{GROUP, lease};
use super::script::optional;
use super::{CallError, PlatformKeys, Queue, StreamEntry, StreamReader};
use crate::event::StreamId;

/// Idle time given to entries that are handed back: longer than any claim requires.
pub const HAND_BACK_IDLE_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// State of a platform's stream and group after [`Queue::create_group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// The group was missing. It now begins at 0 and the retry set is gone, so its entries are
    /// delivered again as new ones.
    Created,
    /// The group existed.
    Existed,
    /// The key is not a stream. The caller raises an alert, sets the key aside and reads the
    /// others.
    WrongType,
}

/// Page of claimed entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedPage {
    /// Cursor of the next page; `0-0`: the end of the pending list was reached.
    pub cursor: StreamId,
    /// Entries that the caller now holds, with Redis's delivery count, which includes this
    /// delivery.
    pub entries: Vec<(StreamEntry, u64)>,
    /// Pending entries that were deleted and that Redis has removed from the list. Any such entry
    /// is worth an alert.
    pub deleted: Vec<StreamId>,
}

impl Queue {
    /// Reads new entries of `streams`, at most `count` of each, and waits up to `block` for the
    /// first. A zero `block` does not wait. Returns positions in `streams` with their entries.
    ///
    /// Not cancellation safe, see [`StreamReader`].
    ///
    /// # Errors
    /// [`CallError::is_no_group`] or [`CallError::is_wrong_type`] if one of the streams is missing
    /// or damaged. The caller then calls [`Self::create_group`] on each. On a single server nothing
    /// was read; on a cluster, this call or the one before it returned the entries of the other
    /// streams.
    pub async fn read_new(
        &self,
        reader: &mut StreamReader,
        streams: &[&PlatformKeys],
        consumer: &str,
        count: usize,
        block: Duration,
    ) -> Result<Vec<(usize, Vec<StreamEntry>)>, CallError> {
        let streams: Vec<_> =
            streams.iter().map(|keys| (keys.incoming.as_str(), ">".to_owned())).collect();
        reader.read(&read_group(consumer, count), &streams, block).await
    }

    /// Reads a page of entries already pending for `consumer`, after `after`, as a process does
    /// first after its start. An empty page is the end. Raises Redis's delivery counts.
    ///
    /// # Errors
    /// As [`Self::read_new`].
    pub async fn read_own_pending(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        after: StreamId,
        count: usize,
    ) -> Result<Vec<StreamEntry>, CallError> {
        let mut read = read_group(consumer, count);
        let after = after.to_string();
        read.arg("STREAMS").arg(&keys.incoming).arg(&after);
        let pages = pages(self.connection.run(&read).await?, &[(&keys.incoming, after)])?;
        Ok(pages.into_iter().flat_map(|(_, entries)| entries).collect())
    }

    /// Lists a page of ids pending for `consumer`, after `after`. Changes nothing. An empty page is
    /// the end.
    ///
    /// # Errors
    /// If Redis does not answer, or there is no group.
    pub async fn own_pending_ids(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        after: StreamId,
        count: usize,
    ) -> Result<Vec<StreamId>, CallError> {
        let mut pending = cmd("XPENDING");
        pending
            .arg(&keys.incoming)
            .arg(GROUP)
            .arg(format!("({after}"))
            .arg("+")
            .arg(count.max(1))
            .arg(consumer);
        let Value::Array(page) = self.connection.run(&pending).await? else {
            return Err(CallError::unexpected_reply("pending entries expected"));
        };
        page.into_iter()
            .map(|entry| match entry {
                Value::Array(facts) => facts
                    .first()
                    .map_or(Err(CallError::unexpected_reply("an id expected")), stream_id),
                _ => Err(CallError::unexpected_reply("a pending entry expected")),
            })
            .collect()
    }

    /// Resets the idle time of entries whose last delivery lies in the future, because Redis's
    /// clock was set back since. Without this they could not be claimed until the clock has caught
    /// up. Holders and delivery counts stay.
    ///
    /// # Errors
    /// If Redis does not answer, or there is no group.
    pub async fn reset_idle(&self, keys: &PlatformKeys) -> Result<(), CallError> {
        let mut after: Option<StreamId> = None;
        loop {
            let mut call = self.scripts.reset_idle.call(&[&keys.incoming], 64);
            call.arg(GROUP);
            optional(&mut call, after.map(|id| id.to_string()));
            call.arg(MAX_IDS_PER_CALL);
            match self.scripts.reset_idle.run(&self.connection, &call).await? {
                Value::BulkString(text) if text.is_empty() => return Ok(()),
                id => after = Some(stream_id(&id)?),
            }
        }
    }

    /// Claims entries that were idle for `min_idle`, scanning up to ten times `count` pending ones
    /// from `cursor` on. Keep the cursor between calls: a scan that always begins at `0-0` never
    /// reaches the end of a long list.
    ///
    /// The caller's own entries are claimed too if their claims were not extended. Skip those still
    /// in execution.
    ///
    /// # Errors
    /// If Redis does not answer. The caller may hold entries then, and gets them with a later
    /// claim.
    pub async fn claim(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        min_idle: Duration,
        cursor: StreamId,
        count: usize,
    ) -> Result<ClaimedPage, CallError> {
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(&keys.incoming).arg(GROUP).arg(consumer);
        claim.arg(u64::try_from(min_idle.as_millis()).unwrap_or(u64::MAX));
        claim.arg(cursor.to_string()).arg("COUNT").arg(count.max(1));
        let [next, claimed, deleted] = array(self.connection.run(&claim).await?)?;
        let claimed = entries(claimed)?;
        let ids: Vec<StreamId> = claimed.iter().map(|entry| entry.id).collect();
        let counts = self.delivery_counts(keys, consumer, &ids).await?;
        let Value::Array(deleted) = deleted else {
            return Err(CallError::unexpected_reply("deleted ids expected"));
        };
        Ok(ClaimedPage {
            cursor: stream_id(&next)?,
            entries: claimed.into_iter().zip(counts).collect(),
            deleted: deleted.iter().map(stream_id).collect::<Result<_, _>>()?,
        })
    }

    /// Returns Redis's delivery count per entry; 0 for an entry that is not pending for `consumer`.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn delivery_counts(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        ids: &[StreamId],
    ) -> Result<Vec<u64>, CallError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = self.scripts.delivery_counts.call(&[&keys.incoming], ids.len() * 24);
        call.arg(GROUP).arg(consumer);
        append_ids(&mut call, ids);
        let reply = self.scripts.delivery_counts.run(&self.connection, &call).await?;
        per_id_numbers(reply, ids.len())
    }

    /// Extends the claims of `consumer` on `ids`: resets their idle time and keeps their delivery
    /// counts. Returns per id whether the consumer still holds it. If not, the caller should
    /// abandon the work where possible.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn extend_claims(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        ids: &[StreamId],
    ) -> Result<Vec<bool>, CallError> {
        self.set_idle(keys, consumer, ids, 0).await
    }

    /// Hands `ids` back at shutdown: any worker may claim them at once. Delivery counts stay.
    ///
    /// # Errors
    /// If Redis does not answer. The entries then become claimable by their idle time.
    pub async fn hand_back(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        ids: &[StreamId],
    ) -> Result<Vec<bool>, CallError> {
        self.set_idle(keys, consumer, ids, HAND_BACK_IDLE_MS).await
    }

    async fn set_idle(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        ids: &[StreamId],
        idle_ms: u64,
    ) -> Result<Vec<bool>, CallError> {
        let mut held = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MAX_IDS_PER_CALL) {
            let mut call = self.scripts.extend_claims.call(&[&keys.incoming], ids.len() * 24);
            call.arg(GROUP).arg(consumer).arg(idle_ms);
            append_ids(&mut call, ids);
            let reply = self.scripts.extend_claims.run(&self.connection, &call).await?;
            held.extend(per_id_numbers(reply, ids.len())?.into_iter().map(|one| one == 1));
        }
        Ok(held)
    }

    /// Creates the platform's stream and group if they are missing.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn create_group(&self, keys: &PlatformKeys) -> Result<GroupState, CallError> {
        let call_keys = [&keys.incoming, &keys.retry, &keys.failures, &keys.exceptions];
        let mut call = self.scripts.create_group.call(&call_keys, 32);
        call.arg(GROUP);
        match self.scripts.create_group.run(&self.connection, &call).await {
            Ok(Value::Int(1)) => Ok(GroupState::Created),
            Ok(Value::Int(0)) => Ok(GroupState::Existed),
            Ok(_) => Err(CallError::unexpected_reply("0 or 1 expected")),
            Err(fault) if fault.is_wrong_type() => Ok(GroupState::WrongType),
            Err(fault) => Err(fault),
        }
    }

    /// Deletes consumers without pending entries that were idle for `min_idle`. Returns their
    /// number.
    ///
    /// # Errors
    /// If Redis does not answer, or there is no group.
    pub async fn reap_consumers(
        &self,
        keys: &PlatformKeys,
        min_idle: Duration,
    ) -> Result<u64, CallError> {
        let mut call = self.scripts.reap_consumers.call(&[&keys.incoming], 48);
        call.arg(GROUP).arg(u64::try_from(min_idle.as_millis()).unwrap_or(u64::MAX));
        self.number(self.scripts.reap_consumers.run(&self.connection, &call).await?)
    }

    /// Counts a run of the suspect `id` alone, before it begins. Returns the number of such runs
    /// without an orderly outcome, this one included; 0 if the entry no longer exists.
    ///
    /// `run` identifies the run: a call repeated because its reply was lost counts once.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn count_isolated_run(
        &self,
        keys: &PlatformKeys,
        id: StreamId,
        run: Uuid,
    ) -> Result<u64, CallError> {
        let mut call = self.scripts.count_isolated_run.call(&[&keys.incoming, &keys.suspects], 24);
        call.arg(id.to_string()).arg(run.simple().to_string());
        self.number(self.scripts.count_isolated_run.run(&self.connection, &call).await?)
    }

    /// Clears the count of [`Self::count_isolated_run`] after an orderly outcome that moved
    /// nothing, such as an outage. Settling, retrying and dead-lettering clear it themselves.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub async fn clear_suspects(
        &self,
        keys: &PlatformKeys,
        ids: &[StreamId],
    ) -> Result<(), CallError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut clear = cmd("HDEL");
        clear.arg(&keys.suspects);
        append_ids(&mut clear, ids);
        self.connection.run(&clear).await.map(drop)
    }

    /// Acquires or renews the lease on `name` for `ttl`. Returns false if another token holds it.
    ///
    /// # Errors
    /// If Redis does not answer. The lease may be held or not.
    pub async fn lease(&self, name: &str, token: &str, ttl: Duration) -> Result<bool, CallError> {
        let mut call = self.scripts.lease.call(&[lease(name)], 64);
        call.arg(token).arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        Ok(self.number(self.scripts.lease.run(&self.connection, &call).await?)? == 1)
    }

    /// Releases the lease on `name` if `token` holds it. Returns whether it did.
    ///
    /// # Errors
    /// If Redis does not answer. The lease then expires by itself.
    pub async fn release_lease(&self, name: &str, token: &str) -> Result<bool, CallError> {
        let mut call = self.scripts.release_lease.call(&[lease(name)], 64);
        call.arg(token);
        Ok(self.number(self.scripts.release_lease.run(&self.connection, &call).await?)? == 1)
    }

    pub(super) fn number(&self, reply: Value) -> Result<u64, CallError> {
        redis::from_redis_value(reply).map_err(|error| CallError::Unknown(error.into()))
    }
}

/// Maximum number of ids in a script call: enough to share its cost, few enough not to block Redis.
pub(super) const MAX_IDS_PER_CALL: usize = 100;

pub(super) fn append_ids(call: &mut Cmd, ids: &[StreamId]) {
    for id in ids {
        call.arg(id.text().as_str());
    }
}

/// Parses a reply of one number per id.
pub(super) fn per_id_numbers(reply: Value, expected: usize) -> Result<Vec<u64>, CallError> {
    let counts: Vec<u64> =
        redis::from_redis_value(reply).map_err(|error| CallError::Unknown(error.into()))?;
    if counts.len() == expected {
        Ok(counts)
    } else {
        Err(CallError::unexpected_reply("one number per id expected"))
    }
}

fn read_group(consumer: &str, count: usize) -> Cmd {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(GROUP).arg(consumer).arg("COUNT").arg(count.max(1));
    read
}
