//! Under the cluster layout every script keeps to one slot: a cluster of one node refuses those that do not.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::event::marker_digest;
use shared::queue::keys::reply_channel;
use shared::queue::{
    DeadLettered, Durability, Enqueued, Imported, Layout, Queue, Replayed, Unfinished, blocking_connection, connect,
};
use tests::poll;
use tests::redis::{RedisOptions, RedisServer};

use crate::fixture::{CONSUMER, OPEN, event, name};

#[tokio::test]
async fn no_script_leaves_its_slot() {
    let bus = tests::ports::free().to_string();
    let options = RedisOptions::fast().set("cluster-enabled", "yes").set("cluster-port", &bus);
    let server = RedisServer::start(options).await;
    server.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await;
    poll::until("the cluster is formed", Duration::from_secs(10), async || {
        let info: String = server.command(&["CLUSTER", "INFO"]).await;
        if info.contains("cluster_state:ok") { Ok(()) } else { Err(info) }
    })
    .await;
    let url = server.url().into();
    let queue = Queue::new(Layout::Cluster, connect(&url, false).unwrap());
    let mut reader = blocking_connection(&url, false).unwrap();
    let keys = queue.keys(&name("mux"));
    let durability = Durability::read(queue.connection()).await.unwrap();
    assert_eq!(durability.cluster_enabled, Some(true));

    let channel = reply_channel(uuid::Uuid::new_v4());
    queue.register_platform(&keys.platform).await.unwrap();
    queue.create_group(&keys).await.unwrap();
    let given = ["a", "b", "c"].map(event);
    let outcomes = queue.enqueue(&keys, &OPEN, &given.iter().collect::<Vec<_>>()).await.unwrap();
    assert_eq!(outcomes, [Enqueued::Accepted; 3]);
    let mut pages = queue.read_new(&mut reader, &[&keys], CONSUMER, 10, Duration::ZERO).await.unwrap();
    let ids: Vec<_> = pages.remove(0).1.iter().map(|entry| entry.id).collect();
    assert_eq!(queue.renew(&keys, CONSUMER, &ids).await.unwrap(), [true; 3]);
    assert_eq!(queue.delivery_counts(&keys, CONSUMER, &ids).await.unwrap(), [1; 3]);
    assert_eq!(queue.suspect(&keys, ids[0], uuid::Uuid::new_v4()).await.unwrap(), 1);
    assert_eq!(queue.settle(&keys, &[crate::waiting::settled(ids[0], &channel, "a")]).await.unwrap(), [true]);
    let retry = [crate::retry::retry(ids[1], 0)];
    assert_eq!(queue.schedule_retry(&keys, CONSUMER, &retry).await.unwrap(), [true]);
    assert_eq!(queue.promote_due(&keys, 1000, 10).await.unwrap().moved, 1);
    let letter = crate::waiting::letter(ids[2], crate::waiting::given_up(&channel, "c"));
    let dead = queue.dead_letter(&keys, CONSUMER, "w", &[letter.clone(), letter], 10).await.unwrap();
    assert_eq!(dead, [DeadLettered::Done, DeadLettered::Gone]);
    assert!(queue.stored_reply(&keys, "a").await.unwrap().is_some());
    assert!(matches!(queue.unfinished(&keys, "c").await.unwrap(), Some(Unfinished::Dead(_))));
    assert_eq!(queue.depth(&keys).await.unwrap().dead_letters, 1);
    queue.sweep_orphans(&keys, None).await.unwrap();
    queue.reap_consumers(&keys, Duration::from_secs(60)).await.unwrap();
    let dead = queue.dead_letters(&keys, None, 10).await.unwrap()[0].id;
    let replayed = queue.replay(&keys, &[dead], 100, &BTreeMap::new()).await.unwrap();
    assert!(matches!(replayed[..], [Replayed::Done(_)]));
    let fields = vec![(b"event_id".to_vec(), b"c".to_vec())];
    let imported = queue.import_dead_letter(&keys, ids[0], &fields, 9).await.unwrap();
    let Imported::Done(imported) = imported else { panic!("{imported:?}") };
    let digests = [(imported, Some(marker_digest("mux", "c")))];
    assert_eq!(queue.purge(&keys, &digests).await.unwrap(), [true]);
    assert!(queue.lease("host-1", "token", Duration::from_secs(60)).await.unwrap());
    assert_eq!(queue.agree("layout", "cluster").await.unwrap(), "cluster");
}
