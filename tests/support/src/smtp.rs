//! A mail server for tests (RFC 5321, with STARTTLS, TLS from the first byte and AUTH PLAIN), because none of the crates
//! that could be embedded is kept well. It keeps what it accepts, and refuses when it is told to.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

use crate::tls::Identity;

/// How the connection is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Not at all.
    None,
    /// After the client asks for it; mail is refused before.
    Starttls,
    /// From the first byte.
    Tls,
}

/// A mail that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// The sender of the envelope.
    pub from: String,
    /// The receivers of the envelope.
    pub to: Vec<String>,
    /// The user that had logged in.
    pub user: Option<String>,
    /// Header and body as they came, dots unstuffed.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Accepting,
    Refusing,
    Silent,
}

/// A running server. It ends when it is dropped.
#[derive(Debug)]
pub struct MailServer {
    address: SocketAddr,
    authority: String,
    shared: Arc<Shared>,
    mails: watch::Receiver<usize>,
    accepting: JoinHandle<()>,
}

struct Shared {
    security: Security,
    login: Option<(String, String)>,
    tls: TlsAcceptor,
    mode: Mutex<Mode>,
    received: Mutex<Vec<Mail>>,
    refused: watch::Sender<usize>,
    count: watch::Sender<usize>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Shared")
    }
}

impl MailServer {
    /// Starts a server on a free loopback port; its name is `localhost`.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(security: Security, login: Option<(&str, &str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let Identity { authority, tls, .. } = Identity::of_localhost();
        let (count, mails) = watch::channel(0);
        let shared = Arc::new(Shared {
            security,
            login: login.map(|(user, password)| (user.to_owned(), password.to_owned())),
            tls,
            mode: Mutex::new(Mode::Accepting),
            received: Mutex::default(),
            refused: watch::Sender::new(0),
            count,
        });
        let serving = Arc::clone(&shared);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&serving);
                tokio::spawn(async move {
                    // A client that goes away in the middle is its own affair.
                    let _gone = serve(&shared, stream).await;
                });
            }
        });
        Self {
            address,
            authority,
            shared,
            mails,
            accepting,
        }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Writes the authority that its certificate is from, as PEM.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn write_authority(&self, path: &Path) {
        std::fs::write(path, &self.authority).expect("the file can be written");
    }

    /// Refuses every mail for now, with a code that means "later".
    pub fn refuse(&self) {
        self.set(Mode::Refusing);
    }

    /// Takes connections and says nothing.
    pub fn fall_silent(&self) {
        self.set(Mode::Silent);
    }

    /// Accepts again.
    pub fn accept(&self) {
        self.set(Mode::Accepting);
    }

    /// Waits until so many mails were accepted, and gives them.
    ///
    /// # Panics
    /// The server has ended.
    pub async fn mails(&self, count: usize) -> Vec<Mail> {
        self.mails
            .clone()
            .wait_for(|there| *there >= count)
            .await
            .expect("the server runs");
        lock(&self.shared.received).clone()
    }

    /// Waits until so many mails were refused.
    ///
    /// # Panics
    /// The server has ended.
    pub async fn refusals(&self, count: usize) {
        self.shared
            .refused
            .subscribe()
            .wait_for(|there| *there >= count)
            .await
            .expect("the server runs");
    }

    fn set(&self, mode: Mode) {
        *lock(&self.shared.mode) = mode;
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    match shared.security {
        Security::Tls => {
            let stream = shared.tls.accept(stream).await?;
            talk(shared, stream, true, true).await.map(drop)
        }
        Security::None => talk(shared, stream, true, true).await.map(drop),
        Security::Starttls => {
            if let Some(stream) = talk(shared, stream, false, true).await? {
                let stream = shared.tls.accept(stream).await?;
                talk(shared, stream, true, false).await?;
            }
            Ok(())
        }
    }
}

