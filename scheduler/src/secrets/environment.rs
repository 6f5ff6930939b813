//! Connections and variables from the environment: `PINWHEEL_CONN_<ID>` and `PINWHEEL_VAR_<NAME>`.

use std::{collections::BTreeMap, fmt};

use pinwheel_tasks::{Connection, connections::names_a_secret};
use serde_json::Value;

use super::{Error, Secrecy, Variable};

const CONNECTION: &str = "PINWHEEL_CONN_";
const VARIABLE: &str = "PINWHEEL_VAR_";

/// What the environment of the process gives, read once. Its `Debug` form holds no value.
#[derive(Clone, Default)]
pub struct Environment {
    connections: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
}

impl Environment {
    /// The environment of this process. What is not UTF-8 is left out.
    pub fn of_process() -> Self {
        Self::of(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }))
    }

    /// An environment of these variables.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables {
            if let Some(id) = name.strip_prefix(CONNECTION).filter(|id| !id.is_empty()) {
                environment.connections.insert(id.to_owned(), value);
            } else if let Some(id) = name.strip_prefix(VARIABLE).filter(|id| !id.is_empty()) {
                environment.variables.insert(id.to_owned(), value);
            }
        }
        environment
    }

    /// The environment variable that would give the connection.
    pub fn connection_variable(id: &str) -> String {
        format!("{CONNECTION}{}", suffix(id))
    }

    /// The environment variable that would give the variable.
    pub fn variable_variable(name: &str) -> String {
        format!("{VARIABLE}{}", suffix(name))
    }

    pub(super) fn connection(&self, id: &str) -> Option<Result<Connection, Error>> {
        let text = self.connections.get(&suffix(id))?;
        Some(Connection::parse(text).map_err(|error| Error::Misfit {
            message: format!(
                "`{}` holds no connection: {}",
                Self::connection_variable(id),
                error.message
            ),
            hint: error.hint,
        }))
    }

    pub(super) fn has_connection(&self, id: &str) -> bool {
        self.connections.contains_key(&suffix(id))
    }

    /// A variable. A JSON list or table is one; everything else is text. It is a secret if its name speaks of one, or if
    /// `stored` says so of the one in the database.
    pub(super) fn variable(&self, name: &str, stored: Option<Secrecy>) -> Option<Variable> {
        let text = self.variables.get(&suffix(name))?;
        let value = match serde_json::from_str(text) {
            Ok(value @ (Value::Array(_) | Value::Object(_))) => value,
            Ok(_) | Err(_) => Value::from(text.as_str()),
        };
        let secrecy = match stored {
            Some(Secrecy::Secret) => Secrecy::Secret,
            Some(Secrecy::Shown) | None if names_a_secret(name) => Secrecy::Secret,
            Some(Secrecy::Shown) | None => Secrecy::Shown,
        };
        Some(Variable { value, secrecy })
    }

    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.variables.contains_key(&suffix(name))
    }

    /// The ids of its connections, in lower case.
    pub(super) fn connection_ids(&self) -> impl Iterator<Item = String> + '_ {
        self.connections.keys().map(|id| id.to_ascii_lowercase())
    }

    /// The names of its variables, in lower case.
    pub(super) fn variable_names(&self) -> impl Iterator<Item = String> + '_ {
        self.variables.keys().map(|name| name.to_ascii_lowercase())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Environment")
            .field("connections", &self.connections.keys())
            .field("variables", &self.variables.keys())
            .finish()
    }
}

/// A name as an environment variable has it: upper case, and `_` for `.` and `-`.
fn suffix(name: &str) -> String {
    name.to_ascii_uppercase().replace(['.', '-'], "_")
}
