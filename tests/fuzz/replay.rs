//! Runs the fuzz targets without a fuzzer: on the corpus, and on thousands of variations from fixed
//! seeds, so that every run is the same. `./tests/fuzz/run` searches for new inputs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "targets.rs"]
mod targets;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Number of variations per target.
const VARIATIONS: u64 = 4_000;

/// Deterministic random numbers (SplitMix64).
struct FuzzRng(u64);

impl FuzzRng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = std::fs::read_dir(folder().join(target))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Returns one of `seeds`, changed in a few places, partly with pieces of another one.
fn varied(seeds: &[Vec<u8>], rng: &mut FuzzRng) -> Vec<u8> {
    let mut bytes = seeds[rng.below(seeds.len())].clone();
    for _ in 0..1 + rng.below(6) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = rng.next() as u8,
            2 => bytes.insert(at, b"\"\\{}[]:,.-+eE0123456789=tv \n\xff\0"[rng.below(30)]),
            3 if at < bytes.len() => {
                let end = (at + 1 + rng.below(9)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let other = &seeds[rng.below(seeds.len())];
                let from = rng.below(other.len() + 1);
                let end = (from + rng.below(40)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            5 => bytes.truncate(at),
            _ => {
                let end = (at + rng.below(30)).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

#[test]
fn corpus_inputs_hold_every_property() {
    for (name, target) in targets::ALL {
        corpus(name).iter().for_each(|seed| target(seed));
    }
}

#[test]
fn varied_corpus_inputs_hold_every_property() {
    for (number, (name, target)) in targets::ALL.into_iter().enumerate() {
        let (seeds, mut rng) = (corpus(name), FuzzRng(number as u64));
        for _ in 0..VARIATIONS {
            target(&varied(&seeds, &mut rng));
        }
    }
}

/// Parsing a `Prefer` header of any form returns a number or nothing, and never panics.
#[test]
fn preferred_wait_takes_any_header() {
    let seeds: Vec<Vec<u8>> =
        [&b"wait=10"[..], b"respond-async, wait=100; foo", b"wait=\"5\"", b"a=\"\\\"\", WAIT = 3"]
            .map(<[u8]>::to_vec)
            .into();
    let mut rng = FuzzRng(7);
    for _ in 0..VARIATIONS * 4 {
        let value = varied(&seeds, &mut rng);
        let Ok(value) = actix_web::http::header::HeaderValue::from_bytes(&value) else { continue };
        let mut headers = actix_web::http::header::HeaderMap::new();
        headers.insert(actix_web::http::header::HeaderName::from_static("prefer"), value);
        let _: Option<u64> = ingress::preferred_wait(&headers);
    }
}

/// Returns a random JSON value.
fn value(rng: &mut FuzzRng, depth: usize) -> String {
    match rng.below(if depth == 0 { 5 } else { 8 }) {
        0 => ["null", "true", "false"][rng.below(3)].to_owned(),
        1 | 2 => number(rng),
        3 | 4 => text(rng),
        5 => {
            let items: Vec<String> = (0..rng.below(5)).map(|_| value(rng, depth - 1)).collect();
            format!("[{}]", items.join(" , "))
        }
        _ => {
            let members: Vec<String> = (0..rng.below(6))
                .map(|at| {
                    let key = match rng.below(4) {
                        0 => format!("\"{}\"", rng.next() % 200),
                        1 => format!("\"0{at}\""),
                        2 => format!("\"{}\"", rng.next()),
                        _ => format!("\"k{at}\\u00{:02x}\"", 0x20 + rng.below(0x5f)),
                    };
                    format!("{key}: {}", value(rng, depth - 1))
                })
                .collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

fn number(rng: &mut FuzzRng) -> String {
    let sign = if rng.below(2) == 0 { "-" } else { "" };
    let digits = |rng: &mut FuzzRng, most: usize| {
        (0..1 + rng.below(most)).map(|_| char::from(b'0' + rng.below(10) as u8)).collect::<String>()
    };
    match rng.below(5) {
        0 => format!("{sign}{}", rng.next() % 9_007_199_254_740_992),
        1 => format!("{sign}{}.{}", rng.below(1000), digits(rng, 20)),
        2 => format!("{sign}{}.{}e{}", rng.below(10), digits(rng, 18), rng.below(620) as i64 - 320),
        3 => format!("{sign}{}E+{}", rng.below(10), rng.below(30)),
        _ => format!("{sign}0.{}{}", "0".repeat(rng.below(12)), digits(rng, 6)),
    }
}

fn text(rng: &mut FuzzRng) -> String {
    let piece = |rng: &mut FuzzRng| match rng.below(7) {
        0 => format!("\\u{:04x}", rng.below(0xd800)),
        1 => format!("\\u{:04X}\\u{:04x}", 0xd800 + rng.below(0x400), 0xdc00 + rng.below(0x400)),
        2 => ["\\n", "\\t", "\\\"", "\\\\", "\\/", "\\b", "\\f", "\\r"][rng.below(8)].to_owned(),
        3 => char::from_u32(rng.below(0x11_0000) as u32)
            .filter(|c| *c >= ' ' && !"\"\\".contains(*c))
            .unwrap_or('x')
            .to_string(),
        _ => "a".repeat(rng.below(4)),
    };
    let pieces: Vec<String> = (0..rng.below(6)).map(|_| piece(rng)).collect();
    format!("\"{}\"", pieces.concat())
}

/// Compares payloads with `JSON.stringify(JSON.parse(x))` of Node.js, if it is installed.
///
/// Numbers beyond the range of a double are printed unchanged, so they are left out.
#[test]
fn payload_equals_json_stringify_of_ecmascript() {
    let script = "const lines=require('fs').readFileSync(0,'utf8').split('\\n').filter(x=>x);\
                  for(const l of lines)console.log(JSON.stringify(JSON.parse(l)))";
    let node = Command::new("node")
        .args(["-e", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut node) = node else {
        eprintln!("Node.js is not installed: payloads are not compared");
        return;
    };
    let mut rng = FuzzRng(11);
    // Numbers out of range are the only documented difference. Duplicate keys are refused.
    let is_comparable = |text: &String| {
        targets::printed(format!("{{\"data\":{{\"x\":{text}}}}}").as_bytes())
            .contains("\"data\":{\"x\":")
            && serde_json::from_str::<serde_json::Value>(text).is_ok()
    };
    let documents: Vec<String> =
        std::iter::repeat_with(|| value(&mut rng, 4)).filter(is_comparable).take(5_000).collect();
    let mut input = node.stdin.take().unwrap();
    let sent = documents.join("\n");
    let writer = std::thread::spawn(move || input.write_all(sent.as_bytes()));
    let output = node.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let printed: Vec<&str> = printed.lines().collect();
    assert_eq!(printed.len(), documents.len());
    for (document, expected) in documents.iter().zip(printed) {
        assert_eq!(targets::printed_data(document), expected, "of {document}");
    }
}
