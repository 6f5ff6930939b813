//! Taking work: a worker claims queued task instances, and reads what it holds after a lost answer.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::{Error, Seen, Store};
use crate::model::{Dag, DagId, InstanceId, Params, RunId, Task, VersionId, WorkerId};

/// One execution of a try, with its fence. Not cloneable: it is ended once.
#[derive(Debug)]
pub struct Execution {
    /// The task instance.
    pub instance_id: InstanceId,
    /// Its run.
    pub run_id: RunId,
    /// The run's version.
    pub version_id: VersionId,
    /// The task's place in the version.
    pub ordinal: i32,
    /// The lease it runs under; with `epoch` the fence.
    pub worker_id: WorkerId,
    /// The claim; with `worker_id` the fence.
    pub epoch: i32,
    /// Tries begun, this one included.
    pub tries: i32,
    /// How many may begin.
    pub tries_allowed: i32,
    /// Executions lost with their worker before this one.
    pub lost: i32,
    /// It goes on with a try that slept.
    pub continues: bool,
}

impl Execution {
    /// The same execution once more, for the one place that ends it in another way than it ended itself.
    pub(super) fn same(&self) -> Self {
        Self { ..*self }
    }
}

/// A claimed task instance: everything a worker needs to run it.
#[derive(Debug)]
pub struct Claimed {
    /// The execution, to be handed back when it has ended.
    pub execution: Execution,
    /// The DAG.
    pub dag_id: DagId,
    /// The version's definition.
    pub dag: Arc<Dag>,
    /// The run's logical date.
    pub logical_date: DateTime<Utc>,
    /// Start of the run's data interval, inclusive.
    pub data_interval_start: DateTime<Utc>,
    /// End of the run's data interval, exclusive.
    pub data_interval_end: DateTime<Utc>,
    /// The run's params.
    pub params: Params,
    /// What the try left when it slept.
    pub resume: Option<Value>,
    /// The item of a mapped task and its place in the list; `None` for what stands for the whole list, and for others.
    pub item: Option<(Value, i32)>,
}

impl Claimed {
    /// The task's definition.
    pub fn task(&self) -> &Task {
        task_at(&self.dag, self.execution.ordinal)
    }
}

/// The task at an ordinal that was stored with the same version.
pub(super) fn task_at(dag: &Dag, ordinal: i32) -> &Task {
    &dag.tasks[usize::try_from(ordinal).expect("ordinals are indices into the version's tasks")]
}

/// Who claims, what, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Appetite<'a> {
    /// Under this lease.
    pub worker_id: WorkerId,
    /// From these queues.
    pub queues: &'a [String],
    /// At most so many.
    pub slots: usize,
}

impl Appetite<'static> {
    /// For whoever settles and claims nothing.
    pub const NONE: Self = Self {
        worker_id: WorkerId(0),
        queues: &[],
        slots: 0,
    };
}

/// A row of a claim; empty where a statement says only what else there is.
#[derive(Default)]
pub(super) struct ClaimRow {
    pub(super) instance_id: Option<InstanceId>,
    pub(super) run_id: Option<RunId>,
    pub(super) ordinal: Option<i32>,
    pub(super) map_index: Option<i32>,
    pub(super) item: Option<Value>,
    pub(super) epoch: Option<i32>,
    pub(super) tries: Option<i32>,
    pub(super) tries_allowed: Option<i32>,
    pub(super) lost: Option<i32>,
    pub(super) dag_id: Option<DagId>,
    pub(super) version_id: Option<VersionId>,
    pub(super) logical_date: Option<DateTime<Utc>>,
    pub(super) data_interval_start: Option<DateTime<Utc>>,
    pub(super) data_interval_end: Option<DateTime<Utc>>,
    pub(super) params: Option<Value>,
    pub(super) resume: Option<Value>,
    pub(super) several_lanes: bool,
    pub(super) closed_lanes: bool,
    pub(super) gated: bool,
}

/// What a claim came to.
#[derive(Debug, Default)]
pub struct Taken {
    /// What is the worker's now.
    pub claimed: Vec<Claimed>,
    /// There is, or may be, more for the slots that are left: look again.
    pub look_again: bool,
    /// Somebody else works at what is left: look again after a moment.
    pub contended: bool,
}

/// What stands first behind gates.
struct Candidate {
    instance_id: InstanceId,
    pool: String,
    slots: i32,
    gates: Vec<String>,
    pool_free: Option<i32>,
    pool_size: Option<i32>,
}

impl Store {
    /// Claims up to `slots` queued task instances. None if the lease is over.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached; what a lost answer claimed is found by [`Store::held_by`].
    pub async fn claim(&self, appetite: Appetite<'_>) -> Result<Taken, Error> {
        let mut transaction = self.hot.begin().await?;
        let taken = self.claim_by(&mut transaction, appetite).await?;
        transaction.commit().await?;
        Ok(taken)
    }

