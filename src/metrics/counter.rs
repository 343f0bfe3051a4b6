//! Counters that one thread changes and every thread can read.
//!
//! Owns the memory ordering. It must not know what is counted. Invariant: only the thread that owns a counter changes
//! it. So a plain load and store is enough, which costs 0.7 ns where a shared `fetch_add` costs 26. A reader may see
//! one counter change a moment before another.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use super::label::{Label, Unlabelled};

/// A number that one thread changes and any thread may read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`. Only the thread that owns the counter may call this.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// Subtracts `count` from a gauge. Only the thread that owns the gauge may call this.
    #[inline]
    pub fn subtract(&self, count: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
    }

    /// Sets a gauge. Only the thread that owns the gauge may call this.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Returns the current value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter for each value of a label.
#[derive(Debug)]
pub struct Counters<L, const N: usize> {
    counters: [Counter; N],
    label: PhantomData<fn(L)>,
}

impl<L, const N: usize> Default for Counters<L, N> {
    fn default() -> Self {
        Counters { counters: std::array::from_fn(|_| Counter::default()), label: PhantomData }
    }
}

impl<L: Label, const N: usize> Counters<L, N> {
    /// Returns the counter of one value of the label.
    #[inline]
    pub fn of(&self, value: L) -> &Counter {
        &self.counters[value.index()]
    }

    /// Returns all counters, in the order of [`Label::ALL`].
    pub fn all(&self) -> &[Counter] {
        &self.counters
    }

    /// Returns the sum over all values.
    pub fn sum(&self) -> u64 {
        self.counters.iter().map(Counter::get).sum()
    }

    /// Returns the counts that are not 0, with their names: `unknown_command=3 ...`.
    pub fn by_name(&self) -> String {
        let counted = L::ALL.iter().map(|value| (value.name(), self.of(*value).get())).filter(|(_, count)| *count > 0);
        counted.map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ")
    }
}

/// A metric without a label is a single counter.
impl std::ops::Deref for Counters<Unlabelled, 1> {
    type Target = Counter;

    fn deref(&self) -> &Counter {
        &self.counters[0]
    }
}
