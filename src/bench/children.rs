//! Roles of this binary as processes of their own, and what Linux says they cost: processor time and peak memory.

use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, SysconfVar, sysconf},
};

use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// How long a role may take to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A role that runs.
pub(super) struct Role {
    child: Child,
}

impl Role {
    /// Starts a role over the services of `settings` and the DAG files of a folder.
    pub(super) fn start(name: &str, settings: &Settings, folder: &Path) -> Result<Self> {
        let cannot = |error: std::io::Error| {
            Failure::failed(format!("cannot start `pinwheel {name}`")).because(error)
        };
        let log = std::fs::File::create(folder.join(format!("{name}.log"))).map_err(cannot)?;
        let mut command = command(name, settings, folder)?;
        command.stderr(log);
        let child = command.spawn().map_err(cannot)?;
        Ok(Self { child })
    }

    /// Processor seconds so far, of all its threads.
    pub(super) fn cpu_s(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        // The name in parentheses may hold anything; what follows is numbers.
        let numbers = stat.rsplit_once(')').map_or("", |(_, numbers)| numbers);
        let ticks: f64 = numbers
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|number| number.parse::<f64>().ok())
            .sum();
        let a_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
        ticks / a_second as f64
    }

    /// Lets the peak of its memory begin anew.
    pub(super) fn forget_peak(&self) {
        let _old_kernels_cannot =
            std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5");
    }

    /// The peak of its resident memory, in megabytes.
    pub(super) fn peak_mb(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = peak.and_then(|peak| peak.trim().split(' ').next()?.parse::<f64>().ok());
        kilobytes.unwrap_or_default() / 1024.0
    }

    /// The status of a role that ended by itself.
    pub(super) fn has_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to stop, and makes it.
    pub(super) async fn stop(mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _it_may_have_ended = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let deadline = tokio::time::Instant::now() + STOP_PATIENCE;
        while self.has_ended().is_none() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A role's command line and environment. What has no variable of its own, such as `kafka.properties`, it reads from the same
/// settings file as this process.
fn command(name: &str, settings: &Settings, folder: &Path) -> Result<Command> {
    let program = std::env::current_exe().map_err(|error| {
        Failure::failed(format!("cannot start `pinwheel {name}`")).because(error)
    })?;
    let mut command = Command::new(program);
    if let Some(file) = &settings.file {
        command.env("PINWHEEL_CONFIG", file);
    }
    command
        .arg(name)
        .env("PINWHEEL_DATABASE_URL", settings.require_database(name)?)
        .env(
            "PINWHEEL_KAFKA_BROKERS",
            &settings.require_kafka(name)?.brokers,
        )
        .env("PINWHEEL_DAGS_FOLDER", folder)
        .env(
            "PINWHEEL_LAKE_CLEAN_PREFIX",
            settings.clean_prefix.to_string(),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let s3 = settings.require_s3(name)?;
    command
        .env(
            "PINWHEEL_S3_ENDPOINT",
            s3.endpoint.as_deref().unwrap_or("aws"),
        )
        .env("PINWHEEL_S3_REGION", &s3.region);
    if let Some(credentials) = &s3.credentials {
        command
            .env("PINWHEEL_S3_ACCESS_KEY_ID", &credentials.access_key_id)
            .env(
                "PINWHEEL_S3_SECRET_ACCESS_KEY",
                &credentials.secret_access_key,
            );
    }
    Ok(command)
}

impl Drop for Role {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::settings::Flags;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        flags: Flags,
    }

    #[test]
    fn a_role_reads_the_settings_file_of_the_benchmark() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let text = "[kafka.properties]\n\"security.protocol\" = \"SASL_SSL\"\n";
        std::fs::write(file.path(), text).expect("it can be written");
        let path = file.path().to_str().expect("temporary paths are UTF-8");
        let line = CommandLine::try_parse_from([
            "pinwheel",
            "--config",
            path,
            "--database-url",
            "postgres://localhost/a",
            "--kafka-brokers",
            "localhost:1",
            "--s3-endpoint",
            "http://localhost:2",
        ]);
        let settings = Settings::read(&line.expect("the flags exist").flags).expect("valid");
        let command = command("stream", &settings, Path::new("dags")).expect("complete");
        let given = command
            .get_envs()
            .find(|(name, _)| *name == "PINWHEEL_CONFIG");
        assert_eq!(
            given.and_then(|(_, value)| value),
            Some(file.path().as_os_str())
        );
    }
}
