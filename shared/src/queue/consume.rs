//! Taking entries, holding them and giving them back; the group, its consumers and their names.
//!
//! Guarantee: nothing here finishes an event or takes one from a consumer that renewed it in time. Holding and giving
//! back touch only what is pending for the calling consumer at that moment.

use std::time::Duration;

use redis::{Cmd, Value, cmd};
use uuid::Uuid;

use super::codec::{array, entries, stream_id};
use super::connection::pages;
use super::keys::{GROUP, lease};
use super::script::optional;
use super::{CallError, PlatformKeys, Queue, StreamEntry, StreamReader};
use crate::event::StreamId;

/// Idle time that entries handed back are given: longer than any claim waits for.
pub const HAND_BACK_IDLE_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// What became of a platform's stream and group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    /// The group was missing and begins at 0 now; the retry set was dropped, its entries come back as new ones.
    Created,
    /// It is there.
    Existed,
    /// The key is no stream: set it aside, tell somebody, read the others.
    WrongType,
}

/// One page of claimed entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedPage {
    /// Where to go on; `0-0`: the whole pending list was looked at.
    pub cursor: StreamId,
    /// What belongs to the caller now, with Redis's delivery count, this one included.
    pub entries: Vec<(StreamEntry, u64)>,
    /// Entries that were pending but deleted; Redis has forgotten them. More than none is worth an alert.
    pub deleted: Vec<StreamId>,
}

impl Queue {
    /// Waits up to `block` for new entries of any of `streams`, at most `count` of each. A zero `block` does not wait.
    ///
    /// Returns the position in `streams` with what was read. Must not be cancelled, see [`StreamReader`].
    ///
    /// # Errors
    /// [`CallError::is_no_group`] or [`CallError::is_wrong_type`] when one of the streams is not as it should be: on a single
    /// server none of them was read then, on a cluster this call or the one before it brought what the others had. Call
    /// [`Self::create_group`] on each.
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

    /// One page of what is pending for `consumer` already, after `after`: what a process reads first after its start.
    /// An empty page is the end. Raises Redis's delivery counts.
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

    /// One page of what is pending for `consumer`, after `after`: ids only, which changes nothing. An empty page is the
    /// end.
    ///
    /// # Errors
    /// When Redis did not answer, or there is no group.
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

    /// Lets the idle time begin anew of entries whose last delivery lies in the future because Redis's clock was set
    /// back since: they could not be claimed before it is there again. Holders and counts stay.
    ///
    /// # Errors
    /// When Redis did not answer, or there is no group.
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

    /// Takes over entries that nobody renewed for `min_idle`, looking at up to ten times `count` pending ones from
    /// `cursor` on. Keep the cursor between calls: beginning at `0-0` each time never reaches the end of a long list.
    ///
    /// It takes the caller's own entries too, if they were not renewed: skip what is still being worked on.
    ///
    /// # Errors
    /// When Redis did not answer; entries may belong to the caller then, and come with the next claim.
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

    /// How often each entry was delivered, by Redis's counter; 0 for one that is not pending for `consumer`.
    ///
    /// # Errors
    /// When Redis did not answer.
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

    /// Tells Redis that `consumer` still works on `ids`: their idle time begins anew, their counts stay.
    ///
    /// Returns, per id, whether it is still the consumer's. Work on one that is not should be dropped if it can be.
    ///
    /// # Errors
    /// When Redis did not answer.
    pub async fn extend_claims(
        &self,
        keys: &PlatformKeys,
        consumer: &str,
        ids: &[StreamId],
    ) -> Result<Vec<bool>, CallError> {
        self.set_idle(keys, consumer, ids, 0).await
    }

    /// Gives `ids` back at shutdown: any other worker may claim them at once, their counts stay.
    ///
    /// # Errors
    /// When Redis did not answer; they become claimable by time then.
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

    /// Sees to it that the platform's stream and group are there.
    ///
    /// # Errors
    /// When Redis did not answer.
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

    /// Forgets consumers that have nothing pending and did not appear for `min_idle`. Returns how many.
    ///
    /// # Errors
    /// When Redis did not answer, or there is no group.
    pub async fn reap_consumers(
        &self,
        keys: &PlatformKeys,
        min_idle: Duration,
    ) -> Result<u64, CallError> {
        let mut call = self.scripts.reap_consumers.call(&[&keys.incoming], 48);
        call.arg(GROUP).arg(u64::try_from(min_idle.as_millis()).unwrap_or(u64::MAX));
        self.number(self.scripts.reap_consumers.run(&self.connection, &call).await?)
    }

    /// Notes that the suspect `id` is about to run alone. Returns how often that happened without an orderly outcome
    /// since, this time included; 0 when there is no such entry any more. `run` names this run: calls that repeat it,
    /// because an answer was lost, count once.
    ///
    /// # Errors
    /// When Redis did not answer.
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

    /// Clears the count of [`Self::count_isolated_run`] after an orderly outcome that moved nothing, such as an outage. Settling,
    /// retrying and dead-lettering clear it by themselves.
    ///
    /// # Errors
    /// When Redis did not answer.
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

    /// Takes or renews the lease on `name` for `ttl`. `false`: somebody with another token has it.
    ///
    /// # Errors
    /// When Redis did not answer: the lease may be held or not.
    pub async fn lease(&self, name: &str, token: &str, ttl: Duration) -> Result<bool, CallError> {
        let mut call = self.scripts.lease.call(&[lease(name)], 64);
        call.arg(token).arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        Ok(self.number(self.scripts.lease.run(&self.connection, &call).await?)? == 1)
    }

    /// Gives the lease on `name` up, if `token` holds it.
    ///
    /// # Errors
    /// When Redis did not answer; it ends by itself then.
    pub async fn release_lease(&self, name: &str, token: &str) -> Result<bool, CallError> {
        let mut call = self.scripts.release_lease.call(&[lease(name)], 64);
        call.arg(token);
        Ok(self.number(self.scripts.release_lease.run(&self.connection, &call).await?)? == 1)
    }

    pub(super) fn number(&self, reply: Value) -> Result<u64, CallError> {
        redis::from_redis_value(reply).map_err(|error| CallError::Unknown(error.into()))
    }
}

/// Ids in one script call: enough to share its cost, few enough not to keep Redis busy.
pub(super) const MAX_IDS_PER_CALL: usize = 100;

pub(super) fn append_ids(call: &mut Cmd, ids: &[StreamId]) {
    for id in ids {
        call.arg(id.text().as_str());
    }
}

/// One number per id.
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
