//! Listening sockets: one for each shard and address, in one SO_REUSEPORT group per address.
//!
//! Other processes can't join a group. Any process of the same user may join an address whose sockets all have
//! SO_REUSEPORT. A second server would then bind without an error and get half of the connections. So the first socket
//! binds and listens without SO_REUSEPORT, which fails if any other socket listens there. Only then is SO_REUSEPORT
//! set, and the other sockets join.
//!
//! Sockets may also come from elsewhere: from a server that is taken over, whose groups further sockets may join, or
//! from a supervisor ([`inherit`]). None of these is closed before the server ends, because that would reset the
//! connections in its backlog.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::engine::RawSocket;
use crate::net::{BindError, is_family_off};
use crate::server::listen_options::Listen;
use crate::server::options::Options;

/// The listeners of one address. If the server has bound them itself, there is one per shard, in order.
#[derive(Debug)]
pub struct Group {
    /// The address, with the port that the kernel chose for port 0.
    pub address: SocketAddr,
    /// The listening sockets.
    pub sockets: Vec<RawSocket>,
    /// Whether a supervisor has the sockets too.
    pub activated: bool,
}

/// Why listening sockets of another process can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// The configuration names other addresses.
    #[error(
        "the running server listens on {theirs:?}, but this one should listen on {ours:?}: use the same \
         --listen, or omit it to use the running server's addresses"
    )]
    Differ {
        /// The addresses of the other process.
        theirs: Vec<SocketAddr>,
        /// The configured addresses.
        ours: Vec<Listen>,
    },
    /// There are fewer sockets than shards, and no further socket can join them.
    #[error("can't add a listener on {address}: {source}. Use --workers {count}, the number of listeners that exist")]
    Join {
        /// The address of the listeners.
        address: SocketAddr,
        /// The number of listeners that exist.
        count: usize,
        /// The system's error.
        source: io::Error,
    },
    /// A socket is not a TCP socket with an IP address.
    #[error("can't use a listening socket of another process: {0}")]
    Unfit(io::Error),
}

/// Groups sockets that another process has bound. Each comes with whether a supervisor has it too (`activated`). New
/// sockets join the other groups until there is one for each shard. They do not listen before [`Group::listen`], so no
/// connection comes to them.
///
/// # Errors
/// The addresses are not those of the configuration, or a new socket can't join.
pub fn inherit(config: &Options, given: Vec<(bool, OwnedFd)>) -> Result<Vec<Group>, InheritError> {
    let mut groups: Vec<Group> = Vec::new();
    for (activated, socket) in given {
        let socket = RawSocket::from(socket);
        let address = socket.os().local_addr().map_err(InheritError::Unfit)?.as_socket();
        let address = address.ok_or_else(|| InheritError::Unfit(io::Error::other("not a TCP socket")))?;
        match groups.iter_mut().find(|group| group.address == address) {
            Some(group) => group.sockets.push(socket),
            None => groups.push(Group { address, sockets: vec![socket], activated }),
        }
    }
    // A supervisor decides itself where to listen. Without --listen, the sockets are used as they are.
    let named = config.listen.addresses != [Listen::Default] && groups.iter().any(|group| !group.activated);
    if named && !are_configured(&groups, &config.listen.addresses) {
        let theirs = groups.iter().map(|group| group.address).collect();
        return Err(InheritError::Differ { theirs, ours: config.listen.addresses.clone() });
    }
    for group in groups.iter_mut().filter(|group| !group.activated) {
        let (address, count) = (group.address, group.sockets.len());
        for _ in count..config.shards.get() {
            let sibling = join(group.sockets[0].os(), address, config);
            let sibling = sibling.map_err(|source| InheritError::Join { address, count, source })?;
            group.sockets.push(sibling.into());
        }
    }
    Ok(groups)
}

/// Returns whether each configured address has a group and each group was configured. Port 0 matches any port.
fn are_configured(groups: &[Group], listen: &[Listen]) -> bool {
    let mut left: Vec<_> = groups.iter().map(|group| group.address).collect();
    let configured = listen.iter().map(|listen| listen.candidates());
    // Exact ports come first, since port 0 matches any port.
    let (any_port, exact): (Vec<_>, Vec<_>) = configured.partition(|candidates| candidates[0].0.port() == 0);
    for candidates in exact.iter().chain(&any_port) {
        let fits = |address: &SocketAddr| {
            let fits = |named: &SocketAddr| address == named || (named.port() == 0 && address.ip() == named.ip());
            candidates.iter().any(|(named, _)| fits(named))
        };
        let Some(found) = left.iter().position(fits) else { return false };
        left.remove(found);
    }
    left.is_empty()
}

