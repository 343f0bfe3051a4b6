//! The takeover channel survives every stream of bytes and descriptors: it neither panics nor leaves a descriptor open.
//!
//! The input is a list of writes: a byte with the number of descriptors (modulo 4), a byte with the length, and the
//! bytes. The first byte of the input chooses the reader: the channel alone, or a server that takes over.
#![no_main]

use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringpost::internal::{Predecessor, TakeoverChannel};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

fuzz_target!(|input: &[u8]| {
    let Some((reader, input)) = input.split_first() else { return };
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (passed, other_end) = UnixStream::pair().unwrap();
    send_all(&ours, input, &passed);
    // The reader sees the end of the stream instead of waiting, and its answers still have a receiver.
    ours.shutdown(Shutdown::Write).unwrap();
    let mut channel = TakeoverChannel::new(theirs, Duration::from_secs(10));
    if reader % 2 == 0 {
        while channel.receive().is_ok() {}
        drop(channel);
    } else {
        drop(Predecessor::converse(channel));
    }
    drop(passed);
    // The end of the stream arrives once no copy of the passed descriptor is open.
    other_end.set_nonblocking(true).unwrap();
    assert_eq!((&other_end).read(&mut [0]).expect("a passed descriptor is still open"), 0);
});

/// Carries out the writes that `input` lists. Stops when the socket has no more room.
fn send_all(stream: &UnixStream, mut input: &[u8], passed: &UnixStream) {
    while let [descriptors, len, rest @ ..] = input {
        let (bytes, after) = rest.split_at(usize::from(*len).min(rest.len()));
        input = after;
        if bytes.is_empty() {
            continue;
        }
        let copies = vec![passed.as_fd(); usize::from(descriptors % 4)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(copies.is_empty() || control.push(SendAncillaryMessage::ScmRights(&copies)));
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        if sendmsg(stream, &[IoSlice::new(bytes)], &mut control, flags).is_err() {
            return;
        }
    }
}
