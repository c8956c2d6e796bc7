//! Reads `[platforms.NAME.event]`: the locations of an event's parts, and the schemas of its body.

use std::collections::HashMap;

use super::table_reader::{TableReader, child, words};
use super::{MAX_TYPES, event_type, syntax};
use crate::platform::schema::{self, Schemas};
use crate::platform::types::{EventSpec, Locator, Pointer};
use crate::signature::Scheme;

/// Reads the section. Returns `None` after at least one problem.
pub(super) fn read(
    mut section: TableReader<'_>,
    scheme: Option<&Scheme>,
) -> Option<(EventSpec, Schemas)> {
    let before = section.report().count();
    let event = EventSpec {
        batch: section.word("batch", syntax::pointer_or_root),
        id: section.words("id", syntax::locator).unwrap_or_default(),
        kind: section.words("type", syntax::locator).unwrap_or_default(),
        time: section.words("time", syntax::locator).unwrap_or_default(),
        time_zone: section.word("time_zone", str::parse).unwrap_or_default(),
        session: pointers(&mut section, "session").unwrap_or_default(),
        live_stream_id: pointers(&mut section, "live_stream_id").unwrap_or_default(),
        platform: pointers(&mut section, "platform").unwrap_or_default(),
        delivery_id: section.words("delivery_id", syntax::locator).unwrap_or_default(),
        ignore: pointers(&mut section, "ignore").unwrap_or_default(),
        repeatable: section.boolean("repeatable").unwrap_or_default(),
    };
    let unsigned = section.words("unsigned", |text| match text {
        "type" => Ok(()),
        _ => Err("only \"type\" may come from an unsigned header; identity and time never do"),
    });
    if section.report().count() == before {
        if event.kind.is_empty() {
            section.problem("type", "is missing; it locates the event type");
        }
        if event.id.is_empty() && event.time.is_empty() && !event.repeatable {
            section.problem(
                "id",
                "neither `id` nor `time` is set, so identical bodies would always be one event; \
                 set one of them or `repeatable = true`",
            );
        }
        if let Some(scheme) = scheme {
            check_covered(
                &section,
                "id",
                &event.id,
                scheme,
                "; without `id`, the content hash identifies the event",
            );
            check_covered(&section, "time", &event.time, scheme, "");
            if unsigned.is_none_or(|list| list.is_empty()) {
                check_covered(
                    &section,
                    "type",
                    &event.kind,
                    scheme,
                    "; `unsigned = [\"type\"]` accepts that",
                );
            }
        }
    }
    let schemas = schemas(&mut section);
    let report = section.report();
    section.finish();
    (report.count() == before).then_some((event, schemas))
}

pub(super) fn pointers(section: &mut TableReader<'_>, name: &'static str) -> Option<Vec<Pointer>> {
    section.words(name, syntax::pointer)
}

fn check_covered(
    section: &TableReader<'_>,
    name: &str,
    locators: &[Locator],
    scheme: &Scheme,
    hint: &str,
) {
    for locator in locators {
        if let Locator::Header(header) = locator
            && !scheme.covers(header)
        {
            section.problem(
                name,
                format!("the header {header} is not covered by the signature{hint}"),
            );
        }
    }
}

fn schemas(section: &mut TableReader<'_>) -> Schemas {
    let all =
        section.take("schema").and_then(|value| compile(section, &section.key("schema"), value));
    let mut by_type = HashMap::new();
    if let Some(table) = section.table("schemas") {
        let key = section.key("schemas");
        let table = table.into_entries();
        if table.len() > MAX_TYPES {
            section.report().add(&key, format!("must be at most {MAX_TYPES} types"));
        }
        for (kind, value) in table {
            let key = child(&key, &kind);
            let valid = words(&key, vec![kind.as_str().into()], section.report(), event_type);
            if let Some(validator) = compile(section, &key, value)
                && !valid.is_empty()
            {
                by_type.insert(kind, validator);
            }
        }
    }
    Schemas::new(all, by_type)
}

fn compile(
    section: &TableReader<'_>,
    key: &str,
    value: toml::Value,
) -> Option<jsonschema::Validator> {
    let compiled = to_json(value).and_then(|schema| match schema {
        serde_json::Value::Object(_) => schema::compile(&schema),
        _ => Err("must be a table: a JSON Schema".to_owned()),
    });
    compiled.map_err(|reason| section.report().add(key, reason)).ok()
}

fn to_json(value: toml::Value) -> Result<serde_json::Value, String> {
    use serde_json::Value as Json;
    use toml::Value as Toml;
    Ok(match value {
        Toml::String(text) => Json::String(text),
        Toml::Integer(number) => Json::from(number),
        Toml::Boolean(truth) => Json::Bool(truth),
        Toml::Float(number) => serde_json::Number::from_f64(number)
            .map(Json::Number)
            .ok_or("has a number that JSON cannot represent")?,
        Toml::Datetime(_) => {
            return Err("has a date, which JSON cannot represent; quote it".to_owned());
        }
        Toml::Array(list) => Json::Array(list.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Toml::Table(table) => {
            let entry = |(key, value)| Ok::<_, String>((key, to_json(value)?));
            Json::Object(table.into_iter().map(entry).collect::<Result<_, _>>()?)
        }
    })
}
