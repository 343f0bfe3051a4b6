//! The number of connections: the limits in total and per address, and how many each shard has.
//!
//! The numbers are counted for the whole process. They change only when a connection is accepted and when it ends, not
//! on the path of a request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::CloseReason;
use crate::server::options::Options;

/// The connections of a server, and their limits.
#[derive(Debug)]
pub struct Admission {
    connections_max: AtomicUsize,
    connections_per_ip_max: usize,
    open: AtomicUsize,
    open_by_shard: Box<[AtomicUsize]>,
    open_by_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// The permit of one connection. It is returned when it is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    ip: IpAddr,
    shard: usize,
}

impl Admission {
    /// Returns an admission without any connection, with the limits of `config`. [`Self::limit_to`] adds the limit that
    /// descriptors set.
    pub fn new(config: &Options) -> Arc<Self> {
        let unless_off = |limit| if limit == 0 { usize::MAX } else { limit };
        Arc::new(Admission {
            connections_max: config.connections_max.map_or(usize::MAX, unless_off).into(),
            connections_per_ip_max: unless_off(config.connections_per_ip_max),
            open: AtomicUsize::new(0),
            open_by_shard: (0..config.shards.get()).map(|_| AtomicUsize::new(0)).collect(),
            open_by_ip: Mutex::default(),
        })
    }

    /// Returns the maximum number of open connections.
    pub fn connections_max(&self) -> usize {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Lowers the maximum number of open connections to `room`, if it is higher.
    pub fn limit_to(&self, room: usize) {
        self.connections_max.fetch_min(room, Ordering::Relaxed);
    }

    /// Admits a connection from `ip` to `shard`.
    ///
    /// # Errors
    /// The limit that the connection would exceed.
    pub fn admit(self: &Arc<Self>, ip: IpAddr, shard: usize) -> Result<Permit, CloseReason> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.connections_max() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(CloseReason::ConnectionLimit);
        }
        // From here on, dropping the permit undoes what is counted.
        self.open_by_shard[shard].fetch_add(1, Ordering::Relaxed);
        let permit = Permit { admission: self.clone(), ip, shard };
        if self.counts_by_ip() {
            let mut open_by_ip = self.open_by_ip();
            let open = open_by_ip.entry(ip).or_default();
            *open += 1;
            if *open > self.connections_per_ip_max {
                return Err(CloseReason::ConnectionLimitPerIp);
            }
        }
        Ok(permit)
    }

    /// Returns the shard that should have a connection instead of `shard`, which has counted it already: the shard with
    /// the fewest connections, if `shard` has more than that by over an eighth.
    pub fn better_than(&self, shard: usize) -> Option<usize> {
        let open = |shard: usize| self.open_by_shard[shard].load(Ordering::Relaxed);
        let least = (0..self.open_by_shard.len()).min_by_key(|other| open(*other))?;
        let fewest = open(least);
        (open(shard) > fewest + 1 + fewest / 8).then_some(least)
    }

    fn counts_by_ip(&self) -> bool {
        self.connections_per_ip_max != usize::MAX
    }

    fn open_by_ip(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open_by_ip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Counts the connection for another shard from now on.
    pub fn move_to(&mut self, shard: usize) {
        let open = &self.admission.open_by_shard;
        open[shard].fetch_add(1, Ordering::Relaxed);
        open[self.shard].fetch_sub(1, Ordering::Relaxed);
        self.shard = shard;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let admission = &self.admission;
        admission.open.fetch_sub(1, Ordering::Relaxed);
        admission.open_by_shard[self.shard].fetch_sub(1, Ordering::Relaxed);
        if admission.counts_by_ip() {
            let mut open_by_ip = admission.open_by_ip();
            let open = open_by_ip.get_mut(&self.ip).expect("a connection with a permit is counted");
            *open -= 1;
            if *open == 0 {
                open_by_ip.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));

    fn limited_to(all: usize, per_ip: usize) -> Arc<Admission> {
        Admission::new(&Options { connections_max: Some(all), connections_per_ip_max: per_ip, ..Options::default() })
    }

    #[test]
    fn a_limit_holds_and_a_returned_permit_can_be_used_again() {
        let admission = limited_to(3, 2);
        let first = admission.admit(ONE, 0).unwrap();
        let _second = admission.admit(ONE, 0).unwrap();
        for _ in 0..5 {
            assert_eq!(admission.admit(ONE, 0).unwrap_err(), CloseReason::ConnectionLimitPerIp);
        }
        let _third = admission.admit(OTHER, 0).unwrap();
        for _ in 0..5 {
            assert_eq!(admission.admit(OTHER, 0).unwrap_err(), CloseReason::ConnectionLimit);
        }
        drop(first);
        let _fourth = admission.admit(ONE, 0).unwrap();
    }

    #[test]
    fn descriptors_are_left_for_the_server_whatever_limit_was_configured() {
        for asked in [None, Some(0), Some(3), Some(100)] {
            let admission = Admission::new(&Options { connections_max: asked, ..Options::default() });
            admission.limit_to(2);
            let _inside = [admission.admit(ONE, 0).unwrap(), admission.admit(ONE, 0).unwrap()];
            assert_eq!(admission.admit(ONE, 0).unwrap_err(), CloseReason::ConnectionLimit, "{asked:?}");
        }
        let admission = limited_to(1, 0);
        admission.limit_to(2);
        assert_eq!(admission.connections_max(), 1);
    }

    #[test]
    fn zero_is_no_limit_and_no_address_is_remembered() {
        let admission = limited_to(0, 0);
        let permits: Vec<_> = (0..1000).map(|_| admission.admit(ONE, 0).unwrap()).collect();
        drop(permits);
        assert!(limited_to(0, 1).admit(ONE, 0).is_ok());
        let admission = limited_to(0, 5);
        drop(admission.admit(ONE, 0).unwrap());
        assert!(admission.open_by_ip().is_empty());
    }

    #[test]
    fn connections_move_to_the_shard_with_fewest_but_not_for_a_small_difference() {
        let admission = Admission::new(&Options { shards: 2.try_into().unwrap(), ..Options::default() });
        let mut permits = Vec::new();
        // The kernel gives all of them to one shard.
        for _ in 0..8 {
            let mut permit = admission.admit(ONE, 0).unwrap();
            if let Some(better) = admission.better_than(0) {
                permit.move_to(better);
            }
            permits.push(permit);
        }
        let on = |shard| permits.iter().filter(|permit: &&Permit| permit.shard == shard).count();
        assert_eq!((on(0), on(1)), (4, 4));
        for _ in 0..100 {
            permits.push(admission.admit(ONE, 0).unwrap());
            permits.push(admission.admit(ONE, 1).unwrap());
        }
        let _one_more = admission.admit(ONE, 0).unwrap();
        let _another = admission.admit(ONE, 0).unwrap();
        assert_eq!(admission.better_than(0), None, "106 and 104 are even enough");
        permits.clear();
        assert_eq!(admission.better_than(1), None);
        assert_eq!(admission.better_than(0), Some(1), "2 and 0 are not");
    }
}
