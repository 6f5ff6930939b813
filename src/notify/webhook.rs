//! Messages over HTTP: a JSON document, signed if there is a secret, or what Slack takes.

use std::{fmt, time::Duration};

use hmac::{Hmac, KeyInit, Mac};
use pinwheel_scheduler::model::message::Message;
use reqwest::{Client, Url, header::CONTENT_TYPE, redirect};
use sha2::Sha256;

use crate::failure::{Failure, Result};

const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// So much of an answer that refuses is told.
const LONGEST_ANSWER: usize = 200;

/// What is posted.
#[derive(Clone)]
pub(super) enum Shape {
    /// All there is to know.
    Json {
        /// Signs it.
        secret: Option<String>,
    },
    /// A text.
    Slack,
}

/// Where messages are posted. The address may be a secret itself, as Slack's are.
#[derive(Clone)]
pub(super) struct Webhook {
    url: Url,
    shape: Shape,
    client: Client,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Webhook({})", self.target())
    }
}

impl Webhook {
    pub(super) fn new(setting: &str, url: &str, shape: Shape) -> Result<Self> {
        let refuse = || {
            Failure::invalid(format!("`{setting}` is no address of a web server"))
                .hint("write a URL such as https://hooks.example.com/pinwheel")
        };
        let url = Url::parse(url).map_err(|_| refuse())?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(refuse());
        }
        // A redirect would carry the message to somebody whom nobody named.
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_WITHIN)
            .timeout(ANSWER_WITHIN)
            .user_agent(concat!("pinwheel/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::failed("no HTTP client can be made").because(error))?;
        Ok(Self { url, shape, client })
    }

    pub(super) fn kind(&self) -> &'static str {
        match self.shape {
            Shape::Json { .. } => "webhook",
            Shape::Slack => "slack",
        }
    }

    /// The server, without the path, which may be secret.
    pub(super) fn target(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    pub(super) async fn post(
        &self,
        message: &Message,
        web: &str,
    ) -> std::result::Result<(), String> {
        let (body, secret) = match &self.shape {
            Shape::Json { secret } => (message.json(web), secret.as_deref()),
            Shape::Slack => (message.slack(web), None),
        };
        let body = body.to_string();
        let mut request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("X-Pinwheel-Message", message.message_id.to_string())
            .header("X-Pinwheel-Event", message.event.as_str());
        if let Some(secret) = secret {
            request = request.header("X-Pinwheel-Signature", sign(secret, body.as_bytes()));
        }
        let answer = request
            .body(body)
            .send()
            .await
            .map_err(|error| words(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let said = beginning(answer).await;
        Err(if said.is_empty() {
            format!("the server answered {status}")
        } else {
            format!("the server answered {status}: {said}")
        })
    }
}

/// The signature of a body: HMAC-SHA256 under the secret, in hex.
pub(super) fn sign(secret: &str, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// What went wrong, down to the cause, without the address.
fn words(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "the server cannot be reached"
    } else {
        "the request failed"
    };
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    // The outermost error names the address; its innermost cause does not.
    match std::error::Error::source(error) {
        Some(_) => format!("{what}: {cause}"),
        None => what.to_owned(),
    }
}

/// The first words of an answer, on one line.
async fn beginning(mut answer: reqwest::Response) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < 4 * LONGEST_ANSWER {
        match answer.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&bytes)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .filter(|character| !character.is_control())
        .take(LONGEST_ANSWER)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_everybody_else_computes() {
        // RFC 4231, test case 2.
        assert_eq!(
            sign("Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn neither_path_nor_password_of_an_address_is_shown() {
        let url = "https://user:pw@hooks.example.com/services/T0/B0/secret?token=x";
        let webhook = Webhook::new("x", url, Shape::Slack).expect("it is an address");
        assert_eq!(webhook.target(), "https://hooks.example.com");
        assert_eq!(format!("{webhook:?}"), "Webhook(https://hooks.example.com)");
    }

    #[test]
    fn only_web_addresses_are_taken() {
        for wrong in ["hooks.example.com/x", "file:///etc/passwd", "ftp://x/y", ""] {
            let failure = Webhook::new("notify.channels.ops.url", wrong, Shape::Slack)
                .expect_err("it is no web address");
            assert!(failure.to_string().contains("notify.channels.ops.url"));
        }
    }
}
