//! Serves from inside another program, and drains gracefully when standard input ends.
//!
//! ```sh
//! cargo run --no-default-features --features server --example embed_server -- 127.0.0.1:8888
//! ```

use std::env;
use std::error::Error;
use std::io;
use std::num::NonZeroUsize;
use std::thread;
use std::time::Duration;

use ringpost::server::Listen;
use ringpost::server::{Options, Server, SinkOptions};
use tokio::sync::oneshot;

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: embed_server ADDRESS:PORT")?.parse()?;
    let options = Options::default()
        .listen([Listen::Address(address)])
        .shards(NonZeroUsize::MIN)
        // Acks every message and discards it. `SinkOptions::Journal` acks a message once it is on disk.
        .sink(SinkOptions::Discard)
        .drain_timeout(Duration::from_secs(5));
    // Each shard runs on a thread of its own. When this returns, all of them accept connections.
    let mut server = Server::start(options)?;
    for address in server.addresses() {
        println!("listening on {address}");
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            () = input_ends() => {}
            // A shard that fails ends the server, whether or not this program asked for it.
            ended = server.stopped() => return ended,
        }
        // From now on no connection is accepted. Requests that have arrived are still acked.
        server.drain();
        server.stopped().await
    })?;
    println!("drained");
    Ok(())
}

/// Waits for the end of standard input, which only a thread can wait for.
async fn input_ends() {
    let (sender, receiver) = oneshot::channel();
    thread::spawn(move || {
        // An error ends the input too.
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        let _ = sender.send(());
    });
    let _ = receiver.await;
}
