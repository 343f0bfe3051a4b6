//! Accepting connections: the listeners, how many connections are allowed, and the descriptors that they need.
//!
//! This module knows nothing of frames, memory or sinks.

pub mod admission;
pub mod descriptors;
pub mod listener;
pub mod spare_descriptor;