/// One conversation; gives the stream back when the client asks for TLS.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    mut stream: S,
    is_secure: bool,
    greets: bool,
) -> io::Result<Option<S>> {
    if *lock(&shared.mode) == Mode::Silent {
        // Until the client gives up.
        let _gone = line(&mut stream).await;
        return Ok(None);
    }
    if greets {
        say(&mut stream, "220 localhost ready").await?;
    }
    let mut user = None;
    let mut from = String::new();
    let mut to = Vec::new();
    while let Some(command) = line(&mut stream).await? {
        let upper = command.to_ascii_uppercase();
        let address = || {
            command
                .split_once('<')
                .and_then(|(_, rest)| rest.split_once('>'))
                .map(|(address, _)| address.to_owned())
                .unwrap_or_default()
        };
        let must_log_in = shared.login.is_some() && user.is_none();
        if upper.starts_with("EHLO") {
            let offer = match (is_secure, &shared.login) {
                (false, _) => "STARTTLS",
                (true, Some(_)) => "AUTH PLAIN",
                (true, None) => "SIZE 1000000",
            };
            say(&mut stream, &format!("250-localhost\r\n250 {offer}")).await?;
        } else if upper == "STARTTLS" && !is_secure {
            say(&mut stream, "220 go on").await?;
            return Ok(Some(stream));
        } else if let Some(proof) = upper
            .starts_with("AUTH PLAIN ")
            .then(|| command["AUTH PLAIN ".len()..].to_owned())
        {
            user = log_in(shared, &proof);
            let answer = if user.is_some() {
                "235 welcome"
            } else {
                "535 wrong user or password"
            };
            say(&mut stream, answer).await?;
        } else if upper.starts_with("MAIL FROM:") {
            if !is_secure {
                say(&mut stream, "530 begin TLS first").await?;
            } else if must_log_in {
                say(&mut stream, "530 log in first").await?;
            } else if *lock(&shared.mode) == Mode::Refusing {
                shared.refused.send_modify(|count| *count += 1);
                say(&mut stream, "451 not now").await?;
            } else {
                from = address();
                say(&mut stream, "250 fine").await?;
            }
        } else if upper.starts_with("RCPT TO:") {
            to.push(address());
            say(&mut stream, "250 fine").await?;
        } else if upper == "DATA" {
            say(&mut stream, "354 end with a dot").await?;
            let mut text = String::new();
            while let Some(next) = line(&mut stream).await? {
                if next == "." {
                    break;
                }
                text.push_str(next.strip_prefix('.').unwrap_or(&next));
                text.push('\n');
            }
            lock(&shared.received).push(Mail {
                from: std::mem::take(&mut from),
                to: std::mem::take(&mut to),
                user: user.clone(),
                text,
            });
            say(&mut stream, "250 kept").await?;
            shared.count.send_modify(|count| *count += 1);
        } else if upper == "QUIT" {
            say(&mut stream, "221 bye").await?;
            return Ok(None);
        } else if upper == "RSET" || upper == "NOOP" {
            say(&mut stream, "250 fine").await?;
        } else {
            say(&mut stream, "502 not known here").await?;
        }
    }
    Ok(None)
}

/// The user, when the proof (base64 of NUL user NUL password) is right.
fn log_in(shared: &Shared, proof: &str) -> Option<String> {
    let (user, password) = shared.login.as_ref()?;
    let proof = STANDARD.decode(proof).ok()?;
    (proof == format!("\0{user}\0{password}").into_bytes()).then(|| user.clone())
}

async fn say<S: AsyncWrite + Unpin>(stream: &mut S, answer: &str) -> io::Result<()> {
    stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    stream.flush().await
}

/// The next line without its end; `None` when the client has gone. Byte by byte, so that nothing of what follows STARTTLS
/// is read too early.
async fn line<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    loop {
        match stream.read_u8().await {
            Ok(b'\n') => break,
            Ok(byte) => line.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(String::from_utf8_lossy(&line).into_owned()))
}
