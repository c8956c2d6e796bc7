#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::event::Millis;
use shared::platform::registry::Registry;
use shared::signature::{Credential, Keys, Secret, verify};

use super::*;

/// `generate.py` beside the fixtures describes their form.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

#[derive(Deserialize)]
struct ProviderFixture {
    platform: String,
    definition: Option<String>,
    requests: Vec<FixtureRequest>,
}

#[derive(Deserialize)]
struct FixtureRequest {
    name: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    credentials: Vec<(String, String)>,
    now: Millis,
    event: Option<FixtureExpectation>,
    events: Option<Vec<FixtureExpectation>>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct FixtureExpectation {
    event_id: String,
    event_type: String,
    occurred_at: Option<Millis>,
    marker: Option<String>,
    delivery_id: Option<String>,
    /// Body of the event, if it is not the request's.
    body: Option<String>,
}

impl From<NewEvent> for FixtureExpectation {
    fn from(event: NewEvent) -> Self {
        let NewEvent { event_id, event_type, occurred_at, marker, delivery_id, .. } = event;
        Self {
            event_id,
            event_type,
            occurred_at: occurred_at.known(),
            marker,
            delivery_id,
            body: None,
        }
    }
}

impl FixtureExpectation {
    fn element(event: NewEvent) -> Self {
        let body = String::from_utf8(event.body.to_vec()).unwrap();
        Self { body: Some(body), ..event.into() }
    }
}

fn single(found: Identified) -> NewEvent {
    match found {
        Identified::One(event) => event,
        Identified::Batch(events) => panic!("a batch of {}", events.len()),
        Identified::Unusable(event) => panic!("unusable: {:?}", event.unusable),
    }
}

#[test]
fn identify_reads_every_known_event() {
    let mut identified = BTreeSet::new();
    for entry in std::fs::read_dir(FIXTURES).unwrap() {
        let path = entry.unwrap().path().join("requests.json");
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let fixture: ProviderFixture = serde_json::from_str(&text).unwrap();
        let registry =
            Registry::from_text("fixture", fixture.definition.as_deref().unwrap_or_default())
                .unwrap();
        let platform = registry.get(&fixture.platform).unwrap();
        for request in fixture.requests {
            if request.event.is_none() && request.events.is_none() {
                continue;
            }
            let place = format!("{}: {}", fixture.platform, request.name);
            let secret = |text: &String| platform.scheme.secret(text).unwrap();
            let keys = if request.credentials.is_empty() {
                Keys::Secrets(request.secrets.iter().map(secret).collect())
            } else {
                let pairs = request.credentials.iter();
                Keys::Credentials(
                    pairs.map(|(key, text)| Credential::new(key, &secret(text))).collect(),
                )
            };
            let body = Bytes::from(request.body.unwrap());
            let verified =
                verify(&platform.scheme, &keys, &request.headers, &body, request.now).unwrap();
            match identify(platform, &verified, &body)
                .unwrap_or_else(|error| panic!("{place}: {error}"))
            {
                Identified::One(event) => {
                    assert_eq!(event.body, body);
                    assert_eq!(Some(FixtureExpectation::from(event)), request.event, "{place}");
                }
                Identified::Batch(events) => {
                    let events = events.into_iter().map(FixtureExpectation::element).collect();
                    assert_eq!(Some(events), request.events, "{place}");
                }
                Identified::Unusable(event) => panic!("{place}: {:?}", event.unusable),
            }
            identified.insert(fixture.platform.clone());
        }
    }
    // GitHub's events have no id that is known in advance.
    let providers =
        "twitch standard-webhooks cloudflare-stream cloudflare-live livepeer zoom stripe slack";
    for platform in ["mux", "livekit", "generic", "netflix", "realcast", "streamgank"]
        .into_iter()
        .chain(providers.split(' '))
    {
        assert!(identified.contains(platform), "{platform}");
    }
}

/// Platform whose requests only need the secret in a header.
struct AcmePlatform {
    registry: Registry,
}

impl AcmePlatform {
    fn new(event: &str) -> Self {
        let text = format!(
            "[platforms.acme]\nsecrets = ['env:S']\naliases = ['acme-live']\n\
             signature = {{ scheme = 'shared-secret', header = 'x-secret' }}\n\
             [platforms.acme.event]\n{event}"
        );
        Self {
            registry: Registry::from_text("p.toml", &text)
                .unwrap_or_else(|problems| panic!("{problems:?}")),
        }
    }

