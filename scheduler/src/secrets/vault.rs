//! The vault: what connections and variables there are, and what they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use chrono::{DateTime, Utc};
use pinwheel_tasks::{Connection, Masks};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Environment, Error, Sources};
use crate::{
    model::{ConnectionId, VariableName, template},
    store::{Kept, Sealed, SealedConnection, SealedVariable, Store},
};

/// A larger value belongs in a file or an object, and its address in a variable.
const MOST_BYTES: usize = 256 * 1024;
/// A description has one line of so many characters.
const LONGEST_DESCRIPTION: usize = 200;

/// Reads and keeps connections and variables. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault {
    store: Store,
    sources: Arc<Sources>,
}

/// Whether a variable's value may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Secrecy {
    /// It is never shown, and masked wherever a task could show it.
    Secret,
    /// It is shown.
    Shown,
}

impl Secrecy {
    fn of(is_secret: bool) -> Self {
        if is_secret { Self::Secret } else { Self::Shown }
    }

    /// Says whether it is a secret.
    pub fn is_secret(self) -> bool {
        match self {
            Self::Secret => true,
            Self::Shown => false,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Shown => "shown",
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The database.
    Database,
    /// The environment of this process.
    Environment,
    /// The environment, which hides one of the same name in the database.
    EnvironmentOverDatabase,
}

impl Source {
    /// The words for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Environment => "environment",
            Self::EnvironmentOverDatabase => "environment, over the database",
        }
    }
}

/// A variable's value.
#[derive(Clone, PartialEq)]
pub struct Variable {
    /// Text, or any JSON.
    pub value: Value,
    /// Whether it may be shown.
    pub secrecy: Secrecy,
}

/// Without the value.
impl fmt::Debug for Variable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Variable")
            .field("secrecy", &self.secrecy)
            .finish_non_exhaustive()
    }
}

/// Something of the database, with what is said about it there.
#[derive(Clone, PartialEq)]
pub struct Stored<T> {
    /// It.
    pub value: T,
    /// What it is for.
    pub description: String,
}

/// A connection as people may see it: without password, and only the names in `extra`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownConnection {
    /// Its id.
    pub connection_id: String,
    /// What it is.
    #[serde(rename = "type")]
    pub connection_type: String,
    /// The host.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The user.
    pub login: Option<String>,
    /// Whether it has a password.
    pub has_password: bool,
    /// The database, or what else it leads to.
    pub schema: Option<String>,
    /// The names in `extra`.
    pub extra: Vec<String>,
    /// What it is for.
    pub description: String,
    /// Where it comes from.
    pub source: Source,
    /// When it was last set in the database.
    pub updated_at: Option<DateTime<Utc>>,
    /// Why it cannot be read here; then only what stands beside the seal is known.
    pub problem: Option<String>,
}

/// A variable as people may see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ShownVariable {
    /// Its name.
    pub name: String,
    /// The value; `None` for a secret, and for one that cannot be read.
    pub value: Option<Value>,
    /// Whether it may be shown.
    pub secret: bool,
    /// What it is for.
    pub description: String,
    /// Where it comes from.
    pub source: Source,
    /// When it was last set in the database.
    pub updated_at: Option<DateTime<Utc>>,
    /// Why it cannot be read here.
    pub problem: Option<String>,
}

/// What was found of what was looked up; what is not there is not there.
#[derive(Clone, Default)]
pub struct LookedUp {
    /// Connections by id.
    pub connections: BTreeMap<String, Connection>,
    /// Variables by name.
    pub variables: BTreeMap<String, Variable>,
}

impl LookedUp {
    /// As templates read it.
    pub fn for_templates(self) -> template::Secrets {
        template::Secrets {
            variables: self
                .variables
                .into_iter()
                .map(|(name, variable)| (name, variable.value))
                .collect(),
            connections: self
                .connections
                .into_iter()
                .map(|(id, connection)| {
                    let value = connection.template_value(&id);
                    (id, value)
                })
                .collect(),
        }
    }

    /// Teaches `masks` every secret in it.
    pub fn mask(&self, masks: &Masks) {
        for (id, connection) in &self.connections {
            mask_connection(masks, id, connection);
        }
        for (name, variable) in &self.variables {
            if variable.secrecy.is_secret() {
                masks.add_value(&format!("variable `{name}`"), &variable.value);
            }
        }
    }
}

