//! How many connections there may be, in all and from one address, and how many each shard has. Counted
//! for the whole process, and touched only when a connection comes and when it goes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::CloseReason;
use crate::server::Options;

/// The door of a server.
#[derive(Debug)]
pub struct Admission {
    connections_max: AtomicUsize,
    connections_per_ip_max: usize,
    open: AtomicUsize,
    open_by_shard: Box<[AtomicUsize]>,
    open_by_ip: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's leave to be; given back when it is dropped.
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

    /// The most connections that there may be at once.
    pub fn connections_max(&self) -> usize {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Lowers the limit of connections to `room`, if it is higher.
    pub fn limit_to(&self, room: usize) {
        self.connections_max.fetch_min(room, Ordering::Relaxed);
    }

    /// Lets a connection from `ip` in, to be one of `shard`'s.
    ///
    /// # Errors
    /// The limit that it would pass.
    pub fn admit(self: &Arc<Self>, ip: IpAddr, shard: usize) -> Result<Permit, CloseReason> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.connections_max() {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(CloseReason::ConnectionLimit);
        }
        // From here on the permit gives back what is counted, whatever happens.
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

    /// The shard that should have a connection rather than `shard`, which has counted it already: the one
    /// that has the fewest, if `shard` is ahead of it by more than an eighth.
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
    /// The connection is another shard's from now on.
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
            let open = open_by_ip.get_mut(&self.ip).expect("whoever has a permit is counted");
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

    fn admission(all: usize, per_ip: usize) -> Arc<Admission> {
        Admission::new(&Options { connections_max: Some(all), connections_per_ip_max: per_ip, ..Options::default() })
    }

    #[test]
    fn a_limit_holds_and_what_is_given_back_can_be_had_again() {
        let door = admission(3, 2);
        let first = door.admit(ONE, 0).unwrap();
        let _second = door.admit(ONE, 0).unwrap();
        for _ in 0..5 {
            assert_eq!(door.admit(ONE, 0).unwrap_err(), CloseReason::ConnectionLimitPerIp);
        }
        let _third = door.admit(OTHER, 0).unwrap();
        for _ in 0..5 {
            assert_eq!(door.admit(OTHER, 0).unwrap_err(), CloseReason::ConnectionLimit);
        }
        drop(first);
        let _fourth = door.admit(ONE, 0).unwrap();
    }

    #[test]
    fn whatever_limit_was_asked_for_descriptors_are_left_for_the_server() {
        for asked in [None, Some(0), Some(3), Some(100)] {
            let door = Admission::new(&Options { connections_max: asked, ..Options::default() });
            door.limit_to(2);
            let _inside = [door.admit(ONE, 0).unwrap(), door.admit(ONE, 0).unwrap()];
            assert_eq!(door.admit(ONE, 0).unwrap_err(), CloseReason::ConnectionLimit, "{asked:?}");
        }
        let door = admission(1, 0);
        door.limit_to(2);
        assert_eq!(door.connections_max(), 1);
    }

    #[test]
    fn zero_is_no_limit_and_nobody_is_remembered() {
        let door = admission(0, 0);
        let permits: Vec<_> = (0..1000).map(|_| door.admit(ONE, 0).unwrap()).collect();
        drop(permits);
        assert!(admission(0, 1).admit(ONE, 0).is_ok());
        let door = admission(0, 5);
        drop(door.admit(ONE, 0).unwrap());
        assert!(door.open_by_ip().is_empty());
    }

    #[test]
    fn connections_are_moved_where_few_are_and_not_for_little() {
        let door = Admission::new(&Options { shards: 2.try_into().unwrap(), ..Options::default() });
        let mut permits = Vec::new();
        // All of them come to one shard.
        for _ in 0..8 {
            let mut permit = door.admit(ONE, 0).unwrap();
            if let Some(better) = door.better_than(0) {
                permit.move_to(better);
            }
            permits.push(permit);
        }
        let on = |shard| permits.iter().filter(|permit: &&Permit| permit.shard == shard).count();
        assert_eq!((on(0), on(1)), (4, 4));
        for _ in 0..100 {
            permits.push(door.admit(ONE, 0).unwrap());
            permits.push(door.admit(ONE, 1).unwrap());
        }
        let _one_more = door.admit(ONE, 0).unwrap();
        let _another = door.admit(ONE, 0).unwrap();
        assert_eq!(door.better_than(0), None, "106 against 104 are even");
        permits.clear();
        assert_eq!(door.better_than(1), None);
        assert_eq!(door.better_than(0), Some(1), "2 against none");
    }
}
