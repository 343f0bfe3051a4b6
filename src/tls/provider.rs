//! The cryptography of both ends.
//!
//! Every configuration names its provider. The process has no default one, which another package could have chosen.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider};

/// Returns aws-lc-rs with its defaults, except that AES-128-GCM comes first: it is as safe as AES-256-GCM, and costs
/// less.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = default_provider();
    let first = |suite: &rustls::SupportedCipherSuite| {
        let cheapest = [
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        ];
        !cheapest.contains(suite)
    };
    provider.cipher_suites.sort_by_key(first);
    Arc::new(provider)
}