    fn with(&self, body: &[u8], headers: &[(&str, &str)]) -> Result<NewEvent, IdentifyError> {
        self.identified(body, headers).map(single)
    }

    fn identified(
        &self,
        body: &[u8],
        headers: &[(&str, &str)],
    ) -> Result<Identified, IdentifyError> {
        let platform = self.registry.get("acme").unwrap();
        let headers = [headers, &[("x-secret", "s")]].concat();
        let keys = Keys::Secrets(vec![Secret::new("s")]);
        let verified = verify(&platform.scheme, &keys, &headers, body, 0).unwrap();
        identify(platform, &verified, &Bytes::copy_from_slice(body))
    }

    fn event(&self, body: &Value) -> NewEvent {
        self.with(body.to_string().as_bytes(), &[]).unwrap()
    }

    fn event_of(&self, body: &[u8]) -> NewEvent {
        self.with(body, &[]).unwrap()
    }

    fn refusal(&self, body: &Value) -> String {
        self.identified(body.to_string().as_bytes(), &[]).unwrap_err().to_string()
    }

    fn batch(&self, body: &str) -> Vec<NewEvent> {
        match self.identified(body.as_bytes(), &[]).unwrap() {
            Identified::Batch(events) => events,
            Identified::One(event) | Identified::Unusable(event) => {
                panic!("one event: {}", event.event_id)
            }
        }
    }
}

fn acme() -> AcmePlatform {
    AcmePlatform::new(
        "id = ['/id', '/data/id']\ntype = ['/kind', '/event']\ntime = ['/at', '/data/at']\n\
         ignore = ['/retry']",
    )
}

#[test]
fn first_pointer_with_a_value_counts() {
    let acme = acme();
    let event = acme
        .event(&json!({"id": null, "data": {"id": "a", "at": "2024-12-09T10:00:00Z"}, "event": 7}));
    assert_eq!((event.event_id.as_str(), event.event_type.as_str()), ("a", "7"));
    assert_eq!(event.occurred_at, EventTime::Known(1_733_738_400_000));
    let event = acme.event(&json!({"id": "b", "data": {"id": "a"}, "kind": "x", "event": "y"}));
    assert_eq!((event.event_id.as_str(), event.event_type.as_str()), ("b", "x"));
}

#[test]
fn unusable_time_falls_through_to_the_next_pointer() {
    let at = |body: &Value| acme().event(body).occurred_at;
    let known = EventTime::Known(1_733_738_400_000);
    assert_eq!(at(&json!({"kind": "x", "at": "soon", "data": {"at": 1_733_738_400}})), known);
    assert_eq!(
        at(&json!({"kind": "x", "at": [], "data": {"at": "2024-12-09T10:00:00+0000"}})),
        known
    );
    assert_eq!(
        at(&json!({"kind": "x", "at": "soon", "data": {"at": null}})),
        EventTime::Unreadable
    );
    assert_eq!(at(&json!({"kind": "x", "at": true})), EventTime::Unreadable);
    assert_eq!(at(&json!({"kind": "x", "at": "", "data": {"at": 0}})), EventTime::Absent);
    assert_eq!(at(&json!({"kind": "x"})), EventTime::Absent);
}

#[test]
fn time_zone_is_the_offset_of_times_without_one() {
    let acme =
        AcmePlatform::new("type = '/kind'\ntime = ['/at', '/data/at']\ntime_zone = '+02:00'");
    let at = |text: &str| acme.event(&json!({"kind": "x", "at": text})).occurred_at;
    for text in ["2024-12-09T12:00:00", "2024-12-09T10:00:00Z", "20241209120000", "1733738400"] {
        assert_eq!(at(text), EventTime::Known(1_733_738_400_000), "{text}");
    }
}

#[test]
fn unusable_id_or_type_falls_through_to_the_next_pointer() {
    let acme = acme();
    let long = "x".repeat(257);
    for unusable in [json!({}), json!([]), json!(true), json!(""), json!("a\0b"), json!(long)] {
        let body = json!({"id": unusable, "data": {"id": "a"}, "kind": unusable, "event": "y"});
        let event = acme.event(&body);
        assert_eq!((event.event_id.as_str(), event.event_type.as_str()), ("a", "y"), "{unusable}");
    }
}

#[test]
fn body_without_a_usable_type_is_refused_by_path() {
    let acme = acme();
    let long = "x".repeat(257);
    for kind in [
        json!(null),
        json!(""),
        json!(true),
        json!(["a"]),
        json!({}),
        json!(long),
        json!("a\0"),
        json!("a\nb"),
    ] {
        let reason = "/kind or /event: no event type of 1 to 256 bytes";
        assert_eq!(acme.refusal(&json!({"kind": kind, "secret": "value"})), reason, "{kind}");
    }
    for body in [json!([]), json!("kind"), json!(7)] {
        assert!(acme.refusal(&body).starts_with("/kind or /event"));
    }
    assert_eq!(acme.event(&json!({"kind": "ü".repeat(128)})).event_type.len(), 256);
}

#[test]
fn body_that_is_not_json_is_refused() {
    for (body, reason) in [
        (b"".as_slice(), "not JSON at line 1, column 0"),
        (b"\xff", "not JSON at line 1, column 1"),
        (br#"{"kind":"a","kind":"b"}"#, "duplicate key in the object at byte 0"),
        (br#"{"kind":"a"} x"#, "not JSON at line 1, column 14"),
    ] {
        assert_eq!(acme().with(body, &[]).unwrap_err().to_string(), reason);
    }
}

#[test]
fn unusable_id_falls_back_to_the_content_hash() {
    let acme = acme();
    let by_content = |id: Value| {
        let event = acme.event(&json!({"kind": "x", "id": id}));
        assert_eq!(event.event_id.len(), 64, "{id}");
        event.event_id
    };
    let ids = [
        json!(null),
        json!(""),
        json!({}),
        json!([]),
        json!(true),
        json!("a\0b"),
        json!("\u{85}"),
        json!("x".repeat(257)),
    ];
    let found: BTreeSet<String> = ids.into_iter().map(by_content).collect();
    assert_eq!(found.len(), 8, "all contents differ");
    assert_eq!(acme.event(&json!({"kind": "x", "id": "x".repeat(256)})).event_id.len(), 256);
    assert_eq!(acme.event(&json!({"kind": "x", "id": 12.50})).event_id, "12.5");
}

#[test]
fn dedup_marker_depends_on_platform_and_event() {
    let event = acme().event(&json!({"kind": "x", "id": "1"}));
    assert_eq!(event.marker, Some(marker_digest("acme", "1")));
    assert_ne!(marker_digest("acme", "1"), marker_digest("acm", "e1"));
    assert_eq!(event.marker.unwrap().len(), 32);
}

#[test]
fn body_that_names_another_platform_is_refused() {
    let acme = AcmePlatform::new("platform = '/platform'");
    let body = |platform: Value| json!({"event_type": "a", "payload": {}, "platform": platform});
    for own in [json!("acme"), json!("acme-live")] {
        acme.event(&body(own));
    }
    acme.event(&json!({"event_type": "a", "payload": {}}));
    acme.event(&body(json!(null)));
    for other in [json!("netflix"), json!("Acme"), json!(" "), json!("")] {
        assert_eq!(acme.refusal(&body(other)), "/platform: names another platform");
    }
    for other in [json!(1), json!(["acme"]), json!({})] {
        assert!(acme.refusal(&body(other)).starts_with("/platform: "));
    }
}

#[test]
fn schema_violation_is_refused_by_path() {
    let acme = AcmePlatform::new(
        "type = '/kind'\ntime = '/at'\n\
         schema = { required = ['n'], properties = { n = { type = 'integer' } } }",
    );
    acme.event(&json!({"kind": "a", "n": 1}));
    let refusal = acme.refusal(&json!({"kind": "a", "n": "personal"}));
    assert!(refusal.contains("/n") && !refusal.contains("personal"), "{refusal}");
}

#[test]
fn repeatable_events_without_id_and_time_are_distinct() {
    let acme = AcmePlatform::new("id = '/id'\ntype = '/kind'\ntime = '/at'\nrepeatable = true");
    let body = json!({"kind": "tick"});
    let (one, other) = (acme.event(&body), acme.event(&body));
    assert_ne!(one.event_id, other.event_id);
    assert_eq!(one.event_id[..65], other.event_id[..65]);
    assert_eq!((one.event_id.len(), one.marker, other.marker), (81, None, None));
    let timed = json!({"kind": "tick", "at": 1_733_738_400});
    assert_eq!(acme.event(&timed).event_id, acme.event(&timed).event_id);
    assert!(acme.event(&timed).marker.is_some());
    let named = json!({"kind": "tick", "id": "1"});
    assert_eq!(
        (acme.event(&named).event_id, acme.event(&named).marker.is_some()),
        ("1".to_owned(), true)
    );
}

#[test]
fn unsigned_headers_decide_only_a_declared_type() {
    let acme = AcmePlatform::new(
        "type = 'header:x-type'\nunsigned = ['type']\ntime = '/at'\n\
         delivery_id = ['header:x-delivery', '/n']",
    );
    let body = br#"{"at":1733738400,"n":5}"#;
    let event = acme.with(body, &[("X-Type", "push"), ("X-Delivery", "d-1")]).unwrap();
    assert_eq!((event.event_type.as_str(), event.delivery_id.as_deref()), ("push", Some("d-1")));
    let again = acme.with(body, &[("X-Type", "push")]).unwrap();
    assert_eq!((again.event_id, again.delivery_id.as_deref()), (event.event_id.clone(), Some("5")));
    assert_ne!(acme.with(body, &[("X-Type", "pull")]).unwrap().event_id, event.event_id);
    let error = acme.with(body, &[]).unwrap_err().to_string();
    assert_eq!(error, "header x-type: no event type of 1 to 256 bytes");
    let long = "x".repeat(257);
    for useless in ["", "a\u{7f}b", &long] {
        let event = acme.with(body, &[("X-Type", "push"), ("X-Delivery", useless)]).unwrap();
        assert_eq!(
            event.delivery_id.as_deref(),
            Some("5"),
            "an unusable value falls through to the next pointer"
        );
    }
}

#[test]
fn traceparent_is_kept_if_it_is_valid() {
    let acme = acme();
    let kept =
        |text: &str| acme.with(br#"{"kind":"x"}"#, &[("traceparent", text)]).unwrap().traceparent;
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    assert_eq!(kept(good).as_deref(), Some(good));
    for bad in [
        "",
        "00-",
        &good[1..],
        &good.to_uppercase(),
        &good.replace("00-", "01-"),
        &format!("{good}-x"),
        &good.replace('4', "g"),
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
    ] {
        assert_eq!(kept(bad), None, "{bad}");
    }
}

/// The type is outside the list, all other members are in it.
fn batches() -> AcmePlatform {
    AcmePlatform::new(
        "batch = '/all/list'\nid = ['/all/list/id', '/id']\ntype = ['/all/list/kind', '/kind']\n\
         time = '/at'\nplatform = '/all/list/from'\n\
         schema = { properties = { all = { properties = { list = { required = ['n'] } } } } }",
    )
}

#[test]
fn batch_element_is_an_event_with_the_request_around_it() {
    let text = concat!(
        r#" {"kind":"x", "all" : {"a":[1.50], "list" :[ "#,
        r#"{"id":"1","n":1e1} ,{"n":-0,"id":2}], "z":"\u00e9"} } "#
    );
    let events = batches().batch(text);
    let bodies: Vec<&[u8]> = events.iter().map(|event| &event.body[..]).collect();
    assert_eq!(
        bodies,
        [
            br#" {"kind":"x", "all" : {"a":[1.50], "list" :{"id":"1","n":1e1}, "z":"\u00e9"} } "#
                .as_slice(),
            br#" {"kind":"x", "all" : {"a":[1.50], "list" :{"n":-0,"id":2}, "z":"\u00e9"} } "#,
        ]
    );
    let ids: Vec<_> =
        events.iter().map(|event| (event.event_id.as_str(), event.event_type.as_str())).collect();
    assert_eq!(ids, [("1", "x"), ("2", "x")]);
    assert!(
        events.iter().all(|event| event.marker == Some(marker_digest("acme", &event.event_id)))
    );
    // The queued body is identified likewise, so an edited replay finds the same event.
    for event in events {
        assert_eq!(batches().with(&event.body, &[]).unwrap().event_id, event.event_id);
    }
}

#[test]
fn batch_elements_have_distinct_ids() {
    let ids = |text: &str| {
        batches().batch(text).into_iter().map(|event| event.event_id).collect::<Vec<_>>()
    };
    // The message's id is outside the list.
    assert_eq!(
        ids(r#"{"kind":"x","id":"m","all":{"list":[{"n":1},{"n":1},{"n":1,"id":"own"}]}}"#),
        ["m#0", "m#1", "own"]
    );
    // Without any id, the content identifies an element, wherever it is.
    let one = ids(r#"{"kind":"x","all":{"list":[{"n":1},{"n":2}]}}"#);
    assert_eq!((one[0].len(), one[0] == one[1]), (64, false));
    assert_eq!(
        ids(r#"{"all":{"list":[{"n":2}, {"n":1}]},"kind":"x"}"#),
        [one[1].as_str(), &one[0]]
    );
    // An unusable id counts as absent.
    let unusable = ids(r#"{"kind":"x","id":"m","all":{"list":[{"n":1,"id":{}},{"n":1,"id":""}]}}"#);
    assert_eq!(unusable, ["m#0", "m#1"]);
    // With the position appended, the id would be too long.
    let long = format!(r#"{{"kind":"x","id":"{}","all":{{"list":[{{"n":1}}]}}}}"#, "m".repeat(255));
    assert_eq!(ids(&long)[0].len(), 64);
}

#[test]
fn request_without_a_list_is_one_event() {
    for body in
        [json!({"kind": "x", "id": "1"}), json!({"kind": "x", "id": "1", "all": {"list": null}})]
    {
        assert_eq!(batches().event(&body).event_id, "1");
    }
    let lone = json!({"kind": "x", "id": "1", "all": {"list": {"n": 1, "id": "own"}}});
    assert_eq!(batches().event(&lone).event_id, "own");
}

#[test]
fn batch_with_a_bad_element_is_refused_by_its_path() {
    let refused = |list: Value| batches().refusal(&json!({"kind": "x", "all": {"list": list}}));
    for other in [json!("personal"), json!(1), json!(true)] {
        assert_eq!(refused(other.clone()), "/all/list: must be a list of events");
        assert_eq!(refused(json!([{"n": 1}, other])), "/all/list/1: must be an object");
    }
    assert_eq!(refused(json!([{"n": 1}, null])), "/all/list/1: must be an object");
    assert_eq!(
        refused(json!([{"n": 1}, {"n": 1}, {"m": "personal"}])),
        "/all/list/2/n: is required"
    );
    assert_eq!(
        refused(json!([{"n": 1}, {"n": 1, "from": "other"}])),
        "/all/list/1/from: names another platform"
    );
    assert_eq!(
        batches().refusal(
            &json!({"kind": "", "all": {"list": [{"n": 1, "kind": "x"}, {"n": 1, "kind": ""}]}})
        ),
        "/all/list/1/kind or /kind: no event type of 1 to 256 bytes"
    );
}

#[test]
fn empty_list_is_a_batch_without_events() {
    for body in [r#"{"kind":"x","all":{"list":[]}}"#, r#"{"all":{"list": [ ]},"entropy":"A"}"#] {
        assert!(batches().batch(body).is_empty(), "{body}");
    }
}

#[test]
fn batch_is_bounded_in_events_and_bytes() {
    let of = |count: usize, frame: usize| {
        let list: Vec<Value> = (0..count).map(|n| json!({"n": n})).collect();
        json!({"kind": "x", "frame": "f".repeat(frame), "all": {"list": list}})
    };
    let large = "/all/list: more than 128 events, or 2097152 bytes of them, at once";
    assert_eq!(batches().batch(&of(MAX_BATCH_EVENTS, 10).to_string()).len(), MAX_BATCH_EVENTS);
    assert_eq!(batches().refusal(&of(MAX_BATCH_EVENTS + 1, 10)), large);
    // Each event carries the text around the list, so the sum counts.
    let around = MAX_BATCH_BYTES / 8 - 60;
    assert!(
        batches()
            .batch(&of(8, around).to_string())
            .iter()
            .map(|event| event.body.len())
            .sum::<usize>()
            <= MAX_BATCH_BYTES
    );
    assert_eq!(batches().refusal(&of(8, around + 60)), large);
}

#[test]
fn body_that_is_a_list_is_a_batch_if_declared() {
    let acme = AcmePlatform::new("batch = ''\nid = '/id'\ntype = '/kind'\ntime = '/at'");
    let events = acme.batch(r#" [{"kind":"a","id":"1"}, {"kind":"b","at":1733738400}] "#);
    let received: Vec<_> =
        events.iter().map(|event| (event.event_type.as_str(), event.occurred_at.known())).collect();
    assert_eq!(received, [("a", None), ("b", Some(1_733_738_400_000))]);
    assert_eq!(events[0].body, br#" {"kind":"a","id":"1"} "#.as_slice());
    assert_eq!(
        acme.refusal(&json!([{"kind": "a"}, {}])),
        "/1/kind: no event type of 1 to 256 bytes"
    );
    assert_eq!(acme.refusal(&json!([{"kind": "a"}, 7])), "/1: must be an object");
    assert!(acme.batch("[]").is_empty());
    assert_eq!(acme.event(&json!({"kind": "a", "id": "1"})).event_id, "1");
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "\\PC{0,6}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-e]{1,2}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Returns the same value with the members in reverse order and spaces between all tokens.
fn respell(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            format!("[ {} ]", items.iter().map(respell).collect::<Vec<_>>().join("\t,"))
        }
        Value::Object(members) => {
            let members = members
                .iter()
                .rev()
                .map(|(key, value)| format!("{}\n: {}", json!(key), respell(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(" , "))
        }
        leaf => leaf.to_string(),
    }
}

#[test]
fn content_hash_equals_for_equal_content_only() {
    let acme = acme();
    let body = |data: &Value, retry: u32| json!({"kind": "x", "payload": data, "retry": retry});
    proptest!(|(data in tree(), other in tree(), retry in any::<u32>())| {
        let id = acme.event(&body(&data, 0)).event_id;
        let respelled = acme.with(respell(&body(&data, retry)).as_bytes(), &[]).unwrap();
        prop_assert_eq!(&respelled.event_id, &id);
        prop_assert_eq!(acme.event(&body(&other, 0)).event_id == id, data == other);
        prop_assert_ne!(&acme.event(&body(&json!([data]), 0)).event_id, &id);
    });
}

#[test]
fn identify_never_panics() {
    let acme = AcmePlatform::new("batch = '/e'\nid = '/id'\ntype = '/kind'\ntime = '/at'");
    let json_like = "[{}\\[\\]\":,kind0-9e.\\\\ ]{0,40}".prop_map(String::into_bytes);
    let bodies = prop_oneof![prop::collection::vec(any::<u8>(), 0..60), json_like];
    proptest!(|(body in bodies)| {
        let Ok(found) = acme.identified(&body, &[]) else { return Ok(()) };
        for event in found.events() {
            prop_assert!(!event.event_id.is_empty() && event.event_id.len() <= MAX_EVENT_ID_BYTES);
            prop_assert!(!event.event_type.is_empty());
            prop_assert!(event.event_type.len() <= MAX_EVENT_TYPE_BYTES);
        }
    });
}

#[test]
fn body_in_another_charset_keeps_its_bytes() {
    let acme = acme();
    let plain = acme.event_of(br#"{"kind":"x","a":1}"#);
    let marked = acme.event_of(b"\xef\xbb\xbf{\"kind\":\"x\",\"a\":1}\0");
    assert_eq!(
        marked.event_id, plain.event_id,
        "a byte order mark or a trailing NUL does not count"
    );
    assert_eq!(marked.body, b"\xef\xbb\xbf{\"kind\":\"x\",\"a\":1}\0".as_slice());
    let odd: [&[u8]; 5] = [
        br#"{"kind":"x","a":"\ud83d"}"#,
        br#"{"kind":"x","a":"\ud83e"}"#,
        br#"{"kind":"x","a":"\ufffd"}"#,
        b"{\"kind\":\"x\",\"a\":\"\xe9\"}",
        b"{\"kind\":\"x\",\"a\":\"\xe8\"}",
    ];
    let ids: BTreeSet<String> = odd.iter().map(|body| acme.event_of(body).event_id).collect();
    assert_eq!(ids.len(), odd.len(), "different bytes are different events");
    let by_id =
        |half: &str| acme.event_of(format!(r#"{{"kind":"x","id":"m{half}"}}"#).as_bytes()).event_id;
    assert_ne!(by_id("\\ud83d"), by_id("\\ud83e"));
    assert_eq!(by_id("\u{fffd}"), "m\u{fffd}", "the id was sent with this character");
    let next = acme.event_of(b"{\"kind\":\"x\",\"id\":\"m\xe9\",\"data\":{\"id\":\"next\"}}");
    assert_eq!(
        next.event_id, "next",
        "an id with a replaced byte falls through to the next pointer"
    );
}
