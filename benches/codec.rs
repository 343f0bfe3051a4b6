//! Measures the frame reader in frames and bytes per second, compared with a memcpy of the same bytes, which is the
//! least that reading them could cost.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::proto::{FrameReader, Id, Kind};

const STREAM_LEN: usize = 64 << 10;

fn stream(payload_len: usize) -> (Vec<u8>, u64) {
    let (mut bytes, mut frames) = (Vec::new(), 0);
    while bytes.len() + 13 + payload_len <= STREAM_LEN {
        Kind::Submit.encode(Id::from_number(frames), &vec![7; payload_len], &mut bytes);
        frames += 1;
    }
    (bytes, frames)
}

fn codec(criterion: &mut Criterion) {
    for payload_len in [0, 32, 256, 16 << 10] {
        let (bytes, frames) = stream(payload_len);
        let reader = FrameReader::new(Kind::COMMANDS, 1 << 20);
        let mut copy = vec![0; bytes.len()];

        let mut group = criterion.benchmark_group("codec/frames");
        group.throughput(Throughput::Elements(frames));
        group.bench_function(BenchmarkId::new("read", payload_len), |bencher| {
            bencher.iter(|| count(&reader, black_box(&bytes)));
        });
        group.finish();

        let mut group = criterion.benchmark_group("codec/bytes");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("read", payload_len), |bencher| {
            bencher.iter(|| count(&reader, black_box(&bytes)));
        });
        group.bench_function(BenchmarkId::new("memcpy", payload_len), |bencher| {
            bencher.iter(|| copy.copy_from_slice(black_box(&bytes)));
        });
        group.finish();
    }
}

fn count(reader: &FrameReader, mut input: &[u8]) -> usize {
    let mut len = 0;
    while let Ok(Some(frame)) = reader.next(&mut input) {
        len += frame.body.len();
    }
    len
}

criterion_group!(benches, codec);
criterion_main!(benches);
