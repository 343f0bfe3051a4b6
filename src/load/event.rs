//! The events of sockets that an engine reports. Both engines and the code that drives them share the type.

/// An event of a socket.
pub enum Event<'a> {
    /// Bytes were received.
    Received(&'a [u8]),
    /// Everything that waited for room in the kernel's send buffer was sent.
    Room,
    /// The connection ended. The text is the reason.
    Ended(String),
}
