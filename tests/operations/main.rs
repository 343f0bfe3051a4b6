//! An operator's view: options, the environment, logs, metrics, health, the admin address, `ringpost doctor`,
//! confinement, and the service manager.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod admin_page;
mod confinement;
mod doctor;
mod environment;
mod health_command;
mod internal_faults;
mod io_uring_refused;
mod metrics;
mod options;
mod releases;
mod system_calls;
mod systemd;
mod unprivileged;
mod unwritable_output;
mod user;
