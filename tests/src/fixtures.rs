//! Request bodies from the fixtures, as the providers' guides show them.

use serde_json::Value;

/// Returns the body of the fixture `name` of `platform`.
///
/// # Panics
/// If there is no such fixture.
#[must_use]
pub fn body(platform: &str, name: &str) -> String {
    let path = format!("{}/fixtures/{platform}/requests.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let file: Value = serde_json::from_str(&text).expect("JSON");
    let requests = file["requests"].as_array().expect("requests");
    let found = requests.iter().find(|request| request["name"] == name);
    found
        .and_then(|request| request["body"].as_str())
        .unwrap_or_else(|| panic!("{path}: no {name}"))
        .to_owned()
}
