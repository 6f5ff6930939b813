//! Connections: how to reach a service outside and with which credentials, by a name that a DAG file can say.
//!
//! Whoever writes a DAG names a connection; who runs Pinwheel decides where it leads. No message made here holds a part
//! of what was given, because any part may be a secret.

use std::{fmt, fmt::Write as _};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::Failure;

/// Gives a kind the connections that its `with` table names. What a try was given is masked wherever that try could
/// show it.
#[async_trait]
pub trait Connections: Send + Sync {
    /// The connection of that id: from the environment, or else from the orchestrator's store.
    ///
    /// # Errors
    /// There is none, or it cannot be read: a [`Failure`] with what to do, to be returned as it is.
    async fn get(&self, id: &str) -> Result<Connection, Failure>;
}

/// No connections at all, for kinds that run without an orchestrator.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoConnections;

#[async_trait]
impl Connections for NoConnections {
    async fn get(&self, id: &str) -> Result<Connection, Failure> {
        Err(Failure::permanent(format!("there is no connection `{id}`")))
    }
}

/// A service and how to log in there. Its `Debug` form holds no secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// What it is: `postgres`, `http`, `https`, `s3`, `smtp`, or any word.
    #[serde(rename = "type", alias = "conn_type")]
    pub connection_type: String,
    /// The host's name or address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<String>,
    /// The password; a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The database, or what else stands behind the `/` of a URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Whatever else the service needs. Values whose name speaks of a secret are secrets.
    #[serde(
        default,
        skip_serializing_if = "Map::is_empty",
        deserialize_with = "extra"
    )]
    pub extra: Map<String, Value>,
}

/// Why a text is no connection. It holds nothing of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ConnectionError {
    /// What is wrong.
    pub message: String,
    /// The next step.
    pub hint: String,
}

/// The names under which a template reads the parts of a connection.
pub const CONNECTION_KEYS: [&str; 9] = [
    "id", "type", "host", "port", "login", "password", "schema", "extra", "uri",
];

/// A name with one of these in it speaks of a secret. The words are Airflow's, and `credential`.
const SECRET_WORDS: [&str; 13] = [
    "access_token",
    "api_key",
    "apikey",
    "authorization",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "private_key",
    "proxies",
    "secret",
    "service_account",
    "token",
];

/// Says whether a name, such as one in `extra`, speaks of a secret.
pub fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    SECRET_WORDS.iter().any(|word| name.contains(word)) || name == "keyfile_dict"
}

impl Connection {
    /// Reads a connection from a JSON object or a URI, whichever the text is.
    ///
    /// # Errors
    /// It is neither.
    pub fn parse(text: &str) -> Result<Self, ConnectionError> {
        let text = text.trim();
        if text.starts_with('{') {
            Self::from_json(text)
        } else {
            Self::from_uri(text)
        }
    }

    fn from_json(text: &str) -> Result<Self, ConnectionError> {
        let connection: Self = serde_json::from_str(text).map_err(|error| ConnectionError {
            message: json_mistake(&error),
            hint: "write it as `{\"type\": \"postgres\", \"host\": \"…\", \"port\": 5432, \"login\": \"…\", \"password\": \"…\", \"schema\": \"…\", \"extra\": {…}}`".to_owned(),
        })?;
        connection.checked()
    }

