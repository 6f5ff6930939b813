//! Work that keeps a core busy, away from the threads of the runtime.

use crate::Failure;

/// Runs `work` on a blocking thread. A panic in it goes on in the caller.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(answer) => Ok(answer),
        Err(died) => match died.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Failure::retryable("the process is shutting down")),
        },
    }
}
