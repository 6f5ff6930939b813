//! Reports over an S3 server: what a run sees, what it keeps, and what is found again.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeZone, Utc};
use pinwheel_tasks::{
    Failure, Report,
    dataset::ColumnType,
    lake::{Counts, Part, Partition, StoredColumn},
    landing::LandedRange,
    report::{Archive, Format},
    s3::{Location, ObjectStore, sha256},
};
use pinwheel_test_support::{once, s3::S3};
use polars::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A store with one dataset, and a DAG folder with two questions.
struct House {
    _server: S3,
    store: ObjectStore,
    folder: TempDir,
}

const POSTS: &str = "-- The posts of each category.\nselect category, count(*) as posts, max(followers) as most\n\
    from known group by category order by category";
const KNOWN: &str = "select id, category, followers from pins where followers >= $least";

impl House {
    async fn new() -> Self {
        let server = S3::start().await;
        let store = ObjectStore::connect(server.settings()).await;
        store
            .ensure_bucket("lake")
            .await
            .expect("the bucket can be made");
        let folder = tempfile::tempdir().expect("a folder");
        for (name, sql) in [("posts.sql", POSTS), ("known.sql", KNOWN)] {
            std::fs::write(folder.path().join(name), sql).expect("the file is written");
        }
        Self {
            _server: server,
            store,
            folder,
        }
    }

    /// Writes a partition as `clean` does.
    async fn clean(&self, day: u32, first: i64, rows: &[(&str, &str, i64)]) {
        let (count, date) = (rows.len(), morning(day));
        let offsets: Vec<i64> = (first..).take(count).collect();
        let mut frame = df!(
            "id" => rows.iter().map(|row| row.0).collect::<Vec<_>>(),
            "category" => rows.iter().map(|row| row.1).collect::<Vec<_>>(),
            "followers" => rows.iter().map(|row| row.2).collect::<Vec<_>>(),
            "_partition" => vec![0_i32; count],
            "_offset" => offsets.clone(),
            "_timestamp" => offsets,
        )
        .and_then(|frame| {
            let time = DataType::Datetime(TimeUnit::Milliseconds, None);
            frame
                .lazy()
                .with_column(col("_timestamp").cast(time))
                .collect()
        })
        .expect("the rows form a table");
        let mut body = Vec::new();
        ParquetWriter::new(&mut body)
            .finish(&mut frame)
            .expect("the rows are written");
        let column = |name: &str, column_type| StoredColumn {
            name: name.to_owned(),
            column_type,
        };
        let part = Part {
            key: format!("clean/pins/day-{day}.parquet"),
            rows: count as u64,
            bytes: body.len() as u64,
            sha256: sha256(&body),
        };
        let end = first + i64::try_from(count).expect("few rows");
        let partition = Partition {
            version: 1,
            dataset: "pins".to_owned(),
            contract_sha256: String::new(),
            key: "id".to_owned(),
            columns: vec![
                column("id", ColumnType::Text),
                column("category", ColumnType::Text),
                column("followers", ColumnType::Integer),
            ],
            partition: format!("day-{day}"),
            logical_date: date,
            new_fields: BTreeMap::new(),
            run_after: Some(morning(day + 1)),
            landing: "s3://lake/landing".to_owned(),
            ranges: vec![LandedRange {
                partition: 0,
                start: first,
                end,
                records: count as u64,
            }],
            parts: vec![part.clone()],
            dead_letters: Vec::new(),
            counts: Counts::default(),
            rules: BTreeMap::new(),
        };
        let at = |key: String| Location::new("lake", key);
        for (key, body) in [
            (part.key, body),
            (
                format!("clean/pins/_manifests/day-{day}.json"),
                partition.to_json(),
            ),
        ] {
            self.store
                .put(&at(key), body.into(), "application/octet-stream")
                .await
                .expect("the object is written");
        }
    }

    /// Runs the report of a day as run number `run`.
    async fn report(&self, day: u32, run: i64, with: Value) -> Result<Value, Failure> {
        let report = Report::new(self.store.clone(), self.folder.path());
        once::run(&report, run, (morning(day), morning(day + 1)), with).await
    }

    fn archive(&self) -> Archive {
        Archive::new(self.store.clone(), Location::new("lake", "reports"))
    }

    async fn file(&self, day: u32, run: i64, format: Format) -> String {
        let folder = format!("202601{day:02}T020000Z-r{run}");
        let body = self
            .archive()
            .file("posts", &folder, format)
            .await
            .expect("the store answers")
            .expect("the file is kept");
        String::from_utf8(body.to_vec()).expect("UTF-8")
    }
}

fn morning(day: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, day, 2, 0, 0)
        .single()
        .expect("a date")
}

