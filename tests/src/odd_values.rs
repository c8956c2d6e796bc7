//! Unusual values in every place of a body that a bundled effect reads.

use serde_json::{Value, json};
use shared::effects::MAX_KEY_BYTES;
use shared::platform::{Effect, EffectSpec, Platform, Pointer};

/// Returns values of unexpected types and forms.
#[must_use]
pub fn values() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(false),
        json!(0),
        json!(-1),
        json!(-7.5),
        json!(1.0),
        json!(1e300),
        json!(u64::MAX),
        json!(""),
        json!("  "),
        json!("a\u{0}b"),
        json!("\u{0}"),
        json!("12"),
        json!("100%"),
        json!("NaN"),
        json!("unknown"),
        json!("2026-13-40T99:99:99Z"),
        json!("2026-12-01T03:00:00.000+0000"),
        json!("k".repeat(MAX_KEY_BYTES + 1)),
        json!([]),
        json!(["x", ["\u{0}"]]),
        json!({"en": "Hi", "\u{0}": "\u{0}"}),
        json!({"deep": {"deeper": [1, null, {"deepest": "\u{fffd}"}]}}),
    ]
}

/// A body with one unusual value.
#[derive(Clone, Debug)]
pub struct OddEvent {
    /// Event type of the body.
    pub event_type: String,
    /// Column or id that is read from the value.
    pub place: String,
    /// True if the effect is impossible without the value.
    pub essential: bool,
    /// Body of the request.
    pub body: Value,
}

/// A place of the body that an effect reads.
struct EffectInput<'p> {
    name: String,
    at: &'p [Pointer],
    essential: bool,
}

impl<'p> EffectInput<'p> {
    fn essential(name: &str, at: &'p [Pointer]) -> Self {
        Self { name: name.to_owned(), at, essential: true }
    }

    fn columns<C: ToString>(set: &'p [(C, Vec<Pointer>)]) -> Vec<Self> {
        let place = |(name, at): &'p (C, Vec<Pointer>)| Self {
            name: name.to_string(),
            at,
            essential: false,
        };
        set.iter().map(place).collect()
    }

    /// Returns the pointer for the unusual value. For a whole object it is a new member, since its
    /// members are other places.
    fn odd(&self, pointer: &Pointer) -> Pointer {
        let mut pointer = pointer.clone();
        if self.name == "data" {
            pointer.segments.push("odd".to_owned());
        }
        pointer
    }

    /// Returns the places that `spec` reads, except the session.
    fn of(spec: &'p EffectSpec) -> Vec<Self> {
        match &spec.effect {
            Effect::SessionStatus { set, data, .. } => {
                chain([Self::columns(set), Self::columns(data)])
            }
            Effect::SessionViewers { set, data } => {
                let mut all = chain([Self::columns(set), Self::columns(data)]);
                all.iter_mut().for_each(|place| place.essential = place.name == "viewer_count");
                all
            }
            Effect::Recording { id, set, .. } => {
                chain([vec![Self::essential("id", id)], Self::columns(set)])
            }
            Effect::Content { id, set, .. } => {
                chain([vec![Self::essential("id", id)], Self::columns(set)])
            }
            Effect::Job { id, set, .. } => {
                chain([vec![Self::essential("id", id)], Self::columns(set)])
            }
            Effect::Chat { id, set } => {
                chain([vec![Self::essential("id", id)], Self::columns(set)])
            }
            Effect::SessionAnnounce | Effect::Log => Vec::new(),
        }
    }
}

fn chain<T, const N: usize>(lists: [Vec<T>; N]) -> Vec<T> {
    lists.into_iter().flatten().collect()
}

/// Returns a body with a usable value in every place that `spec` reads. Its ids and its room are
/// `id`.
#[must_use]
pub fn valid_body(platform: &Platform, spec: &EffectSpec, id: &str) -> Value {
    let mut body = json!({});
    let rooms = spec.session.as_deref().unwrap_or(&platform.event.session);
    let streams = spec.live_stream_id.as_deref().unwrap_or(&platform.event.live_stream_id);
    for pointer in rooms.iter().chain(streams) {
        put(&mut body, pointer, json!(id));
    }
    for place in EffectInput::of(spec).iter().filter(|place| place.name != "data") {
        for pointer in place.at {
            let value = if place.essential && place.name == "id" { json!(id) } else { json!("12") };
            put(&mut body, pointer, value);
        }
    }
    body
}

/// Returns one body for each unusual value in each place that an effect of `platform` reads. Its id
/// and its room are `NAME-odd-N`.
#[must_use]
pub fn events(platform: &Platform) -> Vec<OddEvent> {
    let mut all = Vec::new();
    let mut effects: Vec<_> = platform.effects.iter().collect();
    effects.sort_by_key(|(event_type, _)| *event_type);
    for (event_type, spec) in effects {
        let rooms = spec.session.as_deref().unwrap_or(&platform.event.session);
        let session =
            matches!(spec.effect, Effect::SessionStatus { .. } | Effect::SessionViewers { .. });
        let session =
            (session && !rooms.is_empty()).then(|| EffectInput::essential("session", rooms));
        let places = EffectInput::of(spec).into_iter().chain(session).collect::<Vec<_>>();
        let essential: Vec<_> =
            places.iter().filter(|place| place.essential).flat_map(|place| place.at).collect();
        for place in &places {
            for value in values() {
                let mut body =
                    valid_body(platform, spec, &format!("{}-odd-{}", platform.name, all.len()));
                for pointer in place.at {
                    put(&mut body, &place.odd(pointer), value.clone());
                }
                all.push(OddEvent {
                    event_type: event_type.clone(),
                    place: place.name.clone(),
                    // A column may be read from the same place as an id.
                    essential: place.at.iter().any(|at| essential.contains(&at)),
                    body,
                });
            }
        }
    }
    all
}

/// Sets the value at `pointer`, and creates the objects on the way.
fn put(body: &mut Value, pointer: &Pointer, value: Value) {
    let mut place = body;
    for segment in &pointer.segments {
        if !place.is_object() {
            *place = json!({});
        }
        place =
            place.as_object_mut().expect("an object").entry(segment.clone()).or_insert(Value::Null);
    }
    *place = value;
}
