//! The files of TLS: read at the start, and again at SIGHUP and whenever their contents change.
//!
//! Owns the decision when files are read, and what is reported about it. `tls` knows what makes them valid. Invariant:
//! whatever is wrong with new files, the server continues with those that it has.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::sync::Notify;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::options::Tls;
use crate::metrics::{ReloadResult, TlsFileFigures};
use crate::notify::Notifier;
use crate::server::TlsOptions;
use crate::tls::credentials::{Contents, Credentials, CurrentCredentials, Files};
use crate::tls::files::{FileError, FileFault};

/// Reads the files for the first time, and returns the options that they are for a server, and their contents.
///
/// # Errors
/// Something is wrong with a file.
pub fn load(tls: &Tls) -> Result<(TlsOptions, Loaded), FileError> {
    let contents = tls.files.read()?;
    let credentials = contents.verify(UnixTime::now())?;
    let certificate = tls.files.certificate.display();
    info!(%certificate, mode = ?tls.mode, client_certificates = tls.client_certificates(), "serving TLS");
    report(&credentials);
    let current = Arc::new(CurrentCredentials::new(credentials));
    let mut options = TlsOptions::new(current.clone());
    options.mode = tls.mode;
    options.handshake_timeout = tls.handshake_timeout;
    options.handshakes_max = tls.handshakes_max;
    Ok((options, Loaded { files: tls.files.clone(), contents, current }))
}

/// The files of TLS, their contents, and the credentials that they are.
pub struct Loaded {
    files: Files,
    contents: Contents,
    current: Arc<CurrentCredentials>,
}

/// Returns the directories that must stay readable, so that a file can be replaced: those that contain the files, both
/// as their paths are given and as symbolic links lead to them. A file in the root directory stands for itself, since
/// everything is below that directory.
pub fn directories(files: &Files) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = Vec::new();
    for path in files.paths() {
        for path in [Some(path.clone()), path.canonicalize().ok()].into_iter().flatten() {
            let directory = match path.parent() {
                Some(parent) if parent == Path::new("") => PathBuf::from("."),
                Some(parent) if parent.canonicalize().is_ok_and(|parent| parent != Path::new("/")) => parent.into(),
                _ => path,
            };
            if !directories.contains(&directory) {
                directories.push(directory);
            }
        }
    }
    directories
}

/// Reads the files again at each `hangup`, and when their contents have changed. Reports a reload that was asked for to
/// the service manager. Without files, a hangup is only answered. Cancel-safe.
pub async fn keep_current(
    mut loaded: Option<Loaded>,
    figures: Arc<TlsFileFigures>,
    notifier: Arc<Notifier>,
    hangup: Arc<Notify>,
) {
    if let Some(loaded) = &loaded {
        figures.set_expiry(loaded.current.get().facts.not_after.unix_seconds());
    }
    let interval = interval();
    // The thread of this call is kept, so that later calls do not need a new one.
    let _ = spawn_blocking(|| {}).await;
    let mut last_error = None;
    loop {
        let is_asked = tokio::select! {
            () = hangup.notified() => true,
            () = sleep(interval), if loaded.is_some() => false,
        };
        if is_asked {
            notifier.reloading();
        }
        match loaded.take() {
            None => info!("SIGHUP: there is nothing to reload without TLS: options are read only at the start"),
            Some(before) => match attempt(before, is_asked).await {
                Ok((outcome, after)) => {
                    conclude(outcome, is_asked, &mut last_error, &after, &figures);
                    loaded = Some(after);
                }
                Err(panic) => {
                    figures.failing.set(1);
                    error!("can't reload the TLS files until a restart: {panic}");
                }
            },
        }
        if is_asked {
            notifier.reloaded();
        }
    }
}

/// Reads the files on another thread. Returns whether they have replaced the previous ones, or what is wrong with them.
/// Files that can't be used are tried a second time, unless the reload was asked for: somebody may be replacing one
/// after the other.
async fn attempt(loaded: Loaded, is_asked: bool) -> Result<(Result<bool, FileError>, Loaded), JoinError> {
    let read = |mut loaded: Loaded| spawn_blocking(move || (loaded.reload(is_asked), loaded));
    let (outcome, loaded) = read(loaded).await?;
    if outcome.is_ok() || is_asked {
        return Ok((outcome, loaded));
    }
    sleep(SETTLING_TIME).await;
    read(loaded).await
}

