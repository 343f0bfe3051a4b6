//! Temporary.
use std::sync::{Arc, Mutex};
/// Temporary.
#[derive(Debug)]
pub struct Credentials {
    /// Temporary.
    pub config: Arc<rustls::ServerConfig>,
}
/// Temporary.
#[derive(Debug)]
pub struct CurrentCredentials(Mutex<Arc<Credentials>>);
impl CurrentCredentials {
    /// Temporary.
    pub fn new(credentials: Credentials) -> Self {
        CurrentCredentials(Mutex::new(Arc::new(credentials)))
    }
    /// Temporary.
    pub fn get(&self) -> Arc<Credentials> {
        self.0.lock().unwrap().clone()
    }
}
