#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use serde_json::Value as Model;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::*;

fn pointer(path: &str) -> Pointer {
    Pointer { segments: path.split('/').skip(1).map(str::to_owned).collect() }
}

fn hash(text: &str, ignore: &[&str]) -> [u8; 32] {
    let ignore: Vec<Pointer> = ignore.iter().map(|path| pointer(path)).collect();
    let mut state = Sha256::new();
    Document::parse(text.as_bytes())
        .unwrap()
        .canonical_hash_into(&mut |piece| state.update(piece), &ignore);
    state.finalize().into()
}

#[test]
fn values_are_found_as_written() {
    let text = r#" {"b": [ 1.50e+2 , {"x/y":"ü\n\u0041"}, null ], "a": -0, "": true, "e":{}} "#;
    let document = Document::parse(text.as_bytes()).unwrap();
    let at = |path: &str| document.find(&pointer(path));
    assert_eq!(at("/b/0").unwrap().value(), &Value::Number("1.50e+2"));
    assert_eq!(at("/a").unwrap().as_text().unwrap(), "-0");
    assert_eq!(at("/").unwrap().value(), &Value::Bool(true));
    let escaped = Pointer { segments: vec!["b".into(), "1".into(), "x/y".into()] };
    assert_eq!(document.find(&escaped).unwrap().as_str().unwrap(), "ü\nA");
    assert_eq!(document.find(&escaped).unwrap().raw(), r#""ü\n\u0041""#);
    assert_eq!(at("/b").unwrap().raw(), r#"[ 1.50e+2 , {"x/y":"ü\n\u0041"}, null ]"#);
    assert_eq!(document.root().raw(), text.trim());
    assert!(at("/b/2").unwrap().is_null() && at("/e").unwrap().as_text().is_none());
    for absent in ["/c", "/b/3", "/b/00", "/b/-", "/b/+1", "/a/0", "/b/18446744073709551616"] {
        assert_eq!(at(absent), None, "{absent}");
    }
}

#[test]
fn first_returns_the_first_value_that_is_not_null() {
    let document = Document::parse(br#"{"a":null,"b":"","c":1}"#).unwrap();
    let first = |paths: &[&str]| {
        let pointers: Vec<Pointer> = paths.iter().map(|path| pointer(path)).collect();
        document.first(&pointers).and_then(JsonNode::as_text).map(Cow::into_owned)
    };
    assert_eq!(first(&["/x", "/a", "/c", "/b"]).unwrap(), "1");
    assert_eq!(first(&["/b", "/c"]).unwrap(), "");
    assert_eq!(first(&["/a", "/x"]), None);
}

#[test]
fn duplicate_keys_are_refused_at_any_level_and_in_any_spelling() {
    for text in [
        r#"{"a":1,"a":1}"#,
        r#"{"a":1,"b":2,"\u0061":3}"#,
        r#"[[{"k":{"z":0,"y":0,"z":0}}]]"#,
        r#"{"":0,"":0}"#,
        r#"{"\ud83d\ude00":1,"😀":2}"#,
    ] {
        assert!(
            matches!(Document::parse(text.as_bytes()), Err(JsonError::DuplicateKey { .. })),
            "{text}"
        );
    }
    assert!(Document::parse(r#"{"a":{"a":1},"A":1}"#.as_bytes()).is_ok());
}

#[test]
fn nesting_is_bounded_where_serde_json_bounds_it() {
    for (open, close) in [("[", "]"), (r#"{"k":"#, "}")] {
        let nested = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
        for levels in [MAX_DEPTH, MAX_DEPTH + 1, 100_000] {
            let text = nested(levels);
            let model = serde_json::from_str::<Model>(&text);
            assert_eq!(Document::parse(text.as_bytes()).is_ok(), model.is_ok(), "{levels}");
        }
        assert_eq!(Document::parse(nested(MAX_DEPTH + 1).as_bytes()), Err(JsonError::TooDeep));
    }
}

#[test]
fn near_json_is_accepted_or_refused_as_serde_json_does() {
    let whole = [
        "",
        " ",
        "0",
        "-0",
        "01",
        "-01",
        "-",
        "--1",
        "+1",
        ".5",
        "1.",
        "1.e3",
        "1.5",
        "1e",
        "1e+",
        "1e-7",
        "1E+07",
        "1e5.5",
        "1.5e400",
        "0x1",
        "1_0",
        "1 2",
        "nul",
        "null",
        "nulll",
        "null,",
        "tru",
        "truE",
        "true false",
        "falsey",
        "NaN",
        "Infinity",
        "[",
        "]",
        "[]",
        "[ ]",
        "[,]",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1}",
        "[[]",
        "[]]",
        "{",
        "{}",
        "{ }",
        "{,}",
        "{'a'}",
        "{'a':}",
        "{'a':1,}",
        "{'a':1 'b':2}",
        "{'a' : 1 , 'b' : 2}",
        "{a:1}",
        "{1:1}",
        "{'a'1}",
        "{'a':1]",
        "{'a'::1}",
        "''",
        "'",
        "'\\\\'",
        "'\\''",
        "'\\x'",
        "'\\/\\b\\f\\n\\r\\t'",
        "'\\u12'",
        "'\\u12g4'",
        "'\\u00e9'",
        "'\\'",
        "'\\u'",
        "'a\nb'",
        "'a\tb'",
        "'\u{1f}'",
        "'\u{7f}'",
        "'\0'",
        "\0",
        "1\0",
        "[1]\0",
        "\u{feff}1",
        "\u{a0}1",
        "\u{c}1",
        "'\\\u{e9}'",
        "`a`",
        "/**/1",
        "1//",
    ];
    let mut texts: Vec<String> = whole.iter().map(|text| text.replace('\'', "\"")).collect();
    // Places each end of a string, and similar bytes, at each position in words of eight bytes.
    for before in 0..17 {
        for end in [
            "",
            "'",
            "\\",
            "\\n'",
            "\u{1f}'",
            " '",
            "!'",
            "#'",
            "['",
            "]'",
            "\u{a2}'",
            "\u{e9}'",
            "\u{1f600}'",
        ] {
            for filling in ["x", "\u{e9}", "\u{7f}"] {
                texts.push(format!("['{}{end},'y']", filling.repeat(before)).replace('\'', "\""));
            }
        }
    }
    for text in texts {
        let (ours, theirs) =
            (Document::parse(text.as_bytes()), serde_json::from_str::<&RawValue>(&text));
        match (&ours, &theirs) {
            (Ok(document), Ok(theirs)) => {
                assert_eq!(document.root().raw(), theirs.get(), "{text:?}")
            }
            (Err(JsonError::Syntax { line, column }), Err(error)) => {
                assert_eq!((*line, *column), (error.line(), error.column()), "{text:?}");
            }
            _ => panic!("{text:?}: {ours:?}, but {theirs:?}"),
        }
    }
}

#[test]
fn error_names_the_position() {
    assert_eq!(Document::parse(b"\xff"), Err(JsonError::NotUtf8));
    for form in ["payload=%7B%22a%22%3A1%7D", "a=1&b[]=2", "a="] {
        assert_eq!(Document::parse(form.as_bytes()), Err(JsonError::Form), "{form}");
    }
    let multipart = "--x\r\nContent-Disposition: form-data; name=\"payload\"\r\n\r\n{}\r\n--x--";
    assert_eq!(Document::parse(multipart.as_bytes()), Err(JsonError::Form));
    for markup in ["<feed/>", "\n<?xml version='1.0'?><a>b=c</a>"] {
        assert_eq!(Document::parse(markup.as_bytes()), Err(JsonError::Markup), "{markup}");
    }
    for other in ["=1", "a b=1", "hello", "{a=1}", "--x"] {
        assert!(
            matches!(Document::parse(other.as_bytes()), Err(JsonError::Syntax { .. })),
            "{other}"
        );
    }
    assert_eq!(Document::parse(b""), Err(JsonError::Syntax { line: 1, column: 0 }));
    assert_eq!(Document::parse(b"{\n\"a\":tru}"), Err(JsonError::Syntax { line: 2, column: 8 }));
    assert_eq!(Document::parse(br#"["\ud800"]"#), Err(JsonError::LoneSurrogate { at: 1 }));
    assert_eq!(Document::parse(br#"[{"a":1,"a":2}]"#), Err(JsonError::DuplicateKey { at: 1 }));
}

#[test]
fn canonical_form_differs_for_distinguishable_documents() {
    let texts = [
        r#"1"#,
        r#"1.0"#,
        r#"1e0"#,
        r#""1""#,
        r#"-0"#,
        r#"0"#,
        r#"null"#,
        r#""null""#,
        r#"true"#,
        r#"false"#,
        r#"[]"#,
        r#"{}"#,
        r#"[[]]"#,
        r#"[null]"#,
        r#"[1,2]"#,
        r#"[12]"#,
        r#"[[1],2]"#,
        r#"["a","b"]"#,
        r#"["ab"]"#,
        r#"{"a":1}"#,
        r#"{"a":"1"}"#,
        r#"{"a":{"b":1}}"#,
        r#"{"a":{},"b":1}"#,
        r#"["a",1]"#,
        r#"{"b":1,"a":{}, "c":null}"#,
        r#""a]""#,
    ];
    for (at, one) in texts.iter().enumerate() {
        for other in &texts[at + 1..] {
            assert_ne!(hash(one, &[]), hash(other, &[]), "{one} {other}");
        }
    }
    assert_eq!(
        hash(r#"{"b":[1 ,2],"a":"\u0041\/"}"#, &[]),
        hash(r#"{ "a" : "A/", "b":[1,2] }"#, &[])
    );
}

#[test]
fn ignored_members_do_not_change_the_canonical_form() {
    let base = hash(r#"{"a":1,"b":{"c":[1,3]}}"#, &[]);
    let ignore = ["/signature", "/b/at", "/b/c/1", "/x/y"];
    assert_eq!(hash(r#"{"signature":"s","a":1,"b":{"at":7,"c":[1,2,3]}}"#, &ignore), base);
    assert_ne!(hash(r#"{"signature":"s","a":1,"b":{"at":7,"c":[1,2,3]}}"#, &ignore[..2]), base);
    assert_ne!(hash(r#"{"a":1,"b":{"c":[1,3]},"at":7}"#, &ignore), base);
    assert_eq!(hash("1", &[""]), hash("2", &[""]));
}

/// Any JSON, with keys that collide often.
fn model() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        Just(Model::Null),
        any::<bool>().prop_map(Model::from),
        any::<i64>().prop_map(Model::from),
        prop::num::f64::NORMAL.prop_map(Model::from),
        any::<String>().prop_map(Model::from),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Model::from),
            prop::collection::vec(("[a-c]{1,2}|\\PC{0,3}", inner), 0..6)
                .prop_map(|members| Model::Object(members.into_iter().collect())),
        ]
    })
}

/// Writes the same value with members in another order and other white space.
fn respell(value: &Model, out: &mut String) {
    let list = |out: &mut String, open: char, pieces: Vec<String>, close: char| {
        out.push(open);
        out.push_str(&pieces.join(" ,\n"));
        out.push('\t');
        out.push(close);
    };
    let spell = |value: &Model| {
        let mut piece = String::from(" ");
        respell(value, &mut piece);
        piece
    };
    match value {
        Model::Array(items) => list(out, '[', items.iter().map(spell).collect(), ']'),
        Model::Object(members) => {
            let pieces = members
                .iter()
                .rev()
                .map(|(key, value)| format!("{} :{}", Model::from(key.as_str()), spell(value)));
            list(out, '{', pieces.collect(), '}');
        }
        leaf => out.push_str(&leaf.to_string()),
    }
}

/// Returns true if both trees have the same value.
fn same(node: &JsonNode<'_>, model: &Model) -> bool {
    match (node.value(), model) {
        (Value::Null, Model::Null) => true,
        (Value::Bool(one), Model::Bool(other)) => one == other,
        (Value::Number(lexeme), Model::Number(_)) => {
            serde_json::from_str::<Model>(lexeme).unwrap() == *model
        }
        (Value::String(one), Model::String(other)) => one == other,
        (Value::Array(items), Model::Array(others)) => {
            items.len() == others.len()
                && items.iter().zip(others).all(|(one, other)| same(one, other))
        }
        (Value::Object(members), Model::Object(others)) => {
            members.len() == others.len()
                && others
                    .iter()
                    .all(|(key, other)| node.get(key).is_some_and(|one| same(one, other)))
        }
        _ => false,
    }
}

/// Calls `change` on node number `at`, depth first. Returns the number of visited nodes.
fn visit(node: &mut Model, at: usize, change: &mut impl FnMut(&mut Model)) -> usize {
    if at == 0 {
        change(node);
        return 1;
    }
    let below: Vec<&mut Model> = match node {
        Model::Array(items) => items.iter_mut().collect(),
        Model::Object(members) => members.values_mut().collect(),
        _ => Vec::new(),
    };
    let mut seen = 1;
    for child in below {
        if seen > at {
            break;
        }
        seen += visit(child, at - seen, change);
    }
    seen
}

proptest! {
    #[test]
    fn document_tree_equals_that_of_serde_json(model in model()) {
        for text in [model.to_string(), serde_json::to_string_pretty(&model).unwrap()] {
            let document = Document::parse(text.as_bytes()).unwrap();
            let read: Model = serde_json::from_str(&text).unwrap();
            prop_assert!(same(document.root(), &read), "{}", text);
            prop_assert_eq!(document.root().raw(), &text);
        }
    }

    #[test]
    fn spelling_does_not_change_the_canonical_form(model in model()) {
        let mut other = String::new();
        respell(&model, &mut other);
        prop_assert_eq!(hash(&model.to_string(), &[]), hash(&other, &[]));
    }

    #[test]
    fn changed_value_changes_the_canonical_form(
        model in model(),
        at in any::<prop::sample::Index>(),
    ) {
        let mut other = model.clone();
        let nodes = visit(&mut other, usize::MAX, &mut |_| ());
        visit(&mut other, at.index(nodes), &mut |node| *node = Model::from(vec![node.take()]));
        prop_assert_ne!(hash(&model.to_string(), &[]), hash(&other.to_string(), &[]));
    }

    #[test]
    fn arbitrary_bytes_are_accepted_or_refused_as_serde_json_does(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "[\\[\\]{}\":,\\\\/ntrueflas0-9.eE+ u\n\td8]{0,24}".prop_map(String::into_bytes),
            (model(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(model, at, byte)| {
                let mut bytes = model.to_string().into_bytes();
                let at = at.index(bytes.len());
                bytes[at] = byte;
                bytes
            }),
        ]
    ) {
        let ours = Document::parse(&bytes);
        match serde_json::from_slice::<Model>(&bytes) {
            Ok(model) => match ours {
                Ok(document) => prop_assert!(same(document.root(), &model)),
                Err(error) => {
                    prop_assert!(matches!(error, JsonError::DuplicateKey { .. }), "{}", error);
                }
            },
            // A number out of the range of f64 is accepted here.
            Err(error) if error.to_string().starts_with("number out of range") => {}
            Err(_) => prop_assert!(ours.is_err()),
        }
    }
}
