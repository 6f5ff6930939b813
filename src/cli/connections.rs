//! `pinwheel connections`: services outside, and how to log in there.

use std::io::Read;

use clap::{Args, Subcommand};
use pinwheel_scheduler::{
    model::ConnectionId,
    secrets::{Connection, Masks, ShownConnection},
    store::Kept,
};
use serde_json::{Map, Value, json};

use super::{client, output};
use crate::{
    connection_test,
    failure::{Failure, Result},
    settings::Settings,
};

/// `pinwheel connections …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List connections, without their secrets
    List(List),
    /// Show one connection, without its secrets
    Show(One),
    /// Make a connection or change one; what is not given stays
    #[command(after_help = "\
Examples:
  echo 'postgres://ada:s3cret@db.example.com/sales' | pinwheel connections set warehouse --stdin
  pinwheel connections set api --type https --host api.example.com --extra '{\"timeout\": 5}'
  pinwheel connections set api --login ada --password-stdin < password.txt

What stands on a command line can be seen by others on the machine: give secrets by standard input.")]
    Set(Box<Set>),
    /// Delete a connection
    Delete(One),
    /// Try whether a connection leads anywhere
    #[command(after_help = "\
Postgres: connects and selects 1. http and https: a HEAD. s3: lists. smtp: EHLO. Any other type: a TCP connection.
Exits with 1 when it does not work.")]
    Test(One),
}

