//! The announcements of a server once every shard accepts: lines on stdout, a message to the service manager, warnings.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::notify::{self, Notifier};
use crate::output::print;
use crate::server::{Listen, Server};

/// Writes the `listening on` lines. The server writes nothing else to stdout. If it can't write them, it serves all the
/// same, since a full disk under its logs is no reason to turn clients away.
pub async fn print_addresses(addresses: &[SocketAddr]) {
    let lines: String = addresses.iter().map(|address| format!("listening on {address}\n")).collect();
    // This uses a separate thread, since a full pipe would block the signals and the watchdog.
    let error = match timeout(PRINT_TIMEOUT, spawn_blocking(|| print(lines))).await {
        Ok(Ok(Ok(()))) => return,
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(panic)) => panic.to_string(),
        Err(_) => format!("can't write to stdout: nobody has read it for {PRINT_TIMEOUT:?}"),
    };
    warn!(?addresses, error, "serving without the `listening on` lines");
}

/// Notifies the service manager that every shard accepts, and from then on reports the health of the shards.
pub fn notify_ready(notifier: &Arc<Notifier>, server: &Server) {
    if notifier.is_connected() {
        let addresses: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
        notifier.ready(&format!("Listening on {}", addresses.join(", ")));
        tokio::spawn(notify::report(notifier.clone(), server.metrics().to_vec(), server.health()));
    }
}

/// Warns about each address that other hosts can reach.
pub fn warn_of_open_addresses(server: &Server) {
    for address in server.addresses() {
        if !address.ip().to_canonical().is_loopback() {
            warn!(%address, "listening beyond this host: every client that reaches this address may submit messages");
        }
    }
}

/// Logs that an explicit `[::]` accepts only IPv6, while the default address also accepts IPv4.
pub fn explain_ipv6_only(listen: &[Listen]) {
    for address in listen {
        let Listen::Address(address) = address else { continue };
        let every_ipv4 = Listen::Address((Ipv4Addr::UNSPECIFIED, address.port()).into());
        if address.ip() == Ipv6Addr::UNSPECIFIED && !listen.contains(&every_ipv4) {
            let port = address.port();
            info!("{address} accepts only IPv6: write --listen :{port} for both, or add --listen 0.0.0.0:{port}");
        }
    }
}

/// How long the server tries to write the `listening on` lines before it continues without them.
const PRINT_TIMEOUT: Duration = Duration::from_secs(1);
