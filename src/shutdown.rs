//! How the process is asked to stop. The first SIGINT or SIGTERM begins a graceful stop. The second means now: a role that
//! has something to hand back does it in haste, every other ends there and then. The third ends the process whatever it
//! does.

use std::{
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::progress::say;

/// What a shell makes of a program that was interrupted.
const INTERRUPTED: i32 = 130;
/// How long a stop in haste may take before it is given up: Postgres may be away.
const HASTE: Duration = Duration::from_secs(5);

static TOKEN: LazyLock<CancellationToken> = LazyLock::new(|| {
    let token = CancellationToken::new();
    tokio::spawn(listen(token.clone()));
    token
});
static HURRY: OnceLock<CancellationToken> = OnceLock::new();

/// Fires when the process is asked to stop. The first call begins to listen; a command that never asks for the token
/// ends at the first signal, as programs do.
pub(crate) fn token() -> CancellationToken {
    TOKEN.clone()
}

/// Fires when the process is asked a second time. Whoever asks for it ends the process by itself then, within
/// [`HASTE`]; when nobody has, the second signal ends it at once.
pub(crate) fn hurry() -> CancellationToken {
    HURRY.get_or_init(CancellationToken::new).clone()
}

async fn listen(token: CancellationToken) {
    let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be listened to");
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened to");
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if !token.is_cancelled() {
            token.cancel();
            continue;
        }
        match HURRY.get() {
            Some(hurry) if !hurry.is_cancelled() => {
                hurry.cancel();
                tokio::spawn(end_for_good());
            }
            Some(_) | None => std::process::exit(INTERRUPTED),
        }
    }
}

async fn end_for_good() {
    tokio::time::sleep(HASTE).await;
    say(
        "what runs here could not be handed back in time; it runs elsewhere when the lease of this worker ends",
    );
    std::process::exit(INTERRUPTED);
}
