//! `pinwheel variables`: values that templates read as `{{ var.NAME }}`.

use clap::{Args, Subcommand};
use pinwheel_scheduler::{
    model::VariableName,
    secrets::{Secrecy, ShownVariable, Variable, names_a_secret},
    store::Kept,
};
use serde_json::{Value, json};

use super::{client, connections::read_stdin, output};
use crate::{
    failure::{Failure, Result},
    settings::Settings,
};

/// `pinwheel variables …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List variables; the values of secret ones are not shown
    List(List),
    /// Print the value of a variable
    Get(Get),
    /// Make a variable or change one
    #[command(after_help = "\
Examples:
  pinwheel variables set region eu-west-1 --description 'Where the lake is'
  pinwheel variables set limits '{\"rows\": 1000}' --as-json
  pinwheel variables set api_token --secret --stdin < token.txt

A name that speaks of a secret (password, token, api_key, …) makes a new variable one unless --shown is given.")]
    Set(Set),
    /// Delete a variable
    Delete(One),
}

/// Arguments of `variables list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `variables get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The variable
    #[arg(value_parser = client::variable_name, value_name = "NAME")]
    variable: VariableName,
    /// Print the value of a secret one, too
    #[arg(long)]
    reveal: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `variables delete`.
#[derive(Debug, Args)]
pub(crate) struct One {
    /// The variable
    #[arg(value_parser = client::variable_name, value_name = "NAME")]
    variable: VariableName,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `variables set`.
#[derive(Debug, Args)]
pub(crate) struct Set {
    /// The variable
    #[arg(value_parser = client::variable_name, value_name = "NAME")]
    variable: VariableName,
    /// Its value: text
    #[arg(required_unless_present = "stdin", conflicts_with = "stdin")]
    value: Option<String>,
    /// The value from standard input, without the line end
    #[arg(long)]
    stdin: bool,
    /// The value is JSON: templates get a list, a table or a number of it
    #[arg(long)]
    as_json: bool,
    /// Never show its value, and mask it wherever a task could
    #[arg(long, conflicts_with = "shown")]
    secret: bool,
    /// Show its value
    #[arg(long)]
    shown: bool,
    /// What it is for [default: as it is]
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
            Self::Get(arguments) => get(settings, &arguments).await,
            Self::Set(arguments) => set(settings, arguments).await,
            Self::Delete(arguments) => delete(settings, &arguments).await,
        }
    }
}

async fn list(settings: &Settings, arguments: &List) -> Result<()> {
    let variables = client::vault(settings).await?.variables().await?;
    if arguments.json {
        return output::json(&variables);
    }
    output::text(&table(&variables))?;
    for shown in &variables {
        if let Some(problem) = &shown.problem {
            output::text(&format!("\n{problem}"))?;
        }
    }
    Ok(())
}

async fn get(settings: &Settings, arguments: &Get) -> Result<()> {
    let name = arguments.variable.as_str();
    let variable = client::vault(settings).await?.variable(name).await?;
    if variable.secrecy.is_secret() && !arguments.reveal {
        return Err(Failure::invalid(format!("the variable `{name}` is secret"))
            .hint("add --reveal to print it all the same"));
    }
    match variable.value {
        Value::String(text) if !arguments.json => output::text(&text),
        value => output::json(&value),
    }
}

async fn set(settings: &Settings, arguments: Set) -> Result<()> {
    let name = arguments.variable.clone();
    let text = match arguments.value {
        Some(value) => value,
        None => read_stdin()?.trim_end_matches(['\r', '\n']).to_owned(),
    };
    let value = if arguments.as_json {
        serde_json::from_str(&text).map_err(|error| {
            Failure::invalid(format!(
                "the value of `{name}` is no JSON (line {}, column {})",
                error.line(),
                error.column()
            ))
            .hint("leave --as-json out to keep it as text")
        })?
    } else {
        Value::from(text)
    };
    let vault = client::vault(settings).await?;
    let before = vault.variables().await?;
    let before = before.iter().find(|shown| shown.name == name.as_str());
    let secrecy = match (arguments.secret, arguments.shown, before) {
        (true, _, _) => Secrecy::Secret,
        (false, true, _) => Secrecy::Shown,
        (false, false, Some(before)) if before.secret => Secrecy::Secret,
        (false, false, Some(_)) => Secrecy::Shown,
        (false, false, None) if names_a_secret(name.as_str()) => Secrecy::Secret,
        (false, false, None) => Secrecy::Shown,
    };
    let variable = Variable { value, secrecy };
    let kept = vault
        .set_variable(
            &name,
            &variable,
            arguments.description.as_deref(),
            &client::actor(),
        )
        .await?;
    if arguments.json {
        let all = vault.variables().await?;
        return output::json(&all.iter().find(|shown| shown.name == name.as_str()));
    }
    let verb = match kept {
        Kept::Created => "made",
        Kept::Changed => "changed",
    };
    output::text(&if secrecy.is_secret() {
        format!("the secret variable {name} is {verb}")
    } else {
        format!("the variable {name} is {verb}")
    })
}

async fn delete(settings: &Settings, arguments: &One) -> Result<()> {
    let vault = client::vault(settings).await?;
    vault
        .delete_variable(&arguments.variable, &client::actor())
        .await?;
    if arguments.json {
        return output::json(&json!({ "deleted": arguments.variable }));
    }
    output::text(&format!("the variable {} is deleted", arguments.variable))
}

fn table(variables: &[ShownVariable]) -> String {
    let rows = variables.iter().map(|shown| {
        [
            shown.name.clone(),
            value_words(shown),
            shown.source.words().to_owned(),
            shown.description.clone(),
        ]
    });
    output::columns(["variable", "value", "from", "description"], rows)
}

fn value_words(shown: &ShownVariable) -> String {
    const LONGEST: usize = 60;
    let text = match (&shown.value, &shown.problem) {
        (_, Some(_)) => "cannot be read".to_owned(),
        (None, None) => "***".to_owned(),
        (Some(Value::String(text)), None) => text.clone(),
        (Some(other), None) => other.to_string(),
    };
    let line = text.replace(char::is_control, " ");
    if line.chars().count() <= LONGEST {
        return line;
    }
    let start: String = line.chars().take(LONGEST).collect();
    format!("{start}…")
}
