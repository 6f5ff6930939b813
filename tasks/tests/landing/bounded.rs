//! A landing's memory does not depend on what it lands: not on the number of records, nor on their size, nor on the number of
//! partitions. Measured in a process of its own.

use pinwheel_tasks::kafka;
use rdkafka::producer::FutureProducer;
use serde_json::json;

use super::world::{Landed, World, record};

const MB: u64 = 1024 * 1024;

/// What a landing may take beside `memory_mb`: a client for each partition that is read, and what the allocator keeps of memory
/// that was given back. A landing that ignored its limit would take all that there is to land.
const BESIDE: u64 = 100 * MB;

/// Records of `bytes` bytes that no compression shortens, spread over `partitions`.
fn incompressible(count: usize, bytes: usize, partitions: i32) -> Vec<(i32, Landed)> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    (0..count)
        .map(|number| {
            let words = (0..bytes.div_ceil(8)).flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_be_bytes()
            });
            let mut landed = record(4);
            landed.value = Some(words.collect());
            let partition = i32::try_from(number).expect("small") % partitions;
            (partition, landed)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_of_many_partitions_and_large_records_keeps_to_its_memory() {
    const PARTITIONS: i32 = 40;
    let mut world = World::with_partitions(PARTITIONS).await;
    let producer: FutureProducer = kafka::producer(&world.kafka)
        .set("compression.type", "none")
        .create()
        .expect("the settings are fine");
    let mut produced = 0;
    // In parts: the queue of a producer is finite.
    for _ in 0..10 {
        let records = incompressible(80, 400_000, PARTITIONS);
        produced += records.len() as u64 * 400_000;
        world.send(&producer, records).await;
    }
    let (grew, output) = world.measure_child(1, &json!({ "memory_mb": 64 })).await;
    assert_eq!(output["records"], json!(800));
    assert!(
        grew < 64 * MB + BESIDE && grew < produced / 2,
        "{} MB",
        grew / MB
    );
    world.assert_each_record_landed_once().await;
}
