//! Children of the test process that end with it, however it ends.

use std::{
    ffi::OsStr,
    io,
    process::{Child, Command},
    sync::{LazyLock, mpsc},
    thread,
};

type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// The signal that ends a child with its parent is tied to the thread that started it, so one thread that lives as long
/// as the process starts them all.
static STARTER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (sender, orders) = mpsc::channel::<Order>();
    thread::spawn(move || {
        for (mut command, answer) in orders {
            // Whoever ordered it may have panicked meanwhile; the child then ends with the process.
            let _nobody_waits = answer.send(command.spawn());
        }
    });
    sender
});

/// A command of its own for `program` that gets `signal` (such as `KILL`) when the test process ends. Its process id is
/// the program's: `setpriv` (util-linux) becomes the program.
pub fn ending_with_us(signal: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", signal, "--"])
        .arg(program.as_ref());
    command
}

/// Starts a command made by [`ending_with_us`], or one like it.
///
/// # Errors
/// The program cannot be started.
pub fn spawn(command: Command) -> io::Result<Child> {
    let (sender, answer) = mpsc::channel();
    STARTER
        .send((command, sender))
        .expect("the starting thread never ends");
    answer.recv().expect("the starting thread answers")
}
