//! A landing's memory does not depend on what it lands: not on the number of records, nor on their size, nor on the number of
//! partitions. Measured in a process of its own.

use pinwheel_tasks::kafka;
use serde_json::json;

use crate::world::{Landed, World, record};

const MB: u64 = 1024 * 1024;

/// What a process may take beside `memory_mb`: the program itself, its runtime, a client for each partition that is read, and what
/// the allocator keeps of freed memory.
const BESIDE: u64 = 128;

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

/// Lands what is there in a process of its own, and answers how many megabytes that took at most.
async fn peak_mb(world: &World, run: i64, memory_mb: u64) -> u64 {
    let with = json!({ "memory_mb": memory_mb });
    let (peak, output) = world.measure_child(run, with).await;
    assert_eq!(
        output["lag_left"],
        json!(0),
        "everything is landed: {output}"
    );
    peak / MB
}

#[tokio::test(flavor = "multi_thread")]
async fn a_landing_of_many_partitions_and_large_records_keeps_to_its_memory() {
    let mut world = World::with_partitions(40).await;
    let producer = kafka::producer(&world.kafka)
        .set("compression.type", "none")
        .create()
        .expect("the settings are fine");
    // 320 MB, of which an eighth is to be enough; in parts, since a producer's queue is finite.
    for _ in 0..8 {
        world
            .send(&producer, incompressible(80, 500_000, 40))
            .await;
    }
    let peak = peak_mb(&world, 1, 64).await;
    assert!(peak < 64 + BESIDE, "{peak} MB");
    world.assert_each_record_landed_once().await;
}
