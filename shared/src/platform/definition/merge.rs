//! Merges a definition with the one that it is based on.
//!
//! # Guarantees
//!
//! - Tables are merged key by key, and all other values are replaced
//!   (`tables_are_merged_and_other_values_replaced`).
//! - `false` removes a key, unless the key takes a boolean
//!   (`false_removes_a_key_unless_it_is_a_switch`).
//! - A change of the signature scheme, the event type pointer or an effect drops the inherited keys
//!   that depend on it (`other_scheme_drops_the_inherited_signature`,
//!   `other_type_pointer_drops_the_inherited_body_shape`,
//!   `effect_merges_with_its_kind_and_replaces_another`).

use toml::{Table, Value};

/// Keys that a platform does not inherit from its preset: names, switches and secrets.
const NOT_INHERITED: [&str; 6] =
    ["aliases", "label", "secrets", "credentials", "enabled", "paused"];

/// Keys that describe the body in which `event.type` is found.
const BODY_SHAPE_KEYS: [&str; 4] = ["batch", "schema", "schemas", "platform"];

/// Turns a bundled definition into a preset of another platform.
pub(super) fn as_preset(mut base: Table) -> Table {
    for key in NOT_INHERITED {
        base.remove(key);
    }
    base
}

/// Merges the definition `over` into `base`.
pub(super) fn definition(mut base: Table, over: Table) -> Table {
    if let Some(over) = table(&over, "signature")
        && let Some(scheme) = over.get("scheme")
        && table(&base, "signature").and_then(|base| base.get("scheme")) != Some(scheme)
    {
        base.remove("signature");
    }
    let other_type = table(&over, "event").and_then(|event| event.get("type"));
    if let Some(Value::Table(event)) = base.get_mut("event")
        && other_type.is_some_and(|kind| event.get("type") != Some(kind))
    {
        for key in BODY_SHAPE_KEYS {
            event.remove(key);
        }
    }
    if let (Some(Value::Table(base)), Some(over)) =
        (base.get_mut("effects"), table(&over, "effects"))
    {
        base.retain(|kind, old| {
            let new = over.get(kind).and_then(|new| new.get("effect"));
            new.is_none_or(|new| old.get("effect") == Some(new))
        });
    }
    merge_tables(&mut base, over, TableKind::Platform);
    base
}

fn table<'t>(of: &'t Table, key: &str) -> Option<&'t Table> {
    of.get(key).and_then(Value::as_table)
}

/// Kind of a table, which decides the meaning of `false` in it.
#[derive(Clone, Copy)]
enum TableKind {
    Platform,
    Event,
    /// Any other table, such as effects by type.
    Plain,
    /// JSON Schemas by event type.
    Schemas,
    /// A table inside a JSON Schema.
    Schema,
}

impl TableKind {
    fn of(self, key: &str) -> Self {
        match (self, key) {
            (Self::Platform, "event") => Self::Event,
            (Self::Event, "schemas") => Self::Schemas,
            (Self::Event, "schema") | (Self::Schemas | Self::Schema, _) => Self::Schema,
            _ => Self::Plain,
        }
    }

    /// Returns true if `key = false` is a value, not a removal.
    fn has_truth_value(self, key: &str) -> bool {
        match self {
            Self::Platform => matches!(key, "enabled" | "paused"),
            Self::Event => key == "repeatable",
            Self::Schema => true,
            Self::Plain | Self::Schemas => false,
        }
    }
}