/// Arguments of `connections list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments that name one connection.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The connection
    #[arg(value_parser = client::connection_id, value_name = "ID")]
    connection: ConnectionId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `connections set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The connection
    #[arg(value_parser = client::connection_id, value_name = "ID")]
    connection: ConnectionId,
    /// The whole connection as type://login:password@host:port/schema?name=value, or as a JSON object
    #[arg(long, value_name = "URI", conflicts_with = "stdin")]
    uri: Option<String>,
    /// The whole connection, URI or JSON, from standard input
    #[arg(long)]
    stdin: bool,
    /// What it is: postgres, http, https, s3, smtp, or any word
    #[arg(long = "type", value_name = "WORD")]
    connection_type: Option<String>,
    /// The host
    #[arg(long)]
    host: Option<String>,
    /// The port
    #[arg(long)]
    port: Option<u16>,
    /// The user
    #[arg(long)]
    login: Option<String>,
    /// The password
    #[arg(long)]
    password: Option<String>,
    /// The password from standard input, without the line end
    #[arg(long, conflicts_with_all = ["password", "stdin"])]
    password_stdin: bool,
    /// The database, bucket or path
    #[arg(long)]
    schema: Option<String>,
    /// Whatever else it needs, as a JSON object
    #[arg(long, value_name = "JSON")]
    extra: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::List(arguments) => list(settings, &arguments).await,
            Self::Show(arguments) => show(settings, &arguments).await,
            Self::Set(arguments) => set(settings, *arguments).await,
            Self::Delete(arguments) => delete(settings, &arguments).await,
            Self::Test(arguments) => test(settings, &arguments).await,
        }
    }
}

async fn list(settings: &Settings, arguments: &List) -> Result<()> {
    let connections = client::vault(settings).await?.connections().await?;
    if arguments.json {
        return output::json(&connections);
    }
    output::text(&table(&connections))?;
    for shown in &connections {
        if let Some(problem) = &shown.problem {
            output::text(&format!("\n{problem}"))?;
        }
    }
    Ok(())
}

async fn show(settings: &Settings, arguments: &One) -> Result<()> {
    let vault = client::vault(settings).await?;
    let shown = find(&vault.connections().await?, &arguments.connection).cloned();
    let Some(shown) = shown else {
        // Asked for by name, so that the nearest one is said.
        vault.connection(arguments.connection.as_str()).await?;
        return Err(Failure::invalid(format!(
            "there is no connection `{}`",
            arguments.connection
        )));
    };
    if arguments.json {
        return output::json(&shown);
    }
    output::text(&words(&shown))
}

fn find<'a>(all: &'a [ShownConnection], id: &ConnectionId) -> Option<&'a ShownConnection> {
    all.iter().find(|shown| shown.connection_id == id.as_str())
}

async fn set(settings: &Settings, arguments: Set) -> Result<()> {
    let id = arguments.connection.clone();
    let vault = client::vault(settings).await?;
    let whole = if arguments.stdin {
        Some(read_stdin()?)
    } else {
        arguments.uri.clone()
    };
    let mut connection = match whole {
        Some(text) => Connection::parse(&text)
            .map_err(|error| Failure::invalid(error.message).hint(error.hint))?,
        None => vault
            .stored_connection(&id)
            .await?
            .map(|stored| stored.value)
            .unwrap_or_default(),
    };
    if let Some(connection_type) = arguments.connection_type {
        connection.connection_type = connection_type;
    }
    if connection.connection_type.is_empty() {
        return Err(
            Failure::invalid(format!("the new connection `{id}` has no type"))
                .hint("give --type, --uri or --stdin"),
        );
    }
    let password = if arguments.password_stdin {
        Some(read_stdin()?.trim_end_matches(['\r', '\n']).to_owned())
    } else {
        arguments.password
    };
    for (part, given) in [
        (&mut connection.host, arguments.host),
        (&mut connection.login, arguments.login),
        (&mut connection.password, password),
        (&mut connection.schema, arguments.schema),
    ] {
        if let Some(given) = given {
            // An empty one takes it away.
            *part = (!given.is_empty()).then_some(given);
        }
    }
    connection.port = arguments.port.or(connection.port);
    if let Some(text) = arguments.extra {
        connection.extra = serde_json::from_str::<Map<String, Value>>(&text)
            .map_err(|_| Failure::invalid("`--extra` is not a JSON object"))?;
    }
    let description = arguments.description.as_deref();
    let kept = vault
        .set_connection(&id, connection, description, &client::actor())
        .await?;
    let all = vault.connections().await?;
    if arguments.json {
        return output::json(&find(&all, &id));
    }
    output::text(&match kept {
        Kept::Created => {
            format!("the connection {id} is made; `pinwheel connections test {id}` tries it")
        }
        Kept::Changed => {
            format!("the connection {id} is changed; `pinwheel connections test {id}` tries it")
        }
    })
}

async fn delete(settings: &Settings, arguments: &One) -> Result<()> {
    let vault = client::vault(settings).await?;
    vault
        .delete_connection(&arguments.connection, &client::actor())
        .await?;
    if arguments.json {
        return output::json(&json!({ "deleted": arguments.connection }));
    }
    output::text(&format!(
        "the connection {} is deleted",
        arguments.connection
    ))
}

async fn test(settings: &Settings, arguments: &One) -> Result<()> {
    let id = arguments.connection.as_str();
    // What the environment gives needs no database.
    let connection = client::vault(settings).await?.connection(id).await?;
    let masks = Masks::default();
    for (whose, secret) in connection.secrets() {
        masks.add(&whose, &secret);
    }
    let answer = connection_test::test(&connection).await;
    let (ok, message) = match &answer {
        Ok(message) => (true, masks.text(message)),
        Err(message) => (false, masks.text(message)),
    };
    if arguments.json {
        output::json(&json!({ "connection_id": id, "ok": ok, "message": message }))?;
    } else if ok {
        output::text(&format!("{id}: {message}"))?;
    }
    if ok {
        return Ok(());
    }
    Err(
        Failure::failed(format!("the connection `{id}` does not work: {message}")).hint(format!(
            "`pinwheel connections show {id}` shows where it leads"
        )),
    )
}

/// Standard input as text.
pub(super) fn read_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::invalid("cannot read standard input").because(error))?;
    Ok(text)
}

fn table(connections: &[ShownConnection]) -> String {
    let rows = connections.iter().map(|shown| {
        [
            shown.connection_id.clone(),
            shown.connection_type.clone(),
            place(shown),
            shown.login.clone().unwrap_or_else(|| "-".to_owned()),
            shown.source.words().to_owned(),
            shown.description.clone(),
        ]
    });
    output::columns(
        [
            "connection",
            "type",
            "leads to",
            "login",
            "from",
            "description",
        ],
        rows,
    )
}

fn place(shown: &ShownConnection) -> String {
    if shown.problem.is_some() {
        return "cannot be read".to_owned();
    }
    let place = pinwheel_web::connection_place(shown);
    if place.is_empty() {
        "-".to_owned()
    } else {
        place
    }
}

fn words(shown: &ShownConnection) -> String {
    let or_none = |part: &Option<String>| part.clone().unwrap_or_else(|| "-".to_owned());
    let password = if shown.has_password { "***" } else { "-" };
    let mut lines = vec![
        ("connection", shown.connection_id.clone()),
        ("type", shown.connection_type.clone()),
        ("host", or_none(&shown.host)),
        (
            "port",
            shown
                .port
                .map_or_else(|| "-".to_owned(), |port| port.to_string()),
        ),
        ("login", or_none(&shown.login)),
        ("password", password.to_owned()),
        ("schema", or_none(&shown.schema)),
        (
            "extra",
            if shown.extra.is_empty() {
                "-".to_owned()
            } else {
                shown.extra.join(", ")
            },
        ),
        ("from", shown.source.words().to_owned()),
        ("description", shown.description.clone()),
    ];
    if let Some(problem) = &shown.problem {
        lines.push(("problem", problem.clone()));
    }
    lines
        .into_iter()
        .map(|(label, value)| format!("{label:12} {value}").trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
