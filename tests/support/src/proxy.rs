//! A TCP proxy in front of one service, which breaks the network between the two when it is told to.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What the proxy does with bytes and with new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Refusing,
    Stalled,
}

/// What has happened at a proxy so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that clients opened, those that were refused included.
    pub opened: usize,
    /// New connections that were closed at once.
    pub refused: usize,
    /// Open connections that were cut.
    pub cut: usize,
    /// Pieces of a conversation that came while nothing passed.
    pub held: usize,
    /// Connections that are open now.
    pub open: usize,
}

/// A running proxy. Its connections end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    mode: watch::Sender<Mode>,
    /// Every change of it ends the connections that are open then.
    cuts: watch::Sender<usize>,
    open: AtomicUsize,
    /// Those of the proxy's own ends of its conversations with the service.
    ports: Mutex<BTreeSet<u16>>,
    opened: AtomicUsize,
    refused: AtomicUsize,
    cut: AtomicUsize,
    held: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy on a free loopback port. Everything passes at first.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            target,
            mode: watch::Sender::new(Mode::Open),
            cuts: watch::Sender::new(0),
            open: AtomicUsize::new(0),
            ports: Mutex::default(),
            opened: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            cut: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Self {
            address,
            shared,
            accepting,
        }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every open connection and says how many there were. New ones pass.
    pub fn cut(&self) -> usize {
        let open = self.shared.open.load(Ordering::SeqCst);
        self.shared.cut.fetch_add(open, Ordering::SeqCst);
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
        open
    }

    /// Cuts every open connection, says how many there were, and closes new ones at once until [`Proxy::heal`].
    pub fn refuse(&self) -> usize {
        self.shared.mode.send_replace(Mode::Refusing);
        self.cut()
    }

    /// Lets nothing pass and closes nothing until [`Proxy::heal`]: both sides wait.
    pub fn stall(&self) {
        self.shared.mode.send_replace(Mode::Stalled);
    }

    /// Lets everything pass again; what was held goes on its way.
    pub fn heal(&self) {
        self.shared.mode.send_replace(Mode::Open);
    }

    /// The ports from which the service sees its clients now.
    pub fn ports(&self) -> Vec<i32> {
        let ports = self
            .shared
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ports.iter().copied().map(i32::from).collect()
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        Counts {
            opened: count(&self.shared.opened),
            refused: count(&self.shared.refused),
            cut: count(&self.shared.cut),
            held: count(&self.shared.held),
            open: count(&self.shared.open),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        // Earlier cuts were not meant for it.
        cuts.borrow_and_update();
        shared.opened.fetch_add(1, Ordering::SeqCst);
        if *shared.mode.borrow() == Mode::Refusing {
            shared.refused.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        shared.open.fetch_add(1, Ordering::SeqCst);
        let (shared, mut cuts) = (Arc::clone(&shared), cuts.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = cuts.changed() => {}
                () = serve(client, &shared) => {}
            }
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Carries one conversation until either side ends it.
async fn serve(client: TcpStream, shared: &Shared) {
    if !passes(shared).await {
        return;
    }
    let Ok(service) = TcpStream::connect(shared.target).await else {
        return;
    };
    for side in [&client, &service] {
        // Without it a question of two small writes waits 40 ms for an acknowledgement.
        let _slower_without = side.set_nodelay(true);
    }
    let _port = service
        .local_addr()
        .map(|own| Port::new(own.port(), shared));
    let (from_client, to_client) = client.into_split();
    let (from_service, to_service) = service.into_split();
    tokio::select! {
        () = carry(from_client, to_service, shared) => {}
        () = carry(from_service, to_client, shared) => {}
    }
}

/// Waits while nothing passes; false when nothing will any more.
async fn passes(shared: &Shared) -> bool {
    let mut mode = shared.mode.subscribe();
    if *mode.borrow_and_update() != Mode::Stalled {
        return true;
    }
    shared.held.fetch_add(1, Ordering::SeqCst);
    mode.wait_for(|mode| *mode != Mode::Stalled).await.is_ok()
}

/// A port that is in use until this is dropped.
struct Port<'a> {
    number: u16,
    shared: &'a Shared,
}

impl<'a> Port<'a> {
    fn new(number: u16, shared: &'a Shared) -> Self {
        let mut ports = shared.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.insert(number);
        Self { number, shared }
    }
}

impl Drop for Port<'_> {
    fn drop(&mut self) {
        let mut ports = self
            .shared
            .ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ports.remove(&self.number);
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(length) = from.read(&mut piece).await {
        if !passes(shared).await || length == 0 || to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that says everything back.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = connection.into_split();
                    let _ended = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn ask(connection: &mut TcpStream) -> Option<u8> {
        connection.write_all(b"?").await.ok()?;
        connection.read_u8().await.ok()
    }

    #[tokio::test]
    async fn a_cut_ends_what_is_open_and_lets_new_connections_pass() {
        let proxy = Proxy::start(echo().await).await;
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut connection).await, Some(b'?'));
        assert_eq!(proxy.cut(), 1);
        assert_eq!(ask(&mut connection).await, None);
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut connection).await, Some(b'?'));
    }

    #[tokio::test]
    async fn a_refusing_proxy_closes_new_connections_until_it_is_healed() {
        let proxy = Proxy::start(echo().await).await;
        proxy.refuse();
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut connection).await, None);
        proxy.heal();
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut connection).await, Some(b'?'));
        let counts = proxy.counts();
        assert_eq!((counts.opened, counts.refused), (2, 1));
    }

    #[tokio::test]
    async fn a_stalled_proxy_holds_what_is_said_and_delivers_it_later() {
        let proxy = Proxy::start(echo().await).await;
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut connection).await, Some(b'?'));
        proxy.stall();
        connection.write_all(b"!").await.unwrap();
        while proxy.counts().held == 0 {
            tokio::task::yield_now().await;
        }
        proxy.heal();
        assert_eq!(connection.read_u8().await.unwrap(), b'!');
        assert_eq!(proxy.counts().cut, 0);
    }
}
