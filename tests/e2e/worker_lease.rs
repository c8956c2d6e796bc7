//! The lease on a worker's name: two workers never share one.

use tests::poll;
use tests::stack::Stack;

use crate::WAIT_LIMIT;

/// Two workers of one name would share pending entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_renews_its_lease_and_exits_when_another_holds_it() {
    const LEASE: &str = "webhooks:lease:harness-1";
    let stack = Stack::builder().start().await;
    let _: usize = stack.redis.command(&["PEXPIRE", LEASE, "15000"]).await;
    poll::until("the lease is renewed in time", WAIT_LIMIT, async || {
        let left: i64 = stack.redis.command(&["PTTL", LEASE]).await;
        if left > 15_000 { Ok(()) } else { Err(left) }
    })
    .await;
    let (): () = stack.redis.command(&["SET", LEASE, "another worker", "PX", "600000"]).await;
    let status = stack.workers[0].process.wait_until_ended(WAIT_LIMIT).await;
    assert!(!status.success(), "{status}");
}
