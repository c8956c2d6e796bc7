//! OpenAPI 3.1 document: validates its structure and checks answers against it.

use std::collections::BTreeSet;
use std::sync::Mutex;

use jsonschema::Validator;
use serde_json::{Value, json};
use tests::sender::HttpAnswer;

/// Structure of OpenAPI 3.1 documents: JSON Schema of the OpenAPI Initiative (2022-10-07), Apache
/// License 2.0.
const OPENAPI: &str = include_str!("../../fixtures/openapi-3.1.schema.json");

/// Documented path, method and status (`202`, `2XX`) of an answer that was seen.
pub(super) type SeenAnswer = (String, String, String);

/// OpenAPI document and the answers that were seen.
pub(super) struct Description {
    /// Document as ingress serves it.
    pub(super) document: Value,
    /// Copy in which objects may have only documented members.
    strict: Value,
    seen: Mutex<BTreeSet<SeenAnswer>>,
    codes: Mutex<BTreeSet<String>>,
}

impl Description {
    pub(super) fn new(document: Value) -> Self {
        let mut strict = document.clone();
        for schema in strict["components"]["schemas"].as_object_mut().expect("schemas").values_mut()
        {
            if schema.get("properties").is_some() {
                let schema = schema.as_object_mut().expect("an object");
                schema.entry("additionalProperties").or_insert(false.into());
            }
        }
        Self { document, strict, seen: Mutex::default(), codes: Mutex::default() }
    }

    /// Checks the structure, the schemas, and each example against its schema.
    pub(super) fn is_valid(&self) {
        let structure = jsonschema::validator_for(&serde_json::from_str(OPENAPI).expect("JSON"))
            .expect("a schema");
        let faults: Vec<String> =
            structure.iter_errors(&self.document).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        let mut found = 0;
        self.examples(&self.document, &mut found);
        assert!(found > 50, "{found} examples");
    }

    fn examples(&self, node: &Value, found: &mut usize) {
        if let Some(schema) = node.get("schema") {
            jsonschema::meta::validate(schema).unwrap_or_else(|fault| panic!("{schema}: {fault}"));
            let named = node["examples"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(_, example)| &example["value"]);
            let schema_examples =
                schema.get("examples").and_then(Value::as_array).into_iter().flatten();
            for example in named.chain(node.get("example")).chain(schema_examples) {
                *found += 1;
                self.validate(schema, example).unwrap_or_else(|fault| panic!("{example}: {fault}"));
            }
        }
        match node {
            Value::Object(members) => {
                members.values().for_each(|member| self.examples(member, found))
            }
            Value::Array(items) => items.iter().for_each(|item| self.examples(item, found)),
            _ => {}
        }
    }

    fn validate(&self, schema: &Value, instance: &Value) -> Result<(), String> {
        let schema = json!({"allOf": [schema], "components": self.strict["components"]});
        let validator: Validator =
            jsonschema::validator_for(&schema).map_err(|fault| fault.to_string())?;
        let faults: Vec<String> = validator
            .iter_errors(instance)
            .map(|fault| format!("{}: {fault}", fault.instance_path()))
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
    }

    /// Documented path of `path`, and its methods. A literal segment takes precedence over a
    /// parameter.
    fn item(&self, path: &str) -> Option<(&str, &Value)> {
        let path = path.split('?').next().unwrap_or_default();
        let mut fitting: Vec<_> =
            self.items().filter(|(template, _)| fits(template, path)).collect();
        fitting.sort_by_key(|(template, _)| template.matches('{').count());
        fitting.first().copied()
    }

    /// Every path with its methods.
    pub(super) fn items(&self) -> impl Iterator<Item = (&str, &Value)> {
        let items = self.document["paths"].as_object().expect("paths").iter();
        items.map(|(template, item)| (template.as_str(), item))
    }

    /// Returns the programs that serve `method` `template`, by the first word of their server
    /// description. Returns `None` if the operation is not documented.
    pub(super) fn servers(&self, template: &str, method: &str) -> Option<Vec<String>> {
        let operation = self.document["paths"][template].get(method)?;
        let servers = operation["servers"].as_array().or(self.document["servers"].as_array())?;
        let audience =
            |server: &Value| server["description"].as_str()?.split(':').next().map(str::to_owned);
        Some(servers.iter().filter_map(audience).collect())
    }

