//! Measures the requests per second of a session, with encoded acks: the work of a server for one read, without the
//! read, the sink and the write.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::proto::{AckCodes, AckResult, Acks, Id, Kind, Session};

fn session(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("session");
    for pipelined in [1, 64, 1024] {
        let mut input = Vec::new();
        for number in 0..pipelined {
            Kind::Submit.encode(Id::from_number(number), &[7; 32], &mut input);
        }
        let mut session = Session::new(1 << 20);
        let mut acks = Acks::new(AckCodes::Spec);
        group.throughput(Throughput::Elements(pipelined));
        group.bench_function(BenchmarkId::new("receive", pipelined), |bencher| {
            bencher.iter(|| {
                let received = session.receive(black_box(&input), &mut acks, |submit| {
                    black_box(submit.payload);
                    AckResult::Success
                });
                let bytes = black_box(acks.take());
                acks.put_back(bytes);
                received.consumed
            });
        });
    }
    group.finish();
}

criterion_group!(benches, session);
criterion_main!(benches);