fn posts() -> Value {
    json!({
        "reports": [{
            "name": "posts", "title": "Posts", "sql": "posts.sql",
            "charts": [{ "type": "bars", "label": "category", "value": "posts" }],
        }],
        "views": [{ "name": "known", "sql": "known.sql" }],
        "datasets": { "pins": "s3://lake/clean/pins/" },
        "params": { "least": 1 },
        "to": "s3://lake/reports/",
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_answers_as_the_run_would_have_answered_then() {
    let house = House::new().await;
    let mut then = Vec::new();
    for (day, first, rows) in [
        (1, 0, vec![("a", "art", 10), ("b", "art", 20)]),
        // Post `a` comes again, in another category.
        (2, 2, vec![("a", "travel", 30), ("c", "travel", 0)]),
        (3, 4, vec![("b", "travel", 40), ("d", "art", 50)]),
    ] {
        house.clean(day, first, &rows).await;
        let run = i64::from(day);
        house
            .report(day, run, posts())
            .await
            .expect("it is written");
        then.push(house.file(day, run, Format::Csv).await);
    }
    assert_eq!(
        then,
        [
            "category,posts,most\r\nart,2,20\r\n",
            "category,posts,most\r\nart,1,20\r\ntravel,1,30\r\n",
            "category,posts,most\r\nart,1,50\r\ntravel,2,40\r\n",
        ]
    );
    for (day, then) in (1..=3).zip(&then) {
        let run = i64::from(day) + 10;
        house
            .report(day, run, posts())
            .await
            .expect("it is written");
        assert_eq!(&house.file(day, run, Format::Csv).await, then, "day {day}");
        let numbered = |run: i64| format!("\"run\": {run},");
        let first = house.file(day, i64::from(day), Format::Json).await;
        assert_eq!(
            house.file(day, run, Format::Json).await,
            first.replace(&numbered(i64::from(day)), &numbered(run))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_before_the_first_landing_fails_and_says_why() {
    let house = House::new().await;
    house.clean(5, 0, &[("a", "art", 10)]).await;
    let failure = house
        .report(4, 1, posts())
        .await
        .expect_err("nothing was landed then");
    assert!(
        failure.message.contains("s3://lake/clean/pins/"),
        "{failure}"
    );
    assert!(
        failure
            .hint
            .is_some_and(|hint| hint.contains("later logical dates")),
        "the hint tells it from an empty dataset"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_found_again_with_its_charts() {
    let house = House::new().await;
    house
        .clean(1, 0, &[("a", "<art>", 10), ("b", "travel", 20)])
        .await;
    for (day, run) in [(1, 9), (1, 10), (2, 11)] {
        house
            .report(day, run, posts())
            .await
            .expect("it is written");
    }
    // What somebody else left there is not shown.
    let strange = Location::new("lake", "reports/posts/readme.txt");
    let body = b"hello".to_vec().into();
    house
        .store
        .put(&strange, body, "text/plain")
        .await
        .expect("it is written");

    let archive = house.archive();
    let kept = archive.list().await.expect("the store answers");
    let runs: Vec<i64> = kept.iter().map(|kept| kept.run_id).collect();
    assert_eq!(runs, [11, 10, 9], "from the newest to the oldest");
    assert_eq!(
        kept,
        archive.runs("posts").await.expect("the store answers")
    );
    assert_eq!(kept[0].formats.len(), 4);
    assert!(
        archive
            .runs("other")
            .await
            .expect("the store answers")
            .is_empty()
    );

    let written = archive
        .read("posts", &kept[0].folder)
        .await
        .expect("the store answers")
        .expect("it is kept");
    assert_eq!(written.title, "Posts");
    assert_eq!(written.description, "The posts of each category.");
    assert_eq!(written.views, [("known".to_owned(), KNOWN.to_owned())]);
    assert_eq!(
        written.answer.rows[0],
        [json!("<art>"), json!(1), json!(10)]
    );
    let drawn = written.drawn();
    assert!(
        drawn.len() == 1 && drawn[0].contains("&lt;art&gt;"),
        "{drawn:?}"
    );

    for (report, run) in [
        ("posts", "20260109T020000Z-r9"),
        ("posts", "../../clean"),
        ("../reports/posts", kept[0].folder.as_str()),
    ] {
        let found = archive.file(report, run, Format::Csv).await;
        assert_eq!(
            found.expect("the store is not asked"),
            None,
            "{report}/{run}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_views_and_charts_name_their_place() {
    let house = House::new().await;
    house.clean(1, 0, &[("a", "art", 10)]).await;
    let refuse = async |change: &dyn Fn(&mut Value)| {
        let mut with = posts();
        change(&mut with);
        let refused = house.report(1, 1, with).await;
        refused.expect_err("it is refused").message
    };
    let unbound = refuse(&|with| with["params"] = json!({})).await;
    assert!(
        unbound.contains("view `known`") && unbound.contains("`least`"),
        "{unbound}"
    );
    let column = refuse(&|with| with["reports"][0]["charts"][0]["value"] = json!("psots")).await;
    assert!(
        column.contains("report `posts`") && column.contains("`psots`"),
        "{column}"
    );
    let view = "select * from later";
    std::fs::write(house.folder.path().join("known.sql"), view).expect("the file is written");
    let later = refuse(&|_| ()).await;
    assert!(
        later.contains("view `known`") && later.contains("`later`"),
        "{later}"
    );
}