fn merge_tables(base: &mut Table, over: Table, kind: TableKind) {
    for (key, value) in over {
        match value {
            Value::Boolean(false) if !kind.has_truth_value(&key) => {
                base.remove(&key);
            }
            Value::Table(above) => {
                let kind = kind.of(&key);
                let below = base.entry(key).or_insert_with(|| Value::Table(Table::new()));
                if !below.is_table() {
                    *below = Value::Table(Table::new());
                }
                if let Value::Table(below) = below {
                    merge_tables(below, above, kind);
                }
            }
            value => {
                base.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn merged(base: &str, over: &str) -> Table {
        definition(base.parse().unwrap(), over.parse().unwrap())
    }

    fn toml(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn tables_are_merged_and_other_values_replaced() {
        assert_eq!(
            merged(
                "a = [1, 2]\nb = 1\n[event]\nid = '/id'\ntime = '/t'",
                "a = [3]\n[event]\ntime = ['/x']"
            ),
            toml("a = [3]\nb = 1\n[event]\nid = '/id'\ntime = ['/x']")
        );
    }

    #[test]
    fn false_removes_a_key_unless_it_is_a_switch() {
        assert_eq!(
            merged(
                "enabled = true\n[effects]\na = {effect = 'log'}\nb = {effect = 'log'}\n[event]\n\
                 id = '/id'",
                "enabled = false\n[effects]\na = false\nc = false\n[event]\nid = false\n\
                 repeatable = false"
            ),
            toml("enabled = false\n[effects]\nb = {effect = 'log'}\n[event]\nrepeatable = false")
        );
    }

    #[test]
    fn switch_name_in_effects_is_an_event_type() {
        let effects = "[effects]\nenabled = {effect = 'log'}\nschema = {effect = 'log'}\n\
                       repeatable = {effect = 'log'}";
        assert_eq!(
            merged(effects, "[effects]\nenabled = false\nschema = false\nrepeatable = false"),
            toml("[effects]")
        );
    }

    #[test]
    fn table_replaces_a_value_and_a_value_a_table() {
        assert_eq!(merged("a = 1\nb = {c = 1}", "a = {c = 2}\nb = 1"), toml("a = {c = 2}\nb = 1"));
    }

    #[test]
    fn false_inside_a_schema_is_a_schema() {
        let event = "[event]\nschema = {additionalProperties = false, properties = {a = false}}";
        assert_eq!(merged("", event), toml(event));
        assert_eq!(
            merged("[event]\nschema = {required = ['x'], properties = {b = true}}", event),
            toml(
                "[event]\nschema = {additionalProperties = false, required = ['x'], \
                 properties = {a = false, b = true}}"
            )
        );
        assert_eq!(merged(event, "[event]\nschema = false"), toml("[event]"));
        let typed = "[event.schemas]\n'a.b' = {additionalProperties = false}\nc = {}";
        assert_eq!(merged("", typed), toml(typed));
        assert_eq!(
            merged(typed, "[event.schemas]\n'a.b' = {minProperties = 1}\nc = false"),
            toml("[event.schemas]\n'a.b' = {additionalProperties = false, minProperties = 1}")
        );
    }

    #[test]
    fn other_scheme_drops_the_inherited_signature() {
        let base = "[signature]\nscheme = 'hmac'\nprefix = 'sha256='\nheader = 'x'";
        assert_eq!(
            merged(base, "[signature]\nscheme = 'pairs'\nheader = 'y'"),
            toml("[signature]\nscheme = 'pairs'\nheader = 'y'")
        );
        assert_eq!(
            merged(base, "[signature]\nscheme = 'hmac'\nheader = 'y'"),
            toml("[signature]\nscheme = 'hmac'\nprefix = 'sha256='\nheader = 'y'")
        );
    }

    #[test]
    fn other_type_pointer_drops_the_inherited_body_shape() {
        let base = "[event]\ntype = '/event_type'\nplatform = '/platform'\ntime = '/t'\n\
                    batch = '/all'\nschema = {type = 'object'}";
        assert_eq!(
            merged(base, "[event]\ntype = '/kind'"),
            toml("[event]\ntype = '/kind'\ntime = '/t'")
        );
        assert_eq!(merged(base, "[event]\ntype = '/event_type'"), toml(base));
        assert_eq!(
            merged(base, "[event]\ntype = '/kind'\nschema = {required = ['kind']}"),
            toml("[event]\ntype = '/kind'\ntime = '/t'\nschema = {required = ['kind']}")
        );
    }

    #[test]
    fn effect_merges_with_its_kind_and_replaces_another() {
        let base = "[effects]\na = {effect = 'session.status', status = 'live'}";
        assert_eq!(
            merged(base, "[effects]\na = {effect = 'log'}"),
            toml("[effects]\na = {effect = 'log'}")
        );
        assert_eq!(
            merged(base, "[effects]\na = {set = {title = '/t'}}"),
            toml(
                "[effects]\na = {effect = 'session.status', status = 'live', set = {title = '/t'}}"
            )
        );
    }

    #[test]
    fn preset_passes_on_neither_names_nor_secrets() {
        let base = toml("aliases = ['a']\nsecrets = ['env:A']\nenabled = false\nrate_limit = 5");
        assert_eq!(as_preset(base), toml("rate_limit = 5"));
    }
}