    /// Everything a worker holds by the database's account: for one that lost the answer to a claim.
    ///
    /// # Errors
    /// Postgres refused or cannot be reached.
    pub async fn held_by(&self, worker_id: WorkerId) -> Result<Vec<Claimed>, Error> {
        let mut connection = self.hot.acquire().await?;
        let rows = sqlx::query_file_as!(ClaimRow, "src/store/queries/read_claims.sql", worker_id.0)
            .fetch_all(&mut *connection)
            .await?;
        self.completed(&mut connection, worker_id, rows).await
    }

    pub(super) async fn claim_by(
        &self,
        connection: &mut PgConnection,
        appetite: Appetite<'_>,
    ) -> Result<Taken, Error> {
        let Appetite {
            worker_id,
            queues,
            slots,
        } = appetite;
        if slots == 0 {
            return Ok(Taken::default());
        }
        let looks_at_gates = self.seen(Seen::Gates);
        // What stands behind gates in a pool with a limit says nothing of the pool: these are asked for together.
        let limited = if looks_at_gates || self.seen(Seen::LimitedPools) {
            sqlx::query_file_scalar!("src/store/queries/lock_pools.sql", queues)
                .fetch_all(&mut *connection)
                .await?
        } else {
            Vec::new()
        };
        let mut taken = if looks_at_gates {
            // What stands behind gates gets half of the slots at most, so that a backlog there starves nobody.
            let share = Appetite {
                slots: slots.div_ceil(2),
                ..appetite
            };
            self.claim_gated(connection, share, &limited).await?
        } else {
            Taken::default()
        };
        let wanted = slots - taken.claimed.len();
        let rows = sqlx::query_file_as!(
            ClaimRow,
            "src/store/queries/claim_instances.sql",
            worker_id.0,
            queues,
            i64::try_from(wanted).unwrap_or(i64::MAX),
            &limited
        )
        .fetch_all(&mut *connection)
        .await?;
        let (several_lanes, closed_lanes, gated) = rows
            .first()
            .map(|row| (row.several_lanes, row.closed_lanes, row.gated))
            .unwrap_or_default();
        let claimed = self.completed(connection, worker_id, rows).await?;
        if claimed.len() < wanted {
            // Several pools share the slots, and what one of them left may be used by another; a pool that has just
            // been given a limit, or the first gate, is looked at with the next claim.
            taken.look_again |= several_lanes && !claimed.is_empty()
                || closed_lanes && limited.is_empty()
                || gated && !looks_at_gates
                || looks_at_gates && !taken.claimed.is_empty();
        }
        taken.contended &= gated;
        self.note(Seen::LimitedPools, closed_lanes || !limited.is_empty());
        self.note(Seen::Gates, gated);
        taken.claimed.extend(claimed);
        Ok(taken)
    }

    /// Claims what stands behind gates, and parks what a full gate holds back.
    async fn claim_gated(
        &self,
        connection: &mut PgConnection,
        appetite: Appetite<'_>,
        limited_pools: &[String],
    ) -> Result<Taken, Error> {
        let Appetite {
            worker_id,
            queues,
            slots,
        } = appetite;
        let first = i64::try_from(slots.saturating_mul(4)).unwrap_or(i64::MAX);
        let locked = sqlx::query_file!(
            "src/store/queries/lock_gates.sql",
            worker_id.0,
            queues,
            first
        )
        .fetch_all(&mut *connection)
        .await?;
        let gates: Vec<String> = locked.into_iter().map(|gate| gate.gate).collect();
        if gates.is_empty() {
            return Ok(Taken {
                contended: true,
                ..Taken::default()
            });
        }
        let mut room: HashMap<String, i32> =
            sqlx::query_file!("src/store/queries/read_gate_rooms.sql", &gates)
                .fetch_all(&mut *connection)
                .await?
                .into_iter()
                .map(|gate| (gate.gate, gate.free))
                .collect();
        let candidates = sqlx::query_file_as!(
            Candidate,
            "src/store/queries/read_gated.sql",
            queues,
            &gates,
            limited_pools,
            first
        )
        .fetch_all(&mut *connection)
        .await?;
        let contended = candidates.is_empty();
        let choice = choose(candidates, slots, &mut room);
        if choice.taken.is_empty() && choice.parked.is_empty() {
            return Ok(Taken {
                contended,
                ..Taken::default()
            });
        }
        let (parked, behind): (Vec<i64>, Vec<String>) = choice
            .parked
            .into_iter()
            .map(|(instance_id, gate)| (instance_id.0, gate))
            .unzip();
        let chosen: Vec<i64> = choice.taken.iter().map(|instance| instance.0).collect();
        let rows = sqlx::query_file_as!(
            ClaimRow,
            "src/store/queries/claim_gated.sql",
            worker_id.0,
            &chosen,
            &parked,
            &behind
        )
        .fetch_all(&mut *connection)
        .await?;
        Ok(Taken {
            claimed: self.completed(connection, worker_id, rows).await?,
            // Behind what was parked there may be others with room.
            look_again: !parked.is_empty(),
            contended: false,
        })
    }

