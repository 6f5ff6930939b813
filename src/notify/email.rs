//! Messages by mail, over SMTP.

use std::{fmt, path::PathBuf, time::Duration};

use lettre::{
    AsyncSmtpTransport, AsyncTransport, Tokio1Executor,
    message::{Mailbox, header::ContentType},
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
    },
};
use pinwheel_scheduler::model::message::Message;

use super::Security;
use crate::failure::{Failure, Result};

const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// A mail server.
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) security: Security,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) ca: Option<PathBuf>,
}

/// Who gets mail, from whom, by which server.
#[derive(Clone)]
pub(super) struct Email {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    host: String,
    from: Mailbox,
    to: Vec<Mailbox>,
}

impl fmt::Debug for Email {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Email({})", self.target())
    }
}

impl Email {
    pub(super) fn new(setting: &str, server: Server, from: &str, to: &[String]) -> Result<Self> {
        let mailbox = |key: &str, text: &str| {
            text.parse::<Mailbox>().map_err(|error| {
                Failure::invalid(format!("`{setting}.{key}` holds `{text}`: {error}"))
                    .hint("write an address such as ops@example.com or \"Pinwheel <pinwheel@example.com>\"")
            })
        };
        let from = mailbox("from", from)?;
        let to = to
            .iter()
            .map(|text| mailbox("to", text))
            .collect::<Result<Vec<_>>>()?;
        if to.is_empty() {
            return Err(Failure::invalid(format!(
                "`{setting}.to` is empty, so nobody would get mail"
            )));
        }
        let host = server.host.clone();
        Ok(Self {
            transport: transport(setting, server)?,
            host,
            from,
            to,
        })
    }

    /// Who gets mail.
    pub(super) fn target(&self) -> String {
        let to: Vec<String> = self.to.iter().map(|to| to.email.to_string()).collect();
        format!("{} by {}", to.join(", "), self.host)
    }

    pub(super) async fn send(
        &self,
        message: &Message,
        web: &str,
    ) -> std::result::Result<(), String> {
        // The same for every attempt, so that a repeated delivery can be recognised.
        let id = format!(
            "<pinwheel.{}.{}@{}>",
            message.message_id,
            message.made_at.timestamp_micros(),
            self.from.email.domain()
        );
        let mut mail = lettre::Message::builder()
            .from(self.from.clone())
            .subject(message.subject())
            .message_id(Some(id))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        let mail = mail
            .body(message.text(web))
            .map_err(|error| format!("the mail cannot be written: {error}"))?;
        match self.transport.send(mail).await {
            Ok(_accepted) => Ok(()),
            Err(error) => Err(words(&error)),
        }
    }
}

fn transport(setting: &str, server: Server) -> Result<AsyncSmtpTransport<Tokio1Executor>> {
    let (tls, usual_port) = match server.security {
        Security::Starttls => (Tls::Required(parameters(setting, &server)?), 587),
        Security::Tls => (Tls::Wrapper(parameters(setting, &server)?), 465),
        Security::None => (Tls::None, 25),
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&server.host)
        .port(server.port.unwrap_or(usual_port))
        .timeout(Some(ANSWER_WITHIN))
        .tls(tls);
    match (server.user, server.password) {
        (None, None) => {}
        (Some(_), Some(_)) if server.security == Security::None => {
            return Err(Failure::invalid(format!(
                "`{setting}` would send its password where anybody can read it"
            ))
            .hint("set `security = \"starttls\"` or \"tls\""));
        }
        (Some(user), Some(password)) => {
            builder = builder.credentials(Credentials::new(user, password));
        }
        (Some(_), None) | (None, Some(_)) => {
            return Err(
                Failure::invalid(format!("`{setting}` has one of `user` and `password`"))
                    .hint("give both, or neither for a server that asks for none"),
            );
        }
    }
    Ok(builder.build())
}

fn parameters(setting: &str, server: &Server) -> Result<TlsParameters> {
    let mut parameters = TlsParameters::builder(server.host.clone());
    if let Some(path) = &server.ca {
        let refuse = |error: Box<dyn std::error::Error + Send + Sync>| {
            Failure::invalid(format!(
                "`{setting}.ca` is `{}`, which cannot be read as a certificate",
                path.display()
            ))
            .because(error)
        };
        let pem = std::fs::read(path).map_err(|error| refuse(error.into()))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| refuse(error.into()))?;
        parameters = parameters
            .certificate_store(CertificateStore::None)
            .add_root_certificate(certificate);
    }
    parameters.build().map_err(|error| {
        Failure::failed(format!("TLS for `{setting}` cannot be prepared")).because(error)
    })
}

/// What went wrong, down to the cause.
fn words(error: &lettre::transport::smtp::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        let more = source.to_string();
        if !words.contains(&more) {
            words = format!("{words}: {more}");
        }
        cause = source.source();
    }
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}
