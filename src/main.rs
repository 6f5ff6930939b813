//! The binary: command line, settings and wiring. The only place where everything meets, and where nothing is decided
//! that another room could decide.

mod bench;
mod cli;
mod connection_test;
mod demo;
mod embedded;
mod failure;
mod kept_reports;
mod logging;
mod notify;
mod progress;
mod registry;
mod roles;
mod settings;
mod shutdown;
mod standalone;
mod stream_pages;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::CommandLine;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    if line.is_warden() {
        pinwheel_tasks::warden::serve();
        return ExitCode::SUCCESS;
    }
    line.logging.install();
    pinwheel_tasks::choose_cryptography();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pinwheel: the operating system gives no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(line.run());
    // A client's blocking call to a service that is away must not keep an ended command from ending.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.exit_code();
            eprintln!("{:?}", miette::Report::new(failure));
            code
        }
    }
}
