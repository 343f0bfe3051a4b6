//! Submits each command-line argument as a message, keeps a window of them in flight, and reports every outcome.
//!
//! ```sh
//! cargo run --no-default-features --features client --example submit -- localhost:8888 one two three
//! ```

use std::collections::VecDeque;
use std::env;
use std::error::Error;
use std::time::Duration;

use ringpost::client::{self, Client, Options, Ticket};
use ringpost::proto::AckResult;
use tokio::time::Instant;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let addr = arguments.next().ok_or("usage: submit HOST:PORT MESSAGE...")?;
    let options = Options::default().window(WINDOW);
    let client = Client::connect(addr.as_str(), &options).await?;

    // Without deadlines, a server that stops reading or acking would hold this program up for as long as it likes.
    let deadline = Instant::now() + TIME_LIMIT;
    client.set_read_deadline(Some(deadline));
    client.set_write_deadline(Some(deadline));

    if let Err(error) = submit_all(&client, arguments).await {
        // The server may have accepted what was written, although no ack arrived. A program that sends those messages
        // again on a new connection delivers each at least once, and some of them twice.
        if let Some(unacked) = error.unacked() {
            eprintln!("perhaps accepted: {}; not accepted: {}", unacked.written, unacked.unwritten);
        }
        return Err(error.into());
    }
    // Waits for every ack that is still missing. There is none here, so this only closes the connection in order.
    client.finish().await?;
    Ok(())
}

/// Sends the messages. `send` returns as soon as a message is queued, so that acks do not delay the next message.
async fn submit_all(client: &Client, messages: impl Iterator<Item = String>) -> Result<(), client::Error> {
    let mut tickets: VecDeque<Ticket> = VecDeque::new();
    for message in messages {
        // `send` waits for room in the window by itself. This program also keeps its own memory bounded.
        if tickets.len() == WINDOW {
            report(&mut tickets).await?;
        }
        tickets.push_back(client.send(message.as_bytes()).await?);
    }
    while !tickets.is_empty() {
        report(&mut tickets).await?;
    }
    Ok(())
}

/// Waits for the ack of the oldest message and prints it.
async fn report(tickets: &mut VecDeque<Ticket>) -> Result<(), client::Error> {
    if let Some(mut ticket) = tickets.pop_front() {
        match ticket.wait().await? {
            AckResult::Success => println!("{}: accepted", ticket.id()),
            // The connection stays open: only this message was not stored. The server's log has the reason.
            AckResult::Failure => println!("{}: not accepted", ticket.id()),
        }
    }
    Ok(())
}

/// Messages in flight at the same time.
const WINDOW: usize = 64;
/// The limit on the time for all messages.
const TIME_LIMIT: Duration = Duration::from_secs(10);
