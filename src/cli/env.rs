//! `pinwheel env`: the services of a running standalone for psql, kcat, the aws tool and people's own scripts.

use clap::Args;
use serde_json::{Map, Value};

use super::{client, output};
use crate::{
    embedded::Running,
    failure::{Failure, Result},
    settings::Settings,
};

/// Arguments of `env`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  eval \"$(pinwheel env)\"                       then: psql, aws s3 ls s3://lake/, kcat -b $KAFKA_BROKERS -L
  pinwheel env --json | jq -r .DATABASE_URL")]
pub(crate) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the variables.
pub(crate) fn run(settings: &Settings, arguments: &Arguments) -> Result<()> {
    let running = client::running(settings)?;
    let variables = variables(&running)?;
    if arguments.json {
        let object: Map<String, Value> = variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), Value::from(value)))
            .collect();
        return output::json(&object);
    }
    let lines: Vec<_> = variables
        .iter()
        .map(|(name, value)| format!("export {name}={}", quoted(value)))
        .collect();
    output::text(&lines.join("\n"))
}

fn variables(running: &Running) -> Result<Vec<(&'static str, String)>> {
    let database = reqwest::Url::parse(&running.database_url).map_err(|error| {
        Failure::failed("the standalone's `database.url` is no URL").because(error)
    })?;
    let mut variables = vec![
        ("PINWHEEL_URL", running.web_url.clone()),
        ("PINWHEEL_INGEST_URL", running.ingest_url.clone()),
        ("DATABASE_URL", running.database_url.clone()),
        (
            "PGHOST",
            database.host_str().unwrap_or("127.0.0.1").to_owned(),
        ),
        ("PGPORT", database.port().unwrap_or(5432).to_string()),
        ("PGUSER", database.username().to_owned()),
        (
            "PGDATABASE",
            database.path().trim_start_matches('/').to_owned(),
        ),
        ("KAFKA_BROKERS", running.kafka.brokers.clone()),
        ("AWS_REGION", running.s3.region.clone()),
    ];
    if let Some(password) = database.password() {
        variables.push(("PGPASSWORD", password.to_owned()));
    }
    if let Some(endpoint) = &running.s3.endpoint {
        variables.push(("AWS_ENDPOINT_URL", endpoint.clone()));
    }
    if let Some(credentials) = &running.s3.credentials {
        variables.push(("AWS_ACCESS_KEY_ID", credentials.access_key_id.clone()));
        variables.push((
            "AWS_SECRET_ACCESS_KEY",
            credentials.secret_access_key.clone(),
        ));
    }
    Ok(variables)
}

/// Quotes for a POSIX shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_leave_its_quotes() {
        assert_eq!(quoted("a'b $(c)"), r"'a'\''b $(c)'");
    }
}
