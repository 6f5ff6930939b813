//! A cleaned partition as the pipeline makes it: messages are landed, and the kind `clean` cleans them.

use std::{path::Path, sync::Arc};

use pinwheel_tasks::{
    Clean,
    dataset::Catalog,
    landing::{
        LandedObject, LandedRange, Manifest,
        columns::{self, Columns, Record},
        manifest_key, object_key,
    },
    s3::{Location, ObjectStore, sha256},
};
use pinwheel_test_support::s3::S3;
use serde_json::{Value, json};

use crate::world::{World, date, output};

/// An S3 server with the bucket `lake`.
pub(crate) struct Lake {
    pub(crate) store: ObjectStore,
    _server: S3,
}

impl Lake {
    pub(crate) async fn new() -> Self {
        let server = S3::start().await;
        let store = ObjectStore::connect(server.settings()).await;
        store.ensure_bucket("lake").await.unwrap();
        Self {
            store,
            _server: server,
        }
    }

    /// Cleans pins, whose messages begin at offset `first` and at `first` milliseconds; gives the address of the manifest.
    pub(crate) async fn clean(&self, plan: &str, first: i64, pins: &[Value]) -> String {
        let day = date("2026-01-01T02:00:00Z");
        let mut records = Columns::default();
        let messages: Vec<Vec<u8>> = pins
            .iter()
            .map(|pin| pin.to_string().into_bytes())
            .collect();
        for (offset, message) in (first..).zip(&messages) {
            records.push(&Record {
                offset,
                timestamp: Some(offset),
                key: None,
                value: Some(message),
                headers: Vec::new(),
            });
        }
        let body = columns::encode(records.finish().unwrap()).unwrap();
        let end = first + i64::try_from(pins.len()).unwrap();
        let object = LandedObject {
            key: object_key("landing/pins", day, "pins", 0, first, end - 1),
            partition: 0,
            first_offset: first,
            last_offset: end - 1,
            records: pins.len() as u64,
            bytes: body.len() as u64,
            sha256: sha256(&body),
        };
        let at = Location::new("lake", &object.key);
        self.store.put_if_absent(&at, body.into()).await.unwrap();
        let range = LandedRange {
            partition: 0,
            start: first,
            end,
            records: pins.len() as u64,
        };
        let manifest = Manifest::new("pins", plan, day, vec![range], vec![object]);
        let at = Location::new("lake", manifest_key("landing/pins", day, plan));
        let text = manifest.to_json();
        self.store
            .put(&at, text.into(), "application/json")
            .await
            .unwrap();
        let datasets = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dags/datasets");
        let catalog = Arc::new(Catalog::load(datasets).unwrap_or_else(|error| panic!("{error}")));
        let kind = Clean::new(self.store.clone(), catalog);
        let with = json!({
            "dataset": "pins", "from": at.to_string(), "to": "s3://lake/clean/pins/", "partition": plan,
        });
        let cleaned = output(World::new().run(&kind, with).await);
        assert_eq!(cleaned["cleaned"], pins.len(), "{cleaned}");
        cleaned["manifest"].as_str().unwrap().to_owned()
    }
}

/// Pins of the shape and size of real ones; the number is in the key and the index.
pub(crate) fn pins(count: usize) -> Vec<Value> {
    (0..count).map(pin).collect()
}

/// The key of a pin.
pub(crate) fn key(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

fn pin(number: usize) -> Value {
    json!({
        "category": "diy-and-crafts",
        "index": number,
        "unique_id": key(number),
        "title": format!("25 Súper \"Fun\" Summer\tCrafts, number {number}"),
        "description": "Keep the kids busy this summer with these easy diy crafts and projects. Creative and…",
        "follower_count": "124k",
        "tag_list": "Summer Crafts For Kids,Fun Crafts For Kids,Summer Kids,Toddler Crafts",
        "is_image_or_video": "image",
        "image_src": "https://i.pinimg.com/originals/b3/bc/e2/b3bce2964e8c8975387b39660eed5f16.jpg",
        "downloaded": 1,
        "save_location": "Local save in /data/diy-and-crafts",
    })
}
