//! How the process is asked to stop: SIGINT or SIGTERM begins a graceful stop, a second one ends it at once.

use std::sync::LazyLock;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell makes of a program that was interrupted.
const INTERRUPTED: i32 = 130;

static TOKEN: LazyLock<CancellationToken> = LazyLock::new(|| {
    let token = CancellationToken::new();
    tokio::spawn(listen(token.clone()));
    token
});

/// Fires when the process is asked to stop. The first call begins to listen; a command that never asks for the token
/// ends at the first signal, as programs do.
pub(crate) fn token() -> CancellationToken {
    TOKEN.clone()
}

async fn listen(token: CancellationToken) {
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be listened to");
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened to");
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if token.is_cancelled() {
            std::process::exit(INTERRUPTED);
        }
        token.cancel();
    }
}