    /// Reads `type://login:password@host:port/schema?name=value`, each part percent-encoded where it has to be.
    ///
    /// # Errors
    /// The text is no such URI.
    pub fn from_uri(text: &str) -> Result<Self, ConnectionError> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| misfit("a connection's URI has `://` behind its type"))?;
        let (rest, query) = match rest.split_once('?') {
            Some((rest, query)) => (rest, Some(query)),
            None => (rest, None),
        };
        let (authority, schema) = match rest.split_once('/') {
            Some((authority, schema)) => (authority, Some(schema)),
            None => (rest, None),
        };
        let (credentials, place) = match authority.rsplit_once('@') {
            Some((credentials, place)) => (Some(credentials), place),
            None => (None, authority),
        };
        let (login, password) =
            match credentials.map(|both| both.split_once(':').unwrap_or((both, ""))) {
                Some((login, password)) => (decoded(login)?, decoded(password)?),
                None => (None, None),
            };
        let (host, port) = match place.rsplit_once(':') {
            // The colons of an IPv6 address stand in brackets.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            Some(_) | None => (place, None),
        };
        let port =
            match port {
                None | Some("") => None,
                Some(port) => Some(port.parse().map_err(|_| {
                    misfit("the port in a connection's URI is a number up to 65535")
                })?),
            };
        let connection = Self {
            connection_type: scheme.to_ascii_lowercase(),
            host: decoded(host.trim_start_matches('[').trim_end_matches(']'))?,
            port,
            login,
            password,
            schema: schema.map(decoded).transpose()?.flatten(),
            extra: query.map(extra_of).transpose()?.unwrap_or_default(),
        };
        connection.checked()
    }

    /// The connection with its type in one spelling.
    ///
    /// # Errors
    /// The type is no word, or a part holds a zero byte.
    pub fn checked(mut self) -> Result<Self, ConnectionError> {
        self.connection_type = match self.connection_type.trim() {
            "postgresql" => "postgres".to_owned(),
            other => other.replace('-', "_"),
        };
        let is_word = (1..=64).contains(&self.connection_type.len())
            && self
                .connection_type
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'+'));
        if !is_word {
            return Err(misfit(
                "the type of a connection is a word of letters, digits, `_`, `.` and `+`",
            ));
        }
        let has_zero = [&self.host, &self.login, &self.password, &self.schema]
            .into_iter()
            .flatten()
            .any(|text| text.contains('\0'));
        if has_zero || self.extra.contains_key("") {
            return Err(misfit(
                "a part of the connection has a zero byte, or a name in `extra` is empty",
            ));
        }
        Ok(self)
    }

    /// The connection as a URI, with its password.
    pub fn uri(&self) -> String {
        let mut uri = format!("{}://", self.connection_type.replace('_', "-"));
        if self.login.is_some() || self.password.is_some() {
            uri.push_str(&encoded(self.login.as_deref().unwrap_or_default()));
            if let Some(password) = &self.password {
                uri.push(':');
                uri.push_str(&encoded(password));
            }
            uri.push('@');
        }
        match self.host.as_deref() {
            Some(host) if host.contains(':') => uri.push_str(&format!("[{host}]")),
            Some(host) => uri.push_str(&encoded(host)),
            None => {}
        }
        if let Some(port) = self.port {
            uri.push_str(&format!(":{port}"));
        }
        if let Some(schema) = &self.schema {
            uri.push('/');
            uri.push_str(&encoded(schema));
        }
        if !self.extra.is_empty() {
            if self.schema.is_none() {
                uri.push('/');
            }
            let flat = self.extra.values().all(Value::is_string);
            let pairs: Vec<String> = if flat {
                self.extra
                    .iter()
                    .map(|(name, value)| {
                        format!(
                            "{}={}",
                            encoded(name),
                            encoded(value.as_str().unwrap_or_default())
                        )
                    })
                    .collect()
            } else {
                let extra = Value::Object(self.extra.clone()).to_string();
                vec![format!("__extra__={}", encoded(&extra))]
            };
            uri.push('?');
            uri.push_str(&pairs.join("&"));
        }
        uri
    }

    /// What `{{ conn.ID }}` is in a template. A part that is not given is not there.
    pub fn template_value(&self, id: &str) -> Value {
        let mut table = Map::new();
        table.insert("id".to_owned(), id.into());
        table.insert("type".to_owned(), self.connection_type.as_str().into());
        for (name, part) in [
            ("host", &self.host),
            ("login", &self.login),
            ("password", &self.password),
            ("schema", &self.schema),
        ] {
            if let Some(part) = part {
                table.insert(name.to_owned(), part.as_str().into());
            }
        }
        if let Some(port) = self.port {
            table.insert("port".to_owned(), port.into());
        }
        table.insert("extra".to_owned(), Value::Object(self.extra.clone()));
        table.insert("uri".to_owned(), self.uri().into());
        Value::Object(table)
    }

    /// Every secret in it, with words that say which one it is, such as "the password".
    pub fn secrets(&self) -> Vec<(String, String)> {
        let mut secrets = Vec::new();
        if let Some(password) = &self.password {
            secrets.push(("the password".to_owned(), password.clone()));
            // What an `Authorization: Basic` header carries.
            let login = self.login.as_deref().unwrap_or_default();
            let basic = BASE64.encode(format!("{login}:{password}"));
            secrets.push(("the password".to_owned(), basic));
        }
        collect_secrets("extra", &self.extra, &mut secrets);
        secrets
    }
}

/// Without password and `extra`.
impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("connection_type", &self.connection_type)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("login", &self.login)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

fn collect_secrets(path: &str, table: &Map<String, Value>, secrets: &mut Vec<(String, String)>) {
    for (name, value) in table {
        let path = format!("{path}.{name}");
        if names_a_secret(name) {
            texts(value, &mut |text| secrets.push((format!("`{path}`"), text)));
        } else if let Value::Object(inner) = value {
            collect_secrets(&path, inner, secrets);
        }
    }
}

