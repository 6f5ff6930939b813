//! What a worker says of itself: its status, its row for the pages, its gauges.

use std::collections::BTreeMap;

use super::{PartitionStatus, State, Worker, source::Source};

impl Worker {
    /// Once a second: lag, throughput, and whether the broker is there.
    pub(super) async fn tick(&mut self, source: &Source, events_per_second: f64) {
        let reported = source.reported();
        let before = self.status.borrow().clone();
        self.see_ends(reported.ends.into_iter());
        self.status.send_if_modified(|status| {
            let changed = status.events_per_second != events_per_second;
            status.events_per_second = events_per_second;
            changed
        });
        let stream = self.plan.definition.id.clone();
        match reported.is_connected {
            Some(false) if before.state == State::Running => {
                let reason = self.kafka_away();
                tracing::warn!(stream, reason, "stream `{stream}` waits: {reason}");
                self.mark_down();
                self.say(State::Waiting, Some(reason));
            }
            Some(true) if before.state == State::Waiting => {
                tracing::info!(stream, "stream `{stream}` reads again");
                self.mark_up();
                self.say(State::Running, None);
            }
            Some(_) | None => {}
        }
        if *self.status.borrow() != before || before.events_per_second > 0.0 {
            self.write_status().await;
        }
    }

    pub(super) fn see_ends(&self, ends: impl Iterator<Item = (i32, i64)>) {
        let ends: BTreeMap<i32, i64> = ends.collect();
        let mut partitions = self.partition_status();
        for partition in &mut partitions {
            if let Some(end) = ends.get(&partition.partition) {
                // What was read tells more than a report that is a second old.
                let end = (*end).max(partition.next_offset);
                partition.end_offset = Some(end);
                partition.lag = Some(end - partition.next_offset);
                let labels = [
                    self.plan.definition.id.as_str(),
                    &partition.partition.to_string(),
                ];
                self.metrics
                    .lag
                    .with_label_values(&labels)
                    .set(end - partition.next_offset);
            }
        }
        self.status.send_if_modified(|status| {
            let changed = status.partitions != partitions;
            status.partitions = partitions;
            changed
        });
    }

    pub(super) fn partition_status(&self) -> Vec<PartitionStatus> {
        let status = self.status.borrow();
        let known = |partition| {
            status
                .partitions
                .iter()
                .find(|known| known.partition == partition)
                .and_then(|known| known.end_offset)
        };
        self.held
            .iter()
            .map(|(&partition, held)| {
                let end_offset = known(partition).map(|end| end.max(held.next_offset));
                PartitionStatus {
                    partition,
                    generation: held.generation,
                    next_offset: held.next_offset,
                    end_offset,
                    lag: end_offset.map(|end| end - held.next_offset),
                    watermark: held
                        .watermark_ms
                        .and_then(chrono::DateTime::from_timestamp_millis),
                }
            })
            .collect()
    }

    pub(super) fn say(&self, state: State, problem: Option<String>) {
        let partitions = self.partition_status();
        self.status.send_modify(|status| {
            status.state = state;
            status.problem = problem;
            status.partitions = partitions;
            if state != State::Running {
                status.events_per_second = 0.0;
            }
        });
    }

    /// The pages' copy. Not being able to write it is no reason to stop: who cannot reach Postgres finds out by itself.
    pub(super) async fn write_status(&self) {
        let status = self.status.borrow().clone();
        if let Err(error) = self
            .sink
            .write_status(&self.plan, &self.options.name, &status)
            .await
        {
            tracing::debug!(%error, "stream: status not written: {error}");
        }
    }

    pub(super) fn mark_up(&mut self) {
        self.gauge_up(1);
    }

    pub(super) fn mark_down(&mut self) {
        self.gauge_up(0);
    }

    fn gauge_up(&mut self, up: i64) {
        let gauge = &self.metrics.up;
        gauge
            .with_label_values(&[&self.plan.definition.id])
            .add(up - self.gauged.up);
        self.gauged.up = up;
    }

    pub(super) fn gauge_partitions(&mut self) {
        let partitions = i64::try_from(self.held.len()).unwrap_or(i64::MAX);
        let gauge = &self.metrics.partitions;
        gauge
            .with_label_values(&[&self.plan.definition.id])
            .add(partitions - self.gauged.partitions);
        self.gauged.partitions = partitions;
    }
}
