//! `pinwheel notifications`: what people were told, and whether they can be.

use chrono::Utc;
use clap::{Args, Subcommand};
use pinwheel_scheduler::{
    engine::Courier,
    model::{DagId, MessageId, message::Message},
    store::{ChannelRow, MessageFilter, MessageRow},
};
use serde_json::json;

use super::{client, output};
use crate::{
    failure::{Failure, Result},
    notify::Channels,
    settings::Settings,
};

/// `pinwheel notifications …`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List channels, and the last messages with what became of them
    List(List),
    /// Send a test message to a channel of the settings, from here
    #[command(after_help = "\
Examples:
  pinwheel notifications test ops
  pinwheel --config /etc/pinwheel.toml notifications test mail

It needs no database: the settings of this process say where the channel leads.")]
    Test(Test),
    /// Send a message again that did not arrive
    Retry(Retry),
}

/// Arguments of `notifications list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Only of this DAG
    #[arg(long, value_parser = client::dag_id, value_name = "ID")]
    dag: Option<DagId>,
    /// Only messages that could not be delivered yet
    #[arg(long)]
    failing: bool,
    /// At most so many messages
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=200))]
    limit: i64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `notifications test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// The channel
    channel: String,
}

/// Arguments of `notifications retry`.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// The message's number, as `notifications list` shows it
    message: MessageId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Command {
    pub(crate) async fn run(self, settings: &Settings) -> Result<()> {
        match self {
            Self::List(arguments) => list(settings, arguments).await,
            Self::Test(arguments) => test(&settings.channels, &arguments).await,
            Self::Retry(arguments) => retry(settings, &arguments).await,
        }
    }
}

async fn list(settings: &Settings, arguments: List) -> Result<()> {
    let store = client::connect(settings).await?;
    let channels = store.channels().await?;
    let filter = MessageFilter {
        dag_id: arguments.dag,
        undelivered: arguments.failing,
        limit: arguments.limit,
        before: None,
    };
    let messages = store.messages(&filter).await?;
    if arguments.json {
        return output::json(&json!({ "channels": channels, "messages": messages }));
    }
    output::text(&words(&channels, &messages))
}

async fn test(channels: &Channels, arguments: &Test) -> Result<()> {
    let channel = arguments.channel.as_str();
    if channels.names().all(|name| name != channel) {
        let known: Vec<&str> = channels.names().collect();
        let failure = Failure::invalid(format!("the settings have no channel `{channel}`"));
        return Err(if known.is_empty() {
            failure.hint("describe one in the settings file, in a table [notify.channels.NAME]")
        } else {
            failure.hint(format!("they have {}", known.join(", ")))
        });
    }
    channels
        .deliver(&Message::test(channel, Utc::now()))
        .await
        .map_err(|error| Failure::failed(format!("`{channel}` was not reached: {error}")))?;
    output::text(&format!("a test message was sent to {channel}"))
}

async fn retry(settings: &Settings, arguments: &Retry) -> Result<()> {
    let store = client::connect(settings).await?;
    let message = store
        .retry_message(arguments.message, &client::actor())
        .await?;
    client::ring(&store).await;
    if arguments.json {
        return output::json(&message);
    }
    output::text(&format!(
        "message {} goes out to {} again",
        message.message_id, message.channel
    ))
}

fn words(channels: &[ChannelRow], messages: &[MessageRow]) -> String {
    let channels = if channels.is_empty() {
        "no channels: describe one in the settings file, in a table [notify.channels.NAME]"
            .to_owned()
    } else {
        let rows = channels.iter().map(|channel| {
            [
                channel.channel.clone(),
                channel
                    .kind
                    .clone()
                    .unwrap_or_else(|| "not in the settings".to_owned()),
                channel.target.clone(),
                channel.waiting.to_string(),
                output::maybe_time(channel.delivered_at),
                if channel.failing {
                    channel.last_error.clone().unwrap_or_default()
                } else {
                    "-".to_owned()
                },
            ]
        });
        output::columns(
            [
                "channel",
                "kind",
                "to",
                "waiting",
                "last delivery",
                "trouble",
            ],
            rows,
        )
    };
    if messages.is_empty() {
        return format!("{channels}\n\nno messages");
    }
    let rows = messages.iter().map(|message| {
        [
            message.message_id.to_string(),
            output::time(message.made_at),
            message.event.to_string(),
            message.dag_id.to_string(),
            message
                .run_id
                .map_or_else(|| "-".to_owned(), |run| run.to_string()),
            message.count.to_string(),
            message.channel.clone(),
            message.state().words().to_owned(),
            message.attempts.to_string(),
            message.last_error.clone().unwrap_or_default(),
        ]
    });
    let messages = output::columns(
        [
            "id", "made", "event", "dag", "run", "count", "channel", "state", "tries", "trouble",
        ],
        rows,
    );
    format!("{channels}\n\n{messages}")
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use pinwheel_scheduler::model::{Event, RunId};

    use super::*;

    #[test]
    fn people_read_which_channel_fails_and_what_became_of_each_message() {
        let at: DateTime<Utc> = "2026-01-02T03:04:05Z".parse().expect("an instant");
        let channel = |name: &str, failing: bool| ChannelRow {
            channel: name.to_owned(),
            kind: Some("webhook".to_owned()),
            target: "https://hooks.example.com".to_owned(),
            seen_at: Some(at),
            delivered_at: (!failing).then_some(at),
            failed_at: failing.then_some(at),
            last_error: failing.then(|| "the server answered 500".to_owned()),
            failing,
            waiting: i64::from(failing),
        };
        let message = |id, delivered: bool| MessageRow {
            message_id: MessageId(id),
            dag_id: DagId::new("pins").expect("a name"),
            event: Event::Failure,
            channel: "ops".to_owned(),
            count: 3,
            made_at: at,
            next_at: (!delivered).then_some(at),
            attempts: 2,
            delivered_at: delivered.then_some(at),
            given_up_at: None,
            last_error: (!delivered).then(|| "the server answered 500".to_owned()),
            run_id: Some(RunId(7)),
            detail: json!({}),
        };
        insta::assert_snapshot!(words(
            &[channel("ops", true), channel("team", false)],
            &[message(2, false), message(1, true)]
        ), @"
        CHANNEL  KIND     TO                         WAITING  LAST DELIVERY         TROUBLE
        ops      webhook  https://hooks.example.com  1        -                     the server answered 500
        team     webhook  https://hooks.example.com  0        2026-01-02 03:04:05Z  -

        ID  MADE                  EVENT    DAG   RUN  COUNT  CHANNEL  STATE      TRIES  TROUBLE
        2   2026-01-02 03:04:05Z  failure  pins  7    3      ops      failing    2      the server answered 500
        1   2026-01-02 03:04:05Z  failure  pins  7    3      ops      delivered  2
        ");
        insta::assert_snapshot!(words(&[], &[]), @"
        no channels: describe one in the settings file, in a table [notify.channels.NAME]

        no messages
        ");
    }
}