    /// Checks that the answer to `method` `path` is documented, and records it as seen.
    #[track_caller]
    pub(super) fn check(&self, method: &str, path: &str, answer: &HttpAnswer) {
        let what = format!("{method} {path}: {} {}", answer.status, answer.text);
        let (template, item) = self.item(path).unwrap_or_else(|| panic!("no such path: {what}"));
        let operation = item.get(method).unwrap_or_else(|| panic!("no such method: {what}"));
        let exact = answer.status.to_string();
        let status = [exact.clone(), format!("{}XX", &exact[..1])];
        let status =
            status.iter().find(|status| operation["responses"].get(status.as_str()).is_some());
        let status = status.unwrap_or_else(|| panic!("no such status: {what}"));
        self.is_as_described(&operation["responses"][status], answer, &what);
        let seen = (template.to_owned(), method.to_owned(), status.clone());
        self.seen.lock().expect("a lock").insert(seen);
    }

    /// Checks `answer` against the entry `name` of `components/responses`.
    #[track_caller]
    pub(super) fn is_general(&self, name: &str, answer: &HttpAnswer) {
        let what = format!("{name}: {} {}", answer.status, answer.text);
        self.is_as_described(&self.document["components"]["responses"][name], answer, &what);
    }

    #[track_caller]
    fn is_as_described(&self, described: &Value, answer: &HttpAnswer, what: &str) {
        let kind = answer
            .header("content-type")
            .map(|kind| kind.split(';').next().unwrap_or_default().trim());
        match (&described["content"], kind) {
            (Value::Null, _) => assert!(answer.text.is_empty(), "a body: {what}"),
            (_, None) => assert!(answer.text.is_empty(), "no content type: {what}"),
            (content, Some(kind)) => {
                let schema =
                    content.get(kind).unwrap_or_else(|| panic!("{kind} is not described: {what}"));
                let text = Value::from(answer.text.as_str());
                let body = if kind == "application/json" { &answer.json } else { &text };
                self.validate(&schema["schema"], body)
                    .unwrap_or_else(|fault| panic!("{what}: {fault}"));
            }
        }
        if !answer.errcode().is_empty() {
            self.codes.lock().expect("a lock").insert(answer.errcode().to_owned());
        }
        let headers: BTreeSet<String> = described["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| name.to_lowercase())
            .collect();
        for header in ["retry-after", "www-authenticate", "allow", "preference-applied", "location"]
        {
            let is_sent = answer.header(header).is_some();
            assert!(!is_sent || headers.contains(header), "{header} is not described: {what}");
        }
        for always in
            ["www-authenticate", "allow"].into_iter().filter(|name| headers.contains(*name))
        {
            assert!(answer.header(always).is_some(), "{always} is described: {what}");
        }
    }

    /// Documented answers that were not seen.
    pub(super) fn unseen(&self) -> BTreeSet<SeenAnswer> {
        let seen = self.seen.lock().expect("a lock");
        let mut unseen = BTreeSet::new();
        for (template, item) in self.items() {
            for (method, operation) in item.as_object().expect("an item") {
                for status in operation["responses"].as_object().expect("answers").keys() {
                    unseen.insert((template.to_owned(), method.clone(), status.clone()));
                }
            }
        }
        unseen.retain(|one| !seen.contains(one));
        unseen
    }

    /// Documented error codes that were not seen.
    pub(super) fn unseen_codes(&self) -> BTreeSet<String> {
        let text = self.document.to_string();
        let named = text.split("\"errcode\":\"").skip(1).filter_map(|rest| rest.split('"').next());
        let seen = self.codes.lock().expect("a lock");
        named.filter(|code| !seen.contains(*code)).map(str::to_owned).collect()
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    let same = |(wanted, found): (&&str, &&str)| {
        wanted.starts_with('{') && !found.is_empty() || wanted == found
    };
    template.len() == path.len() && template.iter().zip(&path).all(same)
}