    pub(super) async fn completed(
        &self,
        connection: &mut PgConnection,
        worker_id: WorkerId,
        rows: Vec<ClaimRow>,
    ) -> Result<Vec<Claimed>, Error> {
        let versions = rows.iter().filter_map(|row| row.version_id).collect();
        self.know_definitions(connection, &versions).await?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in rows {
            let continues = row.resume.is_some();
            let Some(execution) = row.execution(worker_id) else {
                continue;
            };
            let Some(((dag_id, logical_date), (start, end))) = row
                .dag_id
                .zip(row.logical_date)
                .zip(row.data_interval_start.zip(row.data_interval_end))
            else {
                continue;
            };
            claimed.push(Claimed {
                dag: self.definition_by(connection, execution.version_id).await?,
                execution: Execution {
                    continues,
                    ..execution
                },
                dag_id,
                logical_date,
                data_interval_start: start,
                data_interval_end: end,
                params: match row.params {
                    Some(Value::Object(params)) => params,
                    Some(_) | None => Params::new(),
                },
                resume: row.resume,
                item: row.item.zip(row.map_index),
            });
        }
        Ok(claimed)
    }
}

impl ClaimRow {
    /// `None` for the row that only says what else there is.
    fn execution(&self, worker_id: WorkerId) -> Option<Execution> {
        Some(Execution {
            instance_id: self.instance_id?,
            run_id: self.run_id?,
            version_id: self.version_id?,
            ordinal: self.ordinal?,
            worker_id,
            epoch: self.epoch?,
            tries: self.tries?,
            tries_allowed: self.tries_allowed?,
            lost: self.lost?,
            continues: false,
        })
    }
}

/// What to do with candidates behind gates.
#[derive(Debug, Default, PartialEq, Eq)]
struct Choice {
    taken: Vec<InstanceId>,
    /// With each full gate that holds it back.
    parked: Vec<(InstanceId, String)>,
}

/// Takes candidates in their order as far as slots, gates and pools have room. One is only parked behind a gate that
/// is full of what runs, so that somebody will leave that gate.
fn choose(candidates: Vec<Candidate>, slots: usize, room: &mut HashMap<String, i32>) -> Choice {
    let mut choice = Choice::default();
    let mut pool_room: HashMap<String, i32> = HashMap::new();
    for candidate in candidates {
        let full: Vec<String> = candidate
            .gates
            .iter()
            .filter(|gate| room.get(*gate).is_none_or(|free| *free <= 0))
            .cloned()
            .collect();
        if !full.is_empty() {
            choice
                .parked
                .extend(full.into_iter().map(|gate| (candidate.instance_id, gate)));
            continue;
        }
        if choice.taken.len() >= slots {
            continue;
        }
        if let (Some(free), Some(size)) = (candidate.pool_free, candidate.pool_size) {
            let free = pool_room.entry(candidate.pool).or_insert(free);
            let needs = candidate.slots.min(size);
            if *free < needs {
                continue;
            }
            *free -= needs;
        }
        for gate in &candidate.gates {
            if let Some(free) = room.get_mut(gate) {
                *free -= 1;
            }
        }
        choice.taken.push(candidate.instance_id);
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(id: i64, gates: &[&str], pool_free: Option<i32>) -> Candidate {
        Candidate {
            instance_id: InstanceId(id),
            pool: "cpu".to_owned(),
            slots: 1,
            gates: gates.iter().map(|gate| (*gate).to_owned()).collect(),
            pool_free,
            pool_size: pool_free.map(|_| 4),
        }
    }

    fn room(gates: &[(&str, i32)]) -> HashMap<String, i32> {
        gates
            .iter()
            .map(|(gate, free)| ((*gate).to_owned(), *free))
            .collect()
    }

    #[test]
    fn what_a_full_gate_holds_back_is_parked_and_the_next_is_taken() {
        let candidates = vec![
            candidate(1, &["a"], None),
            candidate(2, &["a"], None),
            candidate(3, &["b"], None),
        ];
        let choice = choose(candidates, 10, &mut room(&[("a", 1), ("b", 1)]));
        assert_eq!(choice.taken, [InstanceId(1), InstanceId(3)]);
        assert_eq!(choice.parked, [(InstanceId(2), "a".to_owned())]);
    }

    #[test]
    fn what_waits_for_a_pool_is_neither_taken_nor_parked() {
        let candidates = vec![candidate(1, &["a"], Some(0)), candidate(2, &["a"], Some(0))];
        let choice = choose(candidates, 10, &mut room(&[("a", 1)]));
        assert_eq!(choice, Choice::default());
    }

    #[test]
    fn one_is_parked_behind_the_full_gate_alone() {
        let choice = choose(
            vec![candidate(1, &["a", "b"], None), candidate(2, &["b"], None)],
            10,
            &mut room(&[("a", 0), ("b", 1)]),
        );
        assert_eq!(choice.parked, [(InstanceId(1), "a".to_owned())]);
        assert_eq!(choice.taken, [InstanceId(2)]);
    }
}
