//! Publishing the durable position to readers.
//!
//! The task publishes the latest position, as often as [`PUBLISH_INTERVAL`] allows, and tries again after a failure.
//! Nothing depends on it but readers of a live writer and retention, which wait meanwhile.

use std::rc::Rc;
use std::time::Duration;

use tracing::warn;

use super::super::position::Durable;
use super::super::storage::Storage;
use super::writer_core::WriterCore;

/// Publishes what is durable until the writer closes.
pub async fn run<S: Storage>(core: Rc<WriterCore<S>>) {
    let (mut published, mut failing) = (Durable::default(), false);
    loop {
        if !failing {
            core.publish_work().await;
        }
        let (durable, closing) = (core.durable(), core.is_closing());
        if durable != published {
            match core.storage().publish(durable).await {
                Ok(()) => (published, failing) = (durable, false),
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(writer = %core.id(), %error, "cannot publish the position to readers; trying again");
                    }
                }
            }
        }
        if closing {
            return;
        }
        tokio::time::sleep(if failing { core.options().space_interval } else { PUBLISH_INTERVAL }).await;
    }
}

/// The shortest time between two publications of the durable position.
pub const PUBLISH_INTERVAL: Duration = Duration::from_millis(1);