/// Every text and number in a value.
pub(crate) fn texts(value: &Value, take: &mut impl FnMut(String)) {
    match value {
        Value::String(text) => take(text.clone()),
        Value::Number(number) => take(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| texts(item, take)),
        Value::Object(table) => table.values().for_each(|item| texts(item, take)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// `extra` is an object, or, as Airflow exports it, a text that holds one.
fn extra<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    use serde::de::Error as _;
    let refuse = || D::Error::custom("`extra` is not a JSON object");
    match Value::deserialize(deserializer)? {
        Value::Object(table) => Ok(table),
        Value::Null => Ok(Map::new()),
        Value::String(text) if text.trim().is_empty() => Ok(Map::new()),
        Value::String(text) => serde_json::from_str(&text).map_err(|_| refuse()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => Err(refuse()),
    }
}

fn extra_of(query: &str) -> Result<Map<String, Value>, ConnectionError> {
    let mut extra = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decoded(name)?.unwrap_or_default();
        let value = decoded(value)?.unwrap_or_default();
        if name == "__extra__" {
            match serde_json::from_str(&value) {
                Ok(Value::Object(table)) => extra.extend(table),
                Ok(_) | Err(_) => {
                    return Err(misfit("`__extra__` in a connection's URI is a JSON object"));
                }
            }
        } else {
            extra.insert(name, value.into());
        }
    }
    Ok(extra)
}

fn misfit(message: &str) -> ConnectionError {
    ConnectionError {
        message: message.to_owned(),
        hint: "write it as `type://login:password@host:port/schema?name=value`, and what is special in a part percent-encoded: `/` is %2F, `@` is %40, `:` is %3A, `%` is %25".to_owned(),
    }
}

/// What serde says, without the values it quotes.
fn json_mistake(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let is_safe = text.starts_with("unknown field")
        || text.starts_with("missing field")
        || text.starts_with("duplicate field")
        || text.starts_with("`extra`");
    if is_safe {
        format!("the connection does not fit: {text}")
    } else if error.is_data() {
        format!(
            "a part of the connection has the wrong type (line {}, column {})",
            error.line(),
            error.column()
        )
    } else {
        format!(
            "the connection is no JSON (line {}, column {})",
            error.line(),
            error.column()
        )
    }
}

/// A part of a URI as it was before it was encoded; an empty one is not there.
fn decoded(part: &str) -> Result<Option<String>, ConnectionError> {
    if part.is_empty() {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let code = others
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or_else(|| {
                misfit("a `%` in a connection's URI has two hexadecimal digits behind it")
            })?;
        bytes.push(code);
        rest = &others[2..];
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| misfit("a part of a connection's URI is not UTF-8"))
}

/// A text as a part of a URI: everything but letters, digits and `-._~` is encoded.
pub(crate) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes every text");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_uri_and_json_say_the_same() {
        let from_uri = Connection::parse(
            "postgresql://ada:p%40ss%2Fw%C3%B6rd@db.example.com:5433/ware%20house?sslmode=require&application_name=x",
        )
        .expect("a connection");
        let from_json = Connection::parse(
            r#"{"conn_type": "postgres", "login": "ada", "password": "p@ss/wörd", "host": "db.example.com", "port": 5433,
                "schema": "ware house", "extra": "{\"sslmode\": \"require\", \"application_name\": \"x\"}"}"#,
        )
        .expect("a connection");
        assert_eq!(from_uri, from_json);
        assert_eq!(Connection::parse(&from_uri.uri()), Ok(from_uri));
    }

    #[test]
    fn every_connection_survives_its_uri() {
        for json in [
            json!({ "type": "http" }),
            json!({ "type": "http", "host": "::1", "port": 80 }),
            json!({ "type": "my_service", "login": "a:b", "password": ":/?#[]@%&= é" }),
            json!({ "type": "x", "password": "only" }),
            json!({ "type": "s3", "extra": { "region": "eu", "deep": { "list": [1, true, null] } } }),
            json!({ "type": "s3", "schema": "a/b", "extra": { "a b": "c&d" } }),
        ] {
            let connection = Connection::parse(&json.to_string()).expect("a connection");
            assert_eq!(
                Connection::parse(&connection.uri()),
                Ok(connection),
                "{json}"
            );
        }
    }

    #[test]
    fn a_mistake_is_told_without_a_part_of_what_was_given() {
        for wrong in [
            "hunter2",
            "postgres://u:hunter2/x@host/db",
            "postgres://u:p@host:hunter2/db",
            "postgres://u:hunter2%zz@host/db",
            "hunter2 hunter2://host",
            "postgres://host/?__extra__=hunter2",
            r#"{"type": "x", "password": 7, "login": "hunter2"}"#,
            r#"{"type": "x", "port": "hunter2"}"#,
            r#"{"type": "x", "extra": "hunter2"}"#,
            r#"{"type": "x", "password": "hunter2""#,
            r#"{"type": "x", "passwort": "hunter2"}"#,
        ] {
            let error = Connection::parse(wrong).expect_err(wrong);
            let told = format!("{} {}", error.message, error.hint);
            assert!(!told.contains("hunter2"), "{told}");
        }
        let debug = format!("{:?}", Connection::parse("x://a:hunter2@h/?token=hunter2"));
        assert!(!debug.contains("hunter2"), "{debug}");
    }

    #[test]
    fn its_secrets_are_the_password_and_what_extra_calls_one() {
        let connection = Connection::parse(
            r#"{"type": "x", "login": "ada", "password": "one", "extra": {"api_key": "two", "region": "eu", "tls": {"private-key": ["three"]}}}"#,
        )
        .expect("a connection");
        let secrets: Vec<String> = connection
            .secrets()
            .into_iter()
            .map(|(whose, secret)| format!("{whose}: {secret}"))
            .collect();
        assert_eq!(
            secrets,
            [
                "the password: one",
                "the password: YWRhOm9uZQ==",
                "`extra.api_key`: two",
                "`extra.tls.private-key`: three"
            ]
        );
    }
}
