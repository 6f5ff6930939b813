//! The channels of the settings, and the courier that brings messages to them. Secrets stay in here: what is shown of a
//! channel, and what an error says, has none.

mod email;
#[cfg(test)]
mod tests;
mod webhook;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use async_trait::async_trait;
use pinwheel_scheduler::{engine::Courier, model::message::Message, store::ChannelInfo};
use serde::Deserialize;

use crate::failure::{Failure, Result};
use email::Email;
use webhook::{Shape, Webhook};

/// A channel as the settings file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ChannelTable {
    /// A JSON document is posted.
    Webhook {
        url: Secret,
        /// Signs the document.
        secret: Option<Secret>,
    },
    /// Slack, and what speaks like it.
    Slack { url: Secret },
    /// Mail by SMTP.
    Email {
        host: String,
        port: Option<u16>,
        security: Option<Security>,
        user: Option<String>,
        password: Option<Secret>,
        from: String,
        to: Vec<String>,
        /// Trusts the authority of this file (PEM) instead of the system's.
        ca: Option<PathBuf>,
    },
}

/// How the connection to a mail server is secured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Security {
    /// TLS is begun after the greeting, and nothing is sent without it.
    Starttls,
    /// TLS from the first byte.
    Tls,
    /// Anybody on the way can read along.
    None,
}

/// A text that is never printed. `env:NAME` stands for a variable of the environment.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("***")
    }
}

impl Secret {
    fn read(&self, setting: &str) -> Result<String> {
        match self.0.strip_prefix("env:") {
            None => Ok(self.0.clone()),
            Some(name) => std::env::var(name).map_err(|_| {
                Failure::invalid(format!(
                    "`{setting}` is read from the variable `{name}`, which is not set"
                ))
                .hint("set it for this process, or write the value into the settings file")
            }),
        }
    }
}

/// The channels, checked. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Channels {
    channels: BTreeMap<String, Channel>,
    /// Where the pages are, for links.
    web: String,
}

#[derive(Debug, Clone)]
enum Channel {
    Post(Webhook),
    Mail(Email),
}

impl Channels {
    /// Checks what the settings say. `web` is where the pages are.
    pub(crate) fn read(tables: BTreeMap<String, ChannelTable>, web: String) -> Result<Self> {
        let channels = tables
            .into_iter()
            .map(|(name, table)| {
                let channel = channel(&format!("notify.channels.{name}"), table)?;
                Ok((name, channel))
            })
            .collect::<Result<_>>()?;
        Ok(Self { channels, web })
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.channels.keys().map(String::as_str)
    }

    /// Links lead to `web` from now on.
    pub(crate) fn linking_to(mut self, web: String) -> Self {
        self.web = web;
        self
    }
}

fn channel(setting: &str, table: ChannelTable) -> Result<Channel> {
    let key = |name: &str| format!("{setting}.{name}");
    match table {
        ChannelTable::Webhook { url, secret } => {
            let secret = secret
                .map(|secret| secret.read(&key("secret")))
                .transpose()?;
            if secret.as_ref().is_some_and(String::is_empty) {
                return Err(Failure::invalid(format!(
                    "`{}` is empty, so nothing would be signed",
                    key("secret")
                ))
                .hint("leave it out, or give a long random text"));
            }
            let url = url.read(&key("url"))?;
            Webhook::new(&key("url"), &url, Shape::Json { secret }).map(Channel::Post)
        }
        ChannelTable::Slack { url } => {
            let url = url.read(&key("url"))?;
            Webhook::new(&key("url"), &url, Shape::Slack).map(Channel::Post)
        }
        ChannelTable::Email {
            host,
            port,
            security,
            user,
            password,
            from,
            to,
            ca,
        } => {
            let password = password
                .map(|password| password.read(&key("password")))
                .transpose()?;
            Email::new(
                setting,
                email::Server {
                    host,
                    port,
                    security: security.unwrap_or(Security::Starttls),
                    user,
                    password,
                    ca,
                },
                &from,
                &to,
            )
            .map(Channel::Mail)
        }
    }
}

#[async_trait]
impl Courier for Channels {
    fn channels(&self) -> Vec<ChannelInfo> {
        self.channels
            .iter()
            .map(|(name, channel)| {
                let (kind, target) = match channel {
                    Channel::Post(webhook) => (webhook.kind(), webhook.target()),
                    Channel::Mail(email) => ("email", email.target()),
                };
                ChannelInfo {
                    channel: name.clone(),
                    kind: kind.to_owned(),
                    target,
                }
            })
            .collect()
    }

    async fn deliver(&self, message: &Message) -> std::result::Result<(), String> {
        match self.channels.get(&message.channel) {
            Some(Channel::Post(webhook)) => webhook.post(message, &self.web).await,
            Some(Channel::Mail(email)) => email.send(message, &self.web).await,
            None => Err(format!(
                "the settings of this scheduler have no channel `{}`; add [notify.channels.{}]",
                message.channel, message.channel
            )),
        }
    }
}
