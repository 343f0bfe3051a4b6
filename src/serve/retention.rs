//! The task that keeps a journal within its limits while the server runs.

use std::path::PathBuf;

use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::journal::dir::{self, RECLAIM_DELAY};
use crate::journal::moment::Moment;
use crate::journal::retention::{Enforcer, INTERVAL, Retention};

/// Frees space that dead writers have not used, and then removes old segments of the journal at regular intervals.
pub async fn tend(retention: Retention, data_dir: PathBuf) {
    sleep(RECLAIM_DELAY).await;
    let dir = data_dir.clone();
    match spawn_blocking(move || dir::reclaim(&dir)).await {
        Ok(Ok(bytes)) if bytes > 0 => info!(bytes, "freed space that earlier writers had preallocated and not used"),
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!("can't free space that earlier writers have not used: {error}"),
        Err(panic) => warn!("panic while freeing space that earlier writers have not used: {panic}"),
    }
    if !retention.is_off() {
        remove_old_segments(Enforcer::new(retention, data_dir)).await;
    }
}

async fn remove_old_segments(mut enforcer: Enforcer) {
    let mut last_error = None;
    loop {
        let enforced = spawn_blocking(move || (enforcer.enforce(Moment::now()), enforcer)).await;
        let (removed, returned) = match enforced {
            Ok(enforced) => enforced,
            // The next attempt would panic as well.
            Err(panic) => return error!("can't remove old segments of the journal until a restart: {panic}"),
        };
        enforcer = returned;
        last_error = match removed {
            Ok(removed) => {
                if removed.segments > 0 {
                    info!(segments = removed.segments, bytes = removed.bytes, "removed old segments of the journal");
                }
                None
            }
            Err(error) => {
                let error = Some(error.to_string());
                if error != last_error {
                    warn!(error, "can't look for old segments of the journal; will try again");
                }
                error
            }
        };
        sleep(INTERVAL).await;
    }
}
