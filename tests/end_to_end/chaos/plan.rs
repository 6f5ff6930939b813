//! What will break, when and for how long: all of it follows from a seed.

use std::{fmt, time::Duration};

use pinwheel_test_support::postgres::Death;

/// How many workers and schedulers there are at any time.
pub(super) const WORKERS: usize = 3;
/// As above.
pub(super) const SCHEDULERS: usize = 2;

/// Numbers that follow from a seed alone (SplitMix64, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from zero up to and without `bound`.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).expect("64 bits are enough");
        usize::try_from(self.next() % bound).expect("it is smaller than a usize was")
    }

    /// True in so many of a hundred cases.
    pub(super) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// One of a list.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn millis(&mut self, shortest: usize, longest: usize) -> Duration {
        let millis = shortest + self.below(longest - shortest + 1);
        Duration::from_millis(u64::try_from(millis).expect("64 bits are enough"))
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

/// One thing that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A worker is killed with -9 while it runs tasks; another takes its place.
    KillWorker { worker: usize },
    /// A worker is asked to stop while it runs tasks, and gives back what does not end in its grace; another takes its
    /// place.
    RetireWorker { worker: usize },
    /// A scheduler is killed with -9; another takes its place.
    KillScheduler { scheduler: usize },
    /// A worker is stopped while it runs tasks, until its lease is over; then it goes on as if nothing had been.
    FreezeWorker { worker: usize },
    /// Postgres dies and comes back.
    RestartPostgres { death: Death, away: Duration },
    /// Every connection of every process is cut; new ones are refused for a while.
    CutEverybody { away: Duration },
    /// No connection of any process carries anything for a while, and none is closed.
    StallEverybody { silence: Duration },
    /// One worker is cut off while it runs tasks, until its lease is over.
    CutOffWorker { worker: usize, how: CutOff },
}

/// How a worker is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutOff {
    /// Its connections are cut and new ones refused.
    Refused,
    /// Its connections carry nothing and stay open; what was on its way arrives in the end.
    Silent,
}

/// A fault, and another one that happens while it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) fault: Fault,
    pub(super) meanwhile: Option<Fault>,
}

/// The faults of a seed: of `count` and more than that kinds, each kind is among them.
pub(super) fn plan(random: &mut Random, count: usize) -> Vec<Step> {
    let mut faults: Vec<Fault> = (0..count)
        .map(|place| fault(random, place % KINDS))
        .collect();
    random.shuffle(&mut faults);
    faults
        .into_iter()
        .map(|fault| {
            let lasts = match fault {
                Fault::FreezeWorker { .. } | Fault::CutOffWorker { .. } => true,
                Fault::KillWorker { .. }
                | Fault::RetireWorker { .. }
                | Fault::KillScheduler { .. }
                | Fault::RestartPostgres { .. }
                | Fault::CutEverybody { .. }
                | Fault::StallEverybody { .. } => false,
            };
            let meanwhile = (lasts && random.percent(40)).then(|| {
                let short = random.pick(&[1, 3, 4, 5]);
                self::fault(random, short)
            });
            Step { fault, meanwhile }
        })
        .collect()
}

const KINDS: usize = 8;

fn fault(random: &mut Random, kind: usize) -> Fault {
    let worker = random.below(WORKERS);
    match kind {
        0 => Fault::KillWorker { worker },
        1 => Fault::KillScheduler {
            scheduler: random.below(SCHEDULERS),
        },
        2 => Fault::FreezeWorker { worker },
        3 => Fault::RestartPostgres {
            death: random.pick(&[Death::Immediate, Death::Killed]),
            away: random.millis(0, 2_500),
        },
        4 => Fault::CutEverybody {
            away: random.millis(0, 2_500),
        },
        5 => Fault::StallEverybody {
            silence: random.millis(500, 5_500),
        },
        6 => Fault::RetireWorker { worker },
        _ => Fault::CutOffWorker {
            worker,
            how: random.pick(&[CutOff::Refused, CutOff::Silent]),
        },
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillWorker { worker } => write!(formatter, "kill -9 worker {worker}"),
            Self::RetireWorker { worker } => write!(formatter, "ask worker {worker} to stop"),
            Self::KillScheduler { scheduler } => write!(formatter, "kill -9 scheduler {scheduler}"),
            Self::FreezeWorker { worker } => {
                write!(formatter, "SIGSTOP worker {worker} past its lease")
            }
            Self::RestartPostgres { death, away } => {
                let how = match death {
                    Death::Immediate => "stop Postgres at once",
                    Death::Killed => "kill -9 Postgres",
                };
                write!(formatter, "{how}, away for {} ms", away.as_millis())
            }
            Self::CutEverybody { away } => write!(
                formatter,
                "cut every connection, refuse new ones for {} ms",
                away.as_millis()
            ),
            Self::StallEverybody { silence } => write!(
                formatter,
                "stall every connection for {} ms",
                silence.as_millis()
            ),
            Self::CutOffWorker { worker, how } => {
                let how = match how {
                    CutOff::Refused => "cut off",
                    CutOff::Silent => "silence",
                };
                write!(formatter, "{how} worker {worker} past its lease")
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.fault)?;
        match &self.meanwhile {
            Some(meanwhile) => write!(formatter, "; meanwhile {meanwhile}"),
            None => Ok(()),
        }
    }
}

#[test]
fn a_plan_has_every_kind_of_fault_and_follows_from_its_seed() {
    let kinds = |seed| {
        let steps = plan(&mut Random::new(seed), KINDS + 1);
        let mut kinds: Vec<_> = steps
            .iter()
            .map(|step| std::mem::discriminant(&step.fault))
            .collect();
        kinds.dedup();
        (steps, kinds)
    };
    for seed in 0..100 {
        let (steps, found) = kinds(seed);
        let distinct: std::collections::HashSet<_> = found.into_iter().collect();
        assert_eq!((steps.len(), distinct.len()), (KINDS + 1, KINDS));
        assert_eq!(steps, kinds(seed).0);
    }
    assert_ne!(kinds(1).0, kinds(2).0);
}
