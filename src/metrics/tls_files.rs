//! Figures about the files of TLS, which no shard reads.

use super::counter::{Counter, Counters};
use super::label::ReloadResult;

/// Figures about the files of TLS. One task changes them.
#[derive(Debug, Default)]
pub struct TlsFileFigures {
    /// The end of the certificate in seconds since 1970, or 0 without a certificate.
    expiry: Counter,
    /// Attempts to use changed files.
    pub reloads: Counters<ReloadResult, 2>,
    /// 1 if the present files can't be used, so that the server continues with the previous ones.
    pub failing: Counter,
}

impl TlsFileFigures {
    /// Sets the end of the certificate in seconds since 1970.
    pub fn set_expiry(&self, seconds: i64) {
        self.expiry.set(seconds.max(1) as u64);
    }

    /// Returns the end of the certificate in seconds since 1970. It is infinite without a certificate, so that no alert
    /// about it fires.
    pub(super) fn expiry(&self) -> f64 {
        match self.expiry.get() {
            0 => f64::INFINITY,
            seconds => seconds as f64,
        }
    }
}
