//! Decompression bombs: many at once, nested, and in many frames. `compression.rs` tests the exact
//! bounds.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::join_all;

use super::*;

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn brotli(body: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    let parameters =
        brotli::enc::BrotliEncoderParams { quality: 5, lgwin: 24, ..Default::default() };
    brotli::BrotliCompress(&mut &*body, &mut encoded, &parameters).unwrap();
    encoded
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decompression_bombs_are_refused_in_bounded_memory() {
    let stack = Stack::builder().workers(0).start().await;
    let large = vec![b' '; 64 << 20];
    let bombs: Vec<(&str, &str, Vec<u8>, u16)> = vec![
        ("gzip", "gzip", gzip(&large), 413),
        ("zstd", "zstd", zstd::bulk::compress(&large, 3).unwrap(), 413),
        ("brotli", "br", brotli(&large), 413),
        ("gzip in many members", "gzip", gzip(b"").repeat(20_000), 400),
        ("gzip members of spaces", "gzip", gzip(&[b' '; 4000]).repeat(5_000), 413),
        (
            "zstd in many frames",
            "zstd",
            zstd::bulk::compress(&[b' '; 4000], 3).unwrap().repeat(5_000),
            413,
        ),
        // Ingress decodes one layer only. The inner gzip stream is not JSON.
        ("gzip in gzip", "gzip", gzip(&gzip(&large)), 400),
        (
            "zstd that skips",
            "zstd",
            [&b"\x50\x2a\x4d\x18\x08\0\0\0"[..], &[0; 8]].concat().repeat(20_000),
            400,
        ),
        // A frame header that declares a window of 2 GiB.
        ("zstd with a huge window", "zstd", b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00".to_vec(), 400),
    ];
    for (name, coding, bomb, status) in &bombs {
        let signed = sign::generic("acme", ACME_SECRET, bomb).header("content-encoding", coding);
        let forged = sign::generic("acme", "wrong", bomb).header("content-encoding", coding);
        let (started_at, sender) = (Instant::now(), stack.sender());
        let genuine = join_all((0..12).map(|_| sender.send(&signed)));
        let strange = join_all((0..12).map(|_| sender.send(&forged)));
        let (genuine, strange) = tokio::join!(genuine, strange);
        eprintln!("{name}: {} bytes, two dozen in {:?}", bomb.len(), started_at.elapsed());
        for answer in genuine {
            assert_eq!(answer.status, *status, "{name}: {}", answer.text);
        }
        for answer in strange {
            assert!([401, 413].contains(&answer.status), "{name}: {}", answer.text);
        }
    }
    assert_eq!(stack.unfinished("acme").await, 0);
    stack.sender().send(&event()).await.expect(202, "accepted");
    check_memory(&stack, 300);
}
