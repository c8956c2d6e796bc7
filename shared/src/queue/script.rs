//! Lua scripts, and how they are called.
//!
//! # Guarantees
//!
//! - A script that Redis has forgotten (restart, `SCRIPT FLUSH`, failover) is loaded and called
//!   again. NOSCRIPT says that nothing ran, so this is safe
//!   (`scripts_are_loaded_again_after_a_script_flush`).
//! - Only the scripts that add events or write nothing lack `allow-oom`
//!   (`script_flags_refuse_only_growth_when_redis_is_full`).

use redis::{Cmd, ToRedisArgs, Value, cmd};
use sha1::{Digest, Sha1};

use super::{CallError, RedisConnection};

/// Source of a script, with its digest.
#[derive(Debug)]
pub(crate) struct Script {
    code: &'static str,
    sha: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        let sha = Sha1::digest(code.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { code, sha }
    }

    /// Begins a call with `keys`; the caller appends the arguments. `capacity`: expected bytes of
    /// the arguments.
    pub(crate) fn call<K: AsRef<str>>(&self, keys: &[K], capacity: usize) -> Cmd {
        let mut command = self.begin(keys.len(), capacity);
        for key in keys {
            command.arg(key.as_ref());
        }
        command
    }

    /// Begins a call with `keys` keys. The caller appends first the keys, then the arguments.
    /// `capacity`: expected bytes of the arguments.
    pub(crate) fn begin(&self, keys: usize, capacity: usize) -> Cmd {
        let mut command = Cmd::with_capacity(keys + 16, capacity + 64 + 48 * keys);
        command.arg("EVALSHA").arg(&self.sha).arg(keys);
        command
    }

    /// Sends a call made by [`Self::call`].
    pub(crate) async fn run(
        &self,
        connection: &RedisConnection,
        call: &Cmd,
    ) -> Result<Value, CallError> {
        match connection.run(call).await {
            Err(fault) if fault.code() == Some("NOSCRIPT") => {
                self.load(connection, call).await?;
                connection.run(call).await
            }
            result => result,
        }
    }

    /// Like [`Self::run`], but also waits for the replicas if the connection is configured to.
    pub(crate) async fn run_confirmed(
        &self,
        connection: &RedisConnection,
        call: &Cmd,
    ) -> Result<Value, CallError> {
        match connection.run_confirmed(call).await {
            Err(fault) if fault.code() == Some("NOSCRIPT") => {
                self.load(connection, call).await?;
                connection.run_confirmed(call).await
            }
            result => result,
        }
    }

    /// Loads the script on the server that is to run `call`.
    async fn load(&self, connection: &RedisConnection, call: &Cmd) -> Result<(), CallError> {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(self.code);
        // Nothing of the call itself has run yet, whether or not the load succeeds.
        connection
            .run_on_same_node(call, &load)
            .await
            .map(drop)
            .map_err(|fault| CallError::NotRun(fault.into_error()))
    }
}

macro_rules! scripts {
    ($($name:ident),+ $(,)?) => {
        /// All scripts, with their digests.
        #[derive(Debug)]
        pub(crate) struct Scripts { $(pub(crate) $name: Script),+ }

        impl Scripts {
            pub(crate) fn new() -> Self {
                Self {
                    $($name: Script::new(include_str!(
                        concat!("scripts/", stringify!($name), ".lua")
                    ))),+
                }
            }

            #[cfg(test)]
            fn all(&self) -> Vec<(&'static str, &Script)> {
                vec![$((stringify!($name), &self.$name)),+]
            }
        }
    };
}

scripts!(
    acquire_delivery_permit,
    bind_urls,
    change_registrations,
    check_enqueue,
    check_settle,
    count_isolated_run,
    create_group,
    dead_letter,
    dead_letter_stats,
    delivery_counts,
    depth,
    enqueue,
    enqueue_deliveries,
    extend_claims,
    hand_over_queue,
    hold_destination,
    import,
    lease,
    promote,
    purge,
    put_meta_if_absent,
    reap_consumers,
    release_held,
    release_lease,
    replay,
    reset_idle,
    schedule_retry,
    settle,
    sweep_orphans,
);

/// Appends `value`, or an empty argument, which scripts read as absent.
pub(crate) fn optional<T: ToRedisArgs>(call: &mut Cmd, value: Option<T>) {
    match value {
        Some(value) => call.arg(value),
        None => call.arg(""),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_flags_refuse_only_growth_when_redis_is_full() {
        for (name, script) in Scripts::new().all() {
            let flags = script.code.lines().next().unwrap_or_default();
            let expected = match name {
                "enqueue" | "enqueue_deliveries" | "import" | "check_enqueue" => "#!lua",
                "dead_letter_stats" | "depth" | "delivery_counts" => "#!lua flags=no-writes",
                _ => "#!lua flags=allow-oom",
            };
            assert_eq!(flags, expected, "{name}");
        }
    }

    #[test]
    fn script_digest_equals_the_one_of_redis() {
        assert_eq!(Script::new("return KEYS[1]").sha, "4a2267357833227dd98abdedb8cf24b15a986445");
    }
}
