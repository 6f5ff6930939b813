//! Messages that no ingest API would let through, put straight on the topic.

use std::time::Duration;

use pinwheel_tasks::{KafkaSettings, kafka as client};
use rdkafka::producer::{FutureProducer, FutureRecord};

use crate::kafka::{self, Quiet};

/// A message that cannot become a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong with it.
    pub name: &'static str,
    /// The raw value.
    pub value: Vec<u8>,
}

/// The five malformed messages of the demo: broken JSON, a wrong type, a missing field, not UTF-8, empty.
pub fn malformed_messages() -> [Malformed; 5] {
    [
        Malformed {
            name: "broken JSON",
            value: br#"{"category": "art", "index": 11001, "unique_id": "#.to_vec(),
        },
        Malformed {
            name: "wrong type",
            value: pin(
                r#""index": "eleven thousand and two","#,
                r#""category": "art","#,
            )
            .into_bytes(),
        },
        Malformed {
            name: "missing field",
            value: pin(r#""index": 11003,"#, "").into_bytes(),
        },
        Malformed {
            name: "not UTF-8",
            value: not_utf8(),
        },
        Malformed {
            name: "empty",
            value: Vec::new(),
        },
    ]
}

fn pin(index: &str, category: &str) -> String {
    format!(
        r#"{{{category} {index} "unique_id": "00000000-0000-4000-8000-000000000000", "title": "A malformed pin", "description": "Produced by the emulator", "follower_count": "1k", "tag_list": "a,b,c,d,e,f,g,h,i", "is_image_or_video": "image", "image_src": "https://example.org/a.jpg", "downloaded": 1, "save_location": "Local save in /data/art"}}"#
    )
}

/// A whole pin but for two bytes of Latin-1 in its title.
fn not_utf8() -> Vec<u8> {
    let text = pin(r#""index": 11004,"#, r#""category": "art","#);
    let (before, after) = text
        .split_once("A malformed pin")
        .expect("the title is in the pin");
    [before.as_bytes(), b"Caf\xe9 \xff", after.as_bytes()].concat()
}

/// Why a malformed message is not on the topic.
#[derive(Debug, thiserror::Error)]
#[error("cannot produce the malformed message `{name}` to `{topic}`: {source}")]
pub struct ProduceError {
    name: &'static str,
    topic: String,
    source: rdkafka::error::KafkaError,
}

/// Produces messages straight to the topic, without a key, and returns partition and offset of each.
///
/// # Errors
///
/// When the broker does not acknowledge one of them within ten seconds.
pub async fn produce_malformed(
    settings: &KafkaSettings,
    topic: &str,
    messages: &[Malformed],
) -> Result<Vec<(i32, i64)>, ProduceError> {
    let failed = |name, source| ProduceError {
        name,
        topic: topic.to_owned(),
        source,
    };
    let mut config = client::producer(settings);
    config.set("message.timeout.ms", "10000");
    let created = config.create_with_context(Quiet::default());
    let producer: FutureProducer<Quiet> =
        created.map_err(|source| failed("(no client)", source))?;
    let mut places = Vec::with_capacity(messages.len());
    for message in messages {
        let record = FutureRecord::<(), _>::to(topic).payload(&message.value);
        let sent = producer.send(record, Duration::from_secs(10)).await;
        let delivery = sent.map_err(|(source, _)| failed(message.name, source))?;
        places.push((delivery.partition, delivery.offset));
    }
    // Dropping a client joins its thread.
    kafka::blocking(move || drop(producer)).await;
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest;

    #[test]
    fn each_is_malformed_in_its_own_way() {
        let kinds = malformed_messages().map(|message| {
            let wrong = ingest::check(&message.value).expect_err("malformed");
            assert_eq!(wrong.len(), 1, "{}: {wrong:?}", message.name);
            (message.name, wrong[0].kind)
        });
        assert_eq!(
            kinds,
            [
                ("broken JSON", "json_invalid"),
                ("wrong type", "int_type"),
                ("missing field", "missing"),
                ("not UTF-8", "json_invalid"),
                ("empty", "json_invalid"),
            ]
        );
        assert!(std::str::from_utf8(&malformed_messages()[3].value).is_err());
    }
}