/// Teaches `masks` every secret of a connection.
pub(crate) fn mask_connection(masks: &Masks, id: &str, connection: &Connection) {
    for (whose, secret) in connection.secrets() {
        masks.add(&format!("{whose} of connection `{id}`"), &secret);
    }
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rotated {
    /// The key everything is sealed with now.
    pub key: String,
    /// Connections that were sealed anew.
    pub connections: usize,
    /// Variables that were sealed anew.
    pub variables: usize,
    /// What was sealed with that key already.
    pub unchanged: usize,
}

impl Sources {
    /// What the environment alone says of these connections and variables.
    ///
    /// # Errors
    /// The environment holds something that is no connection.
    pub fn look_up(
        &self,
        connections: &BTreeSet<String>,
        variables: &BTreeSet<String>,
    ) -> Result<LookedUp, Error> {
        let mut found = LookedUp::default();
        for id in connections {
            if let Some(connection) = self.environment.connection(id) {
                found.connections.insert(id.clone(), connection?);
            }
        }
        for name in variables {
            if let Some(variable) = self.environment.variable(name, None) {
                found.variables.insert(name.clone(), variable);
            }
        }
        Ok(found)
    }
}

impl Vault {
    /// A vault over a store.
    pub fn new(store: Store, sources: Sources) -> Self {
        Self {
            store,
            sources: Arc::new(sources),
        }
    }

    /// Looks connections and variables up, in at most two questions.
    ///
    /// # Errors
    /// One of them cannot be read, or the store cannot be reached.
    pub async fn look_up(
        &self,
        connections: &BTreeSet<String>,
        variables: &BTreeSet<String>,
    ) -> Result<LookedUp, Error> {
        let mut found = self.sources.look_up(connections, variables)?;
        let missing: Vec<String> = connections
            .iter()
            .filter(|id| !found.connections.contains_key(*id))
            .cloned()
            .collect();
        if !missing.is_empty() {
            for row in self.store.sealed_connections(Some(&missing)).await? {
                let connection = self.open_connection(&row)?;
                found
                    .connections
                    .insert(row.connection_id.to_string(), connection);
            }
        }
        // The database is asked for those of the environment too: it may say that they are secret.
        let wanted: Vec<String> = variables.iter().cloned().collect();
        if !wanted.is_empty() {
            for row in self.store.sealed_variables(Some(&wanted)).await? {
                let name = row.variable_name.as_str();
                let secrecy = Secrecy::of(row.is_secret);
                let variable = match self.sources.environment.variable(name, Some(secrecy)) {
                    Some(variable) => variable,
                    None => self.open_variable(&row)?,
                };
                found.variables.insert(name.to_owned(), variable);
            }
        }
        Ok(found)
    }

    /// One connection, wherever it comes from.
    ///
    /// # Errors
    /// There is none, it cannot be read, or the store cannot be reached.
    pub async fn connection(&self, id: &str) -> Result<Connection, Error> {
        let wanted = BTreeSet::from([id.to_owned()]);
        let mut found = self.look_up(&wanted, &BTreeSet::new()).await?;
        match found.connections.remove(id) {
            Some(connection) => Ok(connection),
            None => Err(self.unknown_connection(id).await?),
        }
    }

    /// One variable, wherever it comes from.
    ///
    /// # Errors
    /// There is none, it cannot be read, or the store cannot be reached.
    pub async fn variable(&self, name: &str) -> Result<Variable, Error> {
        let wanted = BTreeSet::from([name.to_owned()]);
        let mut found = self.look_up(&BTreeSet::new(), &wanted).await?;
        match found.variables.remove(name) {
            Some(variable) => Ok(variable),
            None => Err(self.unknown_variable(name).await?),
        }
    }

    /// A connection as the database has it, whatever the environment says.
    ///
    /// # Errors
    /// It cannot be read, or the store cannot be reached.
    pub async fn stored_connection(
        &self,
        id: &ConnectionId,
    ) -> Result<Option<Stored<Connection>>, Error> {
        let wanted = [id.to_string()];
        let rows = self.store.sealed_connections(Some(&wanted)).await?;
        rows.into_iter()
            .next()
            .map(|row| {
                Ok(Stored {
                    value: self.open_connection(&row)?,
                    description: row.description,
                })
            })
            .transpose()
    }

    /// A variable as the database has it, whatever the environment says.
    ///
    /// # Errors
    /// It cannot be read, or the store cannot be reached.
    pub async fn stored_variable(
        &self,
        name: &VariableName,
    ) -> Result<Option<Stored<Variable>>, Error> {
        let wanted = [name.to_string()];
        let rows = self.store.sealed_variables(Some(&wanted)).await?;
        rows.into_iter()
            .next()
            .map(|row| {
                Ok(Stored {
                    value: self.open_variable(&row)?,
                    description: row.description,
                })
            })
            .transpose()
    }

    /// All connections by id, without secrets. One that cannot be read says why.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn connections(&self) -> Result<Vec<ShownConnection>, Error> {
        let environment = &self.sources.environment;
        let rows = self.store.sealed_connections(None).await?;
        let only_there: BTreeSet<String> = environment
            .connection_ids()
            .filter(|id| {
                let variable = Environment::connection_variable(id);
                rows.iter().all(|row| {
                    Environment::connection_variable(row.connection_id.as_str()) != variable
                })
            })
            .collect();
        let mut shown: Vec<_> = rows.iter().map(|row| self.shown_connection(row)).collect();
        shown.extend(only_there.into_iter().filter_map(|id| {
            let read = environment.connection(&id)?;
            let source = Source::Environment;
            Some(show_connection(&id, read, "", String::new(), source, None))
        }));
        shown.sort_by(|one, other| one.connection_id.cmp(&other.connection_id));
        Ok(shown)
    }

    /// All variables by name, without the values of secret ones. One that cannot be read says why.
    ///
    /// # Errors
    /// The store cannot be reached.
    pub async fn variables(&self) -> Result<Vec<ShownVariable>, Error> {
        let environment = &self.sources.environment;
        let rows = self.store.sealed_variables(None).await?;
        let only_there: BTreeSet<String> = environment
            .variable_names()
            .filter(|name| {
                let variable = Environment::variable_variable(name);
                rows.iter().all(|row| {
                    Environment::variable_variable(row.variable_name.as_str()) != variable
                })
            })
            .collect();
        let mut shown: Vec<_> = rows.iter().map(|row| self.shown_variable(row)).collect();
        shown.extend(only_there.into_iter().filter_map(|name| {
            let variable = environment.variable(&name, None)?;
            let secret = variable.secrecy.is_secret();
            Some(ShownVariable {
                name,
                value: (!secret).then_some(variable.value),
                secret,
                description: String::new(),
                source: Source::Environment,
                updated_at: None,
                problem: None,
            })
        }));
        shown.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(shown)
    }

    /// Makes a connection in the database or replaces one; a description that is not given stays.
    ///
    /// # Errors
    /// Something does not fit, there is no key, or the store cannot be reached.
    pub async fn set_connection(
        &self,
        id: &ConnectionId,
        connection: Connection,
        description: Option<&str>,
        actor: &str,
    ) -> Result<Kept, Error> {
        let connection = connection.checked().map_err(|error| Error::Misfit {
            message: error.message,
            hint: error.hint,
        })?;
        check_description(description)?;
        let sealed = self.seal_connection(id, &connection)?;
        let connection_type = &connection.connection_type;
        Ok(self
            .store
            .keep_connection(id, connection_type, description, &sealed, actor)
            .await?)
    }

    /// Makes a variable in the database or replaces one; a description that is not given stays.
    ///
    /// # Errors
    /// Something does not fit, there is no key, or the store cannot be reached.
    pub async fn set_variable(
        &self,
        name: &VariableName,
        variable: &Variable,
        description: Option<&str>,
        actor: &str,
    ) -> Result<Kept, Error> {
        check_description(description)?;
        let sealed = self.seal_variable(name, variable)?;
        let is_secret = variable.secrecy.is_secret();
        Ok(self
            .store
            .keep_variable(name, is_secret, description, &sealed, actor)
            .await?)
    }

    /// Deletes a connection from the database.
    ///
    /// # Errors
    /// There is none there, or the store cannot be reached.
    pub async fn delete_connection(&self, id: &ConnectionId, actor: &str) -> Result<(), Error> {
        if self.store.drop_connection(id, actor).await? {
            return Ok(());
        }
        if self.sources.environment.has_connection(id.as_str()) {
            return Err(Error::FromEnvironment {
                what: connection_words(id.as_str()),
                variable: Environment::connection_variable(id.as_str()),
            });
        }
        Err(self.unknown_connection(id.as_str()).await?)
    }

    /// Deletes a variable from the database.
    ///
    /// # Errors
    /// There is none there, or the store cannot be reached.
    pub async fn delete_variable(&self, name: &VariableName, actor: &str) -> Result<(), Error> {
        if self.store.drop_variable(name, actor).await? {
            return Ok(());
        }
        if self.sources.environment.has_variable(name.as_str()) {
            return Err(Error::FromEnvironment {
                what: variable_words(name.as_str()),
                variable: Environment::variable_variable(name.as_str()),
            });
        }
        Err(self.unknown_variable(name.as_str()).await?)
    }

    /// Seals everything with the newest key that is not sealed with it yet, all or nothing.
    ///
    /// # Errors
    /// Something cannot be opened with the keys there are, or the store cannot be reached.
    pub async fn rotate(&self, actor: &str) -> Result<Rotated, Error> {
        let Some(newest) = self.sources.keyring.newest().cloned() else {
            return Err(Error::NoKey {
                what: "what is stored".to_owned(),
                verb: "read",
            });
        };
        let resealing = self.store.reseal().await?;
        let all = resealing.connections.len() + resealing.variables.len();
        let anew = |key_id: &str| key_id != newest.as_str();
        let connections: Result<Vec<_>, Error> = resealing
            .connections
            .iter()
            .filter(|row| anew(&row.key_id))
            .map(|row| {
                let connection = self.open_connection(row)?;
                let sealed = self.seal_connection(&row.connection_id, &connection)?;
                Ok((row.connection_id.clone(), sealed.bytes))
            })
            .collect();
        let variables: Result<Vec<_>, Error> = resealing
            .variables
            .iter()
            .filter(|row| anew(&row.key_id))
            .map(|row| {
                let variable = self.open_variable(row)?;
                let sealed = self.seal_variable(&row.variable_name, &variable)?;
                Ok((row.variable_name.clone(), sealed.bytes))
            })
            .collect();
        let (connections, variables) = match (connections, variables) {
            (Ok(connections), Ok(variables)) => (connections, variables),
            (Err(error), _) | (_, Err(error)) => {
                resealing.leave().await?;
                return Err(error);
            }
        };
        let rotated = Rotated {
            key: newest.to_string(),
            connections: connections.len(),
            variables: variables.len(),
            unchanged: all - connections.len() - variables.len(),
        };
        resealing
            .keep(newest.as_str(), connections, variables, actor)
            .await?;
        Ok(rotated)
    }

    fn seal_connection(&self, id: &ConnectionId, connection: &Connection) -> Result<Sealed, Error> {
        let what = connection_words(id.as_str());
        let plain = sized(&what, serde_json::to_vec(connection))?;
        let bound = ["connection", id.as_str(), &connection.connection_type];
        self.sources.keyring.seal(&what, &bound, &plain)
    }

    fn open_connection(&self, row: &SealedConnection) -> Result<Connection, Error> {
        let id = row.connection_id.as_str();
        let what = connection_words(id);
        let bound = ["connection", id, &row.connection_type];
        let plain = self
            .sources
            .keyring
            .open(&what, &bound, &row.key_id, &row.sealed)?;
        serde_json::from_slice(&plain).map_err(|_| Error::Tampered { what })
    }

    fn seal_variable(&self, name: &VariableName, variable: &Variable) -> Result<Sealed, Error> {
        let what = variable_words(name.as_str());
        let plain = sized(&what, serde_json::to_vec(&variable.value))?;
        let bound = ["variable", name.as_str(), variable.secrecy.word()];
        self.sources.keyring.seal(&what, &bound, &plain)
    }

    fn open_variable(&self, row: &SealedVariable) -> Result<Variable, Error> {
        let name = row.variable_name.as_str();
        let what = variable_words(name);
        let secrecy = Secrecy::of(row.is_secret);
        let bound = ["variable", name, secrecy.word()];
        let plain = self
            .sources
            .keyring
            .open(&what, &bound, &row.key_id, &row.sealed)?;
        let value = serde_json::from_slice(&plain).map_err(|_| Error::Tampered { what })?;
        Ok(Variable { value, secrecy })
    }

    fn shown_connection(&self, row: &SealedConnection) -> ShownConnection {
        let id = row.connection_id.as_str();
        let (read, source) = match self.sources.environment.connection(id) {
            Some(read) => (read, Source::EnvironmentOverDatabase),
            None => (self.open_connection(row), Source::Database),
        };
        let description = row.description.clone();
        let updated_at = Some(row.updated_at);
        show_connection(
            id,
            read,
            &row.connection_type,
            description,
            source,
            updated_at,
        )
    }

    fn shown_variable(&self, row: &SealedVariable) -> ShownVariable {
        let name = row.variable_name.as_str();
        let stored = Secrecy::of(row.is_secret);
        let (read, source) = match self.sources.environment.variable(name, Some(stored)) {
            Some(variable) => (Ok(variable), Source::EnvironmentOverDatabase),
            None => (self.open_variable(row), Source::Database),
        };
        let secret = read.as_ref().map_or(stored, |variable| variable.secrecy);
        let (value, problem) = match read {
            Ok(variable) => ((!secret.is_secret()).then_some(variable.value), None),
            Err(error) => (None, Some(error.to_string())),
        };
        ShownVariable {
            name: name.to_owned(),
            value,
            secret: secret.is_secret(),
            description: row.description.clone(),
            source,
            updated_at: Some(row.updated_at),
            problem,
        }
    }

    async fn unknown_connection(&self, id: &str) -> Result<Error, Error> {
        let known = self.connections().await?;
        let names = known.iter().map(|row| row.connection_id.as_str());
        Ok(Error::Unknown {
            what: connection_words(id),
            nearest: nearest(id, names),
        })
    }

    async fn unknown_variable(&self, name: &str) -> Result<Error, Error> {
        let known = self.variables().await?;
        let names = known.iter().map(|row| row.name.as_str());
        Ok(Error::Unknown {
            what: variable_words(name),
            nearest: nearest(name, names),
        })
    }
}