impl Loaded {
    fn reload(&mut self, is_asked: bool) -> Result<bool, FileError> {
        let contents = self.files.read()?;
        if contents == self.contents && !is_asked {
            return Ok(false);
        }
        self.current.replace(contents.verify(UnixTime::now())?);
        self.contents = contents;
        Ok(true)
    }
}

/// Logs and counts the outcome of an attempt. An error that the previous attempt had too is reported only if the reload
/// was asked for.
fn conclude(
    outcome: Result<bool, FileError>,
    is_asked: bool,
    last_error: &mut Option<String>,
    loaded: &Loaded,
    figures: &TlsFileFigures,
) {
    figures.failing.set(outcome.is_err().into());
    match outcome {
        Ok(has_changed) => {
            if has_changed {
                figures.reloads.of(ReloadResult::Success).add(1);
                let credentials = loaded.current.get();
                figures.set_expiry(credentials.facts.not_after.unix_seconds());
                info!("reloaded the TLS files; new connections use them");
                report(&credentials);
            } else if last_error.is_some() {
                info!("the TLS files are again those in use");
            }
            *last_error = None;
        }
        Err(error) => {
            let text = error.to_string();
            if is_asked || last_error.as_ref() != Some(&text) {
                figures.reloads.of(ReloadResult::Failure).add(1);
                let hint = match error.fault {
                    FileFault::NotPermitted => {
                        ". If the file is in another directory than at the start, confinement (--confine) hides it: \
                         restart the server"
                    }
                    _ => "",
                };
                error!("can't reload the TLS files; the server continues with the previous ones: {text}{hint}");
            }
            *last_error = Some(text);
        }
    }
}

/// Logs the facts of a certificate, and a warning if it ends soon.
fn report(credentials: &Credentials) {
    let facts = &credentials.facts;
    info!(key = %facts.key, expires = %facts.not_after, sha256 = %credentials.fingerprint, "TLS certificate");
    let days = facts.not_after.unix_seconds().saturating_sub(UnixTime::now().as_secs() as i64) / SECONDS_OF_DAY;
    if days < EXPIRY_WARNING_DAYS {
        warn!(days, expires = %facts.not_after, "the TLS certificate expires soon; renew it");
    }
}

/// Returns the time between two looks at the files.
fn interval() -> Duration {
    #[cfg(feature = "test-hooks")]
    if let Some(interval) = crate::testing::tls_files::interval() {
        return interval;
    }
    INTERVAL
}

/// The number of days before a certificate's end from which on it is reported.
pub const EXPIRY_WARNING_DAYS: i64 = 14;
/// The time between two looks at the files. They are read whole, since a time says nothing if symbolic links are
/// replaced.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long changed files may disagree, while a tool replaces one after the other.
const SETTLING_TIME: Duration = Duration::from_secs(2);
const SECONDS_OF_DAY: i64 = 86_400;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn directories_are_those_of_the_path_and_of_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().canonicalize().unwrap().join(path);
        for made in ["archive/x", "live/x"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        for name in ["cert", "key"] {
            fs::write(at(&format!("archive/x/{name}1.pem")), "").unwrap();
            symlink(format!("../../archive/x/{name}1.pem"), at(&format!("live/x/{name}.pem"))).unwrap();
        }
        let files = Files::new(at("live/x/cert.pem"), at("live/x/key.pem"));
        assert_eq!(directories(&files), [at("live/x"), at("archive/x")]);
        assert_eq!(directories(&Files::new("missing.pem", "missing.key")), [Path::new(".")]);
        let in_root = directories(&Files::new("/missing.pem", "/../missing.key"));
        assert_eq!(in_root, [Path::new("/missing.pem"), Path::new("/../missing.key")], "not the whole file system");
    }
}
