//! The wall clock and the boot time of a simulated host. They belong to the thread that simulates it.
//!
//! The true time passes with tokio's paused clock. The wall clock shows it with an error that may change at any moment.

use std::cell::Cell;
use std::time::Instant;

/// The clocks of a simulated host.
#[derive(Debug, Clone, Copy)]
struct HostClock {
    /// When the simulation began.
    began: Instant,
    /// How far the wall clock is ahead of the true time, in nanoseconds.
    ahead: i128,
    /// The number of the boot.
    boot: u128,
    /// When the host booted.
    booted: Instant,
}

thread_local! {
    static CLOCK: Cell<Option<HostClock>> = const { Cell::new(None) };
}

/// Begins a simulation on this thread. The host has just booted, and its wall clock is right.
pub fn begin() {
    let now = now();
    CLOCK.set(Some(HostClock { began: now, ahead: 0, boot: 1, booted: now }));
}

/// Ends the simulation: the thread has the real clocks again.
pub fn end() {
    CLOCK.set(None);
}

/// Sets the wall clock to the true time and this many nanoseconds.
pub fn set_ahead(nanos: i128) {
    CLOCK.set(CLOCK.get().map(|clock| HostClock { ahead: nanos, ..clock }));
}

/// Boots the host again.
pub fn reboot() {
    CLOCK.set(CLOCK.get().map(|clock| HostClock { boot: clock.boot + 1, booted: now(), ..clock }));
}

/// Returns the time of the simulated wall clock, in nanoseconds since 1970, or `None` without a simulation.
pub fn wall_nanos() -> Option<u64> {
    let clock = CLOCK.get()?;
    let truth = i128::from(BEGINNING) + (now() - clock.began).as_nanos() as i128;
    Some((truth + clock.ahead).max(0) as u64)
}

/// Returns the number of the simulated boot and the nanoseconds since then, or `None` without a simulation.
pub fn boot_time() -> Option<(u128, u64)> {
    let clock = CLOCK.get()?;
    Some((clock.boot, (now() - clock.booted).as_nanos() as u64))
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The true time at which each simulation begins: in 2027.
const BEGINNING: u64 = 57 * 365 * 86_400 * 1_000_000_000;