fn show_connection(
    id: &str,
    read: Result<Connection, Error>,
    stored_type: &str,
    description: String,
    source: Source,
    updated_at: Option<DateTime<Utc>>,
) -> ShownConnection {
    let (connection, problem) = match read {
        Ok(connection) => (connection, None),
        Err(error) => {
            let nothing = Connection {
                connection_type: stored_type.to_owned(),
                ..Connection::default()
            };
            (nothing, Some(error.to_string()))
        }
    };
    ShownConnection {
        connection_id: id.to_owned(),
        connection_type: connection.connection_type,
        host: connection.host,
        port: connection.port,
        login: connection.login,
        has_password: connection.password.is_some(),
        schema: connection.schema,
        extra: names_of(&connection.extra),
        description,
        source,
        updated_at,
        problem,
    }
}

fn names_of(table: &Map<String, Value>) -> Vec<String> {
    table.keys().cloned().collect()
}

fn connection_words(id: &str) -> String {
    format!("connection `{id}`")
}

fn variable_words(name: &str) -> String {
    format!("variable `{name}`")
}

fn sized(what: &str, plain: serde_json::Result<Vec<u8>>) -> Result<Vec<u8>, Error> {
    let hint = "keep large values in a file or an object, and its address here";
    let refuse = |message: String| Error::Misfit {
        message,
        hint: hint.to_owned(),
    };
    let plain = plain.map_err(|_| refuse(format!("{what} cannot be written as JSON")))?;
    if plain.len() > MOST_BYTES {
        return Err(refuse(format!(
            "{what} has {} bytes; at most {MOST_BYTES} are kept",
            plain.len()
        )));
    }
    Ok(plain)
}

fn check_description(description: Option<&str>) -> Result<(), Error> {
    let fits = description.is_none_or(|text| {
        text.chars().count() <= LONGEST_DESCRIPTION && !text.chars().any(char::is_control)
    });
    if fits {
        return Ok(());
    }
    Err(Error::Misfit {
        message: format!("a description has one line of at most {LONGEST_DESCRIPTION} characters"),
        hint: "shorten it".to_owned(),
    })
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|known| (strsim::jaro_winkler(known, name), known))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, known)| known.to_owned())
}
