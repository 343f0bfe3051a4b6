//! Measures a round trip over loopback to a real server with one shard: one SUBMIT, and 64 pipelined SUBMITs.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZeroUsize;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::proto::{ACK_LEN, Id, Kind};
use ringpost::server::{Listen, Options, Server, SinkOptions};

fn loopback(criterion: &mut Criterion) {
    let address = Listen::Address("127.0.0.1:0".parse().unwrap());
    let options = Options::default().listen([address]).shards(NonZeroUsize::MIN).sink(SinkOptions::Discard);
    let server = Server::start(options).expect("a server starts");
    let mut stream = TcpStream::connect(server.addresses()[0]).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut group = criterion.benchmark_group("loopback");
    for pipelined in [1, 64] {
        let mut frames = Vec::new();
        for number in 0..pipelined {
            Kind::Submit.encode(Id::from_number(number), &[7; 32], &mut frames);
        }
        let mut acks = vec![0; pipelined as usize * ACK_LEN];
        group.throughput(Throughput::Elements(pipelined));
        group.bench_function(BenchmarkId::new("round_trip", pipelined), |bencher| {
            bencher.iter(|| {
                stream.write_all(&frames).unwrap();
                stream.read_exact(&mut acks).unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, loopback);
criterion_main!(benches);
