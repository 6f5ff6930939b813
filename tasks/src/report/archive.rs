//! The reports that were kept: which there are below a prefix, and their files. It only reads.

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime, Utc};

use super::{
    request::{Format, is_report_name},
    written::Written,
};
use crate::{
    Failure,
    lake::folder,
    s3::{Location, ObjectStore},
};

/// The kept reports below one prefix (setting `lake.reports_prefix`).
#[derive(Clone)]
pub struct Archive {
    store: ObjectStore,
    root: Location,
}

/// What one run kept of one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The report's name.
    pub report: String,
    /// The run's folder, `<logical date>-r<run>`.
    pub folder: String,
    /// The run's logical date.
    pub logical_date: DateTime<Utc>,
    /// The run.
    pub run_id: i64,
    /// The formats that were written.
    pub formats: Vec<Format>,
}

impl Archive {
    /// The reports below `root`, such as `s3://lake/reports`.
    pub fn new(store: ObjectStore, root: Location) -> Self {
        Self { store, root }
    }

    /// What is kept, by name and then from the newest logical date to the oldest. What has another shape than a `report` task
    /// gives it is left out.
    ///
    /// # Errors
    /// The store does not answer, or the bucket does not exist.
    pub async fn list(&self) -> Result<Vec<Kept>, Failure> {
        self.below(&folder(&self.root.key)).await
    }

    /// What is kept of one report, from the newest logical date to the oldest.
    ///
    /// # Errors
    /// See [`Self::list`].
    pub async fn runs(&self, report: &str) -> Result<Vec<Kept>, Failure> {
        if !is_report_name(report) {
            return Ok(Vec::new());
        }
        self.below(&format!("{}{report}/", folder(&self.root.key)))
            .await
    }

    /// A report of a run with its answer; `None` when its JSON is not there.
    ///
    /// # Errors
    /// The store does not answer, or the file is something else.
    pub async fn read(&self, report: &str, run: &str) -> Result<Option<Written>, Failure> {
        let Some(text) = self.file(report, run, Format::Json).await? else {
            return Ok(None);
        };
        match Written::from_json(&text) {
            Some(written) => Ok(Some(written)),
            None => Err(Failure::permanent(format!(
                "the JSON of report `{report}` of `{run}` is not what a `report` task writes"
            ))),
        }
    }

    /// A file as it was written; `None` when it is not there.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn file(
        &self,
        report: &str,
        run: &str,
        format: Format,
    ) -> Result<Option<Bytes>, Failure> {
        // Both are parts of addresses that people type: nothing else than our own names comes to the store.
        if !is_report_name(report) || run_of(run).is_none() {
            return Ok(None);
        }
        let key = format!(
            "{}{report}/{run}/{report}.{}",
            folder(&self.root.key),
            format.word()
        );
        let at = Location::new(&self.root.bucket, key);
        Ok(self.store.get_if_exists(&at).await?)
    }

    async fn below(&self, prefix: &str) -> Result<Vec<Kept>, Failure> {
        let root = folder(&self.root.key);
        let at = Location::new(&self.root.bucket, prefix);
        let mut kept: Vec<Kept> = Vec::new();
        for key in self.store.list(&at).await? {
            let Some((report, folder, format)) = key.strip_prefix(&root).and_then(parts) else {
                continue;
            };
            let Some((logical_date, run_id)) = run_of(folder) else {
                continue;
            };
            match kept.last_mut() {
                Some(last) if last.report == report && last.folder == folder => {
                    last.formats.push(format);
                }
                Some(_) | None => kept.push(Kept {
                    report: report.to_owned(),
                    folder: folder.to_owned(),
                    logical_date,
                    run_id,
                    formats: vec![format],
                }),
            }
        }
        kept.sort_by(|one, other| {
            let newest = |kept: &Kept| (kept.logical_date, kept.run_id);
            one.report
                .cmp(&other.report)
                .then_with(|| newest(other).cmp(&newest(one)))
        });
        Ok(kept)
    }
}

/// Report, folder of the run and format of `<report>/<run>/<report>.<format>`.
fn parts(key: &str) -> Option<(&str, &str, Format)> {
    let mut parts = key.split('/');
    let (report, run, file) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !is_report_name(report) || run_of(run).is_none() {
        return None;
    }
    let word = file.strip_prefix(report)?.strip_prefix('.')?;
    Some((report, run, Format::read(word)?))
}

/// How a folder's logical date is written.
const DATE: &str = "%Y%m%dT%H%M%SZ";

/// The folder of a run: `20260101T020000Z-r7`.
pub(super) fn run_folder(logical_date: DateTime<Utc>, run_id: i64) -> String {
    format!("{}-r{run_id}", logical_date.format(DATE))
}

/// The logical date and the run of a folder; `None` when it is not exactly as [`run_folder`] writes it.
fn run_of(folder: &str) -> Option<(DateTime<Utc>, i64)> {
    let (date, run) = folder.split_once("-r")?;
    let date = NaiveDateTime::parse_from_str(date, DATE).ok()?.and_utc();
    let run = run.parse().ok()?;
    (run_folder(date, run) == folder).then_some((date, run))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn only_what_a_report_task_writes_is_a_kept_file() {
        let date = chrono::Utc
            .with_ymd_and_hms(2026, 1, 1, 2, 0, 0)
            .single()
            .expect("a date");
        let run = run_folder(date, 7);
        let key = format!("posts/{run}/posts.csv");
        assert_eq!(parts(&key), Some(("posts", run.as_str(), Format::Csv)));
        for other in [
            "posts/20260101T020000Z-r7/others.csv",
            "posts/20260101T020000Z-r7/posts.exe",
            "posts/20260101T020000Z-r7/posts",
            "posts/20260101T020000Z-r7/deeper/posts.csv",
            "posts/20260101T020000Z/posts.csv",
            "posts/../posts.csv",
            "../20260101T020000Z-r7/...csv",
            "posts/20260101T020000Z-r/posts.csv",
            "posts/2026010xT020000Z-r7/posts.csv",
            "posts/20260101T020000Z-r+7/posts.csv",
            "posts/20260101T020000Z-r../posts.csv",
        ] {
            assert_eq!(parts(other), None, "{other}");
        }
    }
}