fn join(first: &Socket, address: SocketAddr, config: &Options) -> io::Result<Socket> {
    let dual_stack = address.is_ipv6() && !first.only_v6()?;
    let socket = open(address, dual_stack, config)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

impl Group {
    /// Makes all sockets listen with the options of the configuration, including those that already listen.
    ///
    /// # Errors
    /// The kernel refuses a socket.
    pub fn listen(&self, config: &Options) -> Result<(), BindError> {
        let listen = |socket: &RawSocket| {
            let socket = socket.os();
            set_options(socket, config)?;
            socket.listen(i32::try_from(config.listen.backlog).expect("the configuration is valid"))
        };
        let failed = |source| BindError::explain("--listen", self.address, source);
        self.sockets.iter().try_for_each(listen).map_err(failed)
    }
}

/// The listening sockets of a server, which can be handed over until the server drains. Clones share the sockets.
#[derive(Debug, Clone)]
pub struct Listeners(Arc<Mutex<Vec<Group>>>);

impl Listeners {
    /// Holds the listening sockets of a server, one group per address.
    pub(in crate::server) fn new(groups: Vec<Group>) -> Self {
        Listeners(Arc::new(Mutex::new(groups)))
    }

    /// Returns a copy of each socket, and whether a supervisor has it too. Returns nothing once the server drains.
    ///
    /// # Errors
    /// There is no free descriptor.
    pub fn copies(&self) -> io::Result<Vec<(bool, OwnedFd)>> {
        let groups = self.groups();
        let sockets = groups.iter().flat_map(|group| group.sockets.iter().map(|socket| (group.activated, socket)));
        sockets.map(|(activated, socket)| Ok((activated, socket.os().as_fd().try_clone_to_owned()?))).collect()
    }

    /// Returns descriptors of the simulated sockets for another process. Returns nothing once the server drains.
    ///
    /// # Errors
    /// That process has no free descriptor.
    #[cfg(feature = "sim")]
    pub(crate) fn pass_to(&self, process: crate::sim::kernel::ProcessId) -> io::Result<Vec<Group>> {
        let pass = |socket: &RawSocket| match socket {
            RawSocket::Sim(descriptor) => Ok(RawSocket::Sim(descriptor.pass_to(process)?)),
            RawSocket::Os(_) => Err(io::ErrorKind::Unsupported.into()),
        };
        let pass_group = |Group { address, sockets, activated }: &Group| {
            let sockets = sockets.iter().map(pass).collect::<io::Result<_>>()?;
            Ok(Group { address: *address, sockets, activated: *activated })
        };
        self.groups().iter().map(pass_group).collect()
    }

    /// Closes the sockets. One that stayed open would continue to queue connections that nobody accepts. Returns
    /// whether a supervisor has any of them too.
    pub(in crate::server) fn close(&self) -> bool {
        std::mem::take(&mut *self.groups()).iter().any(|group| group.activated)
    }

    fn groups(&self) -> MutexGuard<'_, Vec<Group>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds every configured address, once for each shard.
///
/// # Errors
/// The first address that can't be bound. The sockets before it are closed again.
pub fn bind(config: &Options) -> Result<Vec<Group>, BindError> {
    config.listen.addresses.iter().map(|listen| bind_one(*listen, config)).collect()
}

fn bind_one(listen: Listen, config: &Options) -> Result<Group, BindError> {
    let mut candidates = listen.candidates().into_iter().peekable();
    loop {
        let (address, dual_stack) = candidates.next().expect("there is a candidate");
        match bind_group(address, dual_stack, config) {
            Err(error) if is_family_off(&error) && candidates.peek().is_some() => {}
            done => return done.map_err(|source| BindError::explain("--listen", address, source)),
        }
    }
}

fn bind_group(address: SocketAddr, dual_stack: bool, config: &Options) -> io::Result<Group> {
    let backlog = i32::try_from(config.listen.backlog).expect("the configuration is valid");
    let first = retry_in_use(config.listen.bind_retry, || {
        let socket = open(address, dual_stack, config)?;
        socket.bind(&address.into())?;
        // Two servers that start at the same time may both have bound the address, since neither listened. Only one
        // gets past this call.
        socket.listen(backlog)?;
        Ok(socket)
    })?;
    first.set_reuse_port(true)?;
    let address = first.local_addr()?.as_socket().expect("a TCP listener has an IP address");
    let mut sockets: Vec<RawSocket> = vec![first.into()];
    while sockets.len() < config.shards.get() {
        let socket = open(address, dual_stack, config)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(backlog)?;
        sockets.push(socket.into());
    }
    Ok(Group { address, sockets, activated: false })
}

fn open(address: SocketAddr, dual_stack: bool, config: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run in TIME_WAIT must not block the address.
    socket.set_reuse_address(true)?;
    set_options(&socket, config)?;
    if address.is_ipv6() {
        socket.set_only_v6(!dual_stack)?;
    }
    Ok(socket)
}

/// Sets options that accepted sockets inherit, so that these need no calls of their own.
fn set_options(socket: &Socket, config: &Options) -> io::Result<()> {
    // Acks are small, and clients wait for each of them.
    socket.set_tcp_nodelay(true)?;
    if !config.listen.tcp_keepalive.is_zero() {
        socket.set_tcp_keepalive(&crate::outbound::keepalive(config.listen.tcp_keepalive))?;
    }
    // The kernel's own limit for acks that the peer's host does not acknowledge, or that the peer does not read.
    socket.set_tcp_user_timeout((!config.write_timeout.is_zero()).then_some(config.write_timeout))
}

/// Retries while the address is in use, for at most `limit`: the listeners of a server that was killed stay open until
/// the kernel has torn down its rings.
fn retry_in_use(limit: Duration, bind: impl Fn() -> io::Result<Socket>) -> io::Result<Socket> {
    let start = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < limit => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn config(address: SocketAddr, shards: usize) -> Options {
        let mut config = Options::default().listen([Listen::Address(address)]);
        config.shards = NonZeroUsize::new(shards).unwrap();
        config.listen.bind_retry = Duration::ZERO;
        config
    }

    #[test]
    fn another_server_can_not_join_a_group_even_with_reuse_port() {
        let group = bind(&config("127.0.0.1:0".parse().unwrap(), 2)).unwrap().remove(0);
        assert_eq!(group.sockets.len(), 2);
        for shards in [1, 2] {
            let refused = bind(&config(group.address, shards)).expect_err("the address is in use");
            assert!(matches!(refused, BindError::InUse { .. }), "{refused}");
        }
    }

    #[test]
    fn an_explicit_ipv6_address_leaves_the_port_to_ipv4() {
        let group = bind(&config("[::]:0".parse().unwrap(), 1)).unwrap().remove(0);
        let other = SocketAddr::from(([0, 0, 0, 0], group.address.port()));
        bind(&config(other, 1)).unwrap();
    }
}
