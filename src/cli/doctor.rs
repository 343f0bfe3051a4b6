//! What can be typed behind `ringpost doctor`.

use clap::Args;

use super::Serve;

/// Options of `ringpost doctor`: those of `serve`, which is what it is about.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Write the findings as JSON
    #[arg(long, env = "RINGPOST_DOCTOR_JSON")]
    pub json: bool,
    #[command(flatten)]
    pub serve: Serve,
}
