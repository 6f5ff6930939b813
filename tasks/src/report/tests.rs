use polars::prelude::*;

use super::{request::check_path, *};

fn with(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("a table")
}

#[test]
fn sql_files_cannot_leave_the_dag_folder() {
    for path in ["reports/posts.sql", "posts.sql"] {
        assert_eq!(check_path(path), Ok(()));
    }
    for path in [
        "/etc/passwd.sql",
        "../x.sql",
        "reports/../../x.sql",
        "",
        "reports",
        "x.txt",
        "a\\b.sql",
        "./x.sql",
    ] {
        assert!(check_path(path).is_err(), "{path}");
    }
}

#[test]
fn one_sql_file_or_a_list_of_reports() {
    let one = wanted_reports(&with(json!({"sql": "reports/posts.sql", "title": "Posts"})))
        .expect("one report");
    assert_eq!(
        one,
        [Wanted {
            name: "posts".to_owned(),
            title: "Posts".to_owned(),
            sql: "reports/posts.sql".to_owned(),
            charts: Vec::new(),
        }]
    );
    let two = json!({"reports": [{"sql": "a.sql"}, {"name": "b", "sql": "a.sql"}]});
    assert_eq!(wanted_reports(&with(two)).expect("two reports").len(), 2);
    let wrong = [
        json!({}),
        json!({"sql": "a.sql", "reports": [{"sql": "a.sql"}]}),
        json!({"reports": []}),
        json!({"reports": [{"sql": "a.sql"}, {"sql": "x/a.sql"}]}),
        json!({"reports": [{"name": "a/b", "sql": "a.sql"}]}),
        json!({"reports": [{"name": "a"}]}),
        json!({"reports": [{"sql": "a.sql", "titel": "A"}]}),
        json!({"reports": ["a.sql"]}),
    ];
    for table in wrong {
        assert!(wanted_reports(&with(table.clone())).is_err(), "{table}");
    }
}

#[test]
fn the_comment_at_the_top_is_the_description() {
    assert_eq!(
        description("-- One.\n--   Two.\nselect 1 -- three"),
        "One. Two."
    );
}

fn written(rows: &DataFrame, charts: Vec<Chart>) -> Written {
    Written {
        name: "posts".to_owned(),
        title: "<img src=x onerror=alert(1)>".to_owned(),
        description: "</style><script>".to_owned(),
        sql: "select '<script>' from pins".to_owned(),
        views: vec![("chosen".to_owned(), "select '<b>' from pins".to_owned())],
        params: Map::new(),
        dag_id: "daily".to_owned(),
        run_id: 7,
        logical_date: "2026-01-01 00:00:00 UTC".to_owned(),
        charts,
        answer: Answer::of(rows).expect("the rows can be read"),
    }
}

fn page(written: &Written, rows: &DataFrame) -> String {
    let body = written.body(Format::Html, rows).expect("it is written");
    String::from_utf8(body).expect("UTF-8")
}

#[test]
fn a_page_escapes_every_value_and_has_no_script() {
    let rows = df!(
        "<b>name</b>" => ["<script>alert(1)</script>", "a & \"b\" 'c'"],
        "posts" => [1_234_567_i64, 20],
    )
    .expect("the columns have one length");
    let page = page(&written(&rows, Vec::new()), &rows);
    assert!(
        !page.contains("<script") && !page.contains("<img") && !page.contains("<b>"),
        "{page}"
    );
    assert!(page.contains("<svg") && page.contains("1,234,567"));
    insta::assert_snapshot!(page);
}

#[test]
fn rows_without_numbers_have_no_chart() {
    let rows = df!("name" => ["a"]).expect("one column");
    assert!(!page(&written(&rows, Vec::new()), &rows).contains("<svg"));
}

fn chart(value: Value) -> Chart {
    Chart::read(&value).unwrap_or_else(|why| panic!("{why}"))
}

fn yearly() -> DataFrame {
    df!(
        "year" => [2018_i32, 2018, 2019, 2020, 2020],
        "category" => [Some("art"), Some("<script>"), Some("art"), Some("art"), None],
        "posts" => [Some(1200_i64), Some(3), None, Some(700), Some(9)],
    )
    .expect("the columns have one length")
}

#[test]
fn charts_are_bars_and_lines_with_names_and_values_as_text() {
    let rows = yearly();
    let bars = json!({ "type": "bars", "label": ["year", "category"], "value": "posts" });
    let grouped =
        json!({ "type": "bars", "label": "year", "value": "posts", "series": "category" });
    let lines = json!({ "type": "lines", "label": "year", "value": "posts", "series": "category" });
    let written = written(&rows, [bars, grouped, lines].map(chart).to_vec());
    let drawn = written.drawn();
    assert_eq!(drawn.len(), 3);
    assert!(
        drawn
            .iter()
            .all(|svg| !svg.contains("<script") && !svg.contains("NaN"))
    );
    insta::assert_snapshot!(drawn.join("\n"));
}

#[test]
fn a_chart_is_refused_in_words() {
    for (wrong, told) in [
        (json!("bars"), "a table"),
        (
            json!({ "type": "pie", "label": "a", "value": "b" }),
            "`pie`",
        ),
        (json!({ "type": "bars", "value": "b" }), "`label`"),
        (json!({ "type": "bars", "label": "a" }), "`value`"),
        (
            json!({ "type": "bars", "label": [], "value": "b" }),
            "`label`",
        ),
        (
            json!({ "type": "bars", "label": "a", "value": "b", "colour": "red" }),
            "`colour`",
        ),
        (
            json!({ "type": "bars", "label": "a", "value": "b", "series": 1 }),
            "`series`",
        ),
    ] {
        let why = Chart::read(&wrong).expect_err("it is refused");
        assert!(why.contains(told), "{why}");
    }
    let answer = Answer::of(&yearly()).expect("the rows can be read");
    for (wrong, told) in [
        (
            json!({ "type": "bars", "label": "yaer", "value": "posts" }),
            "`yaer`",
        ),
        (
            json!({ "type": "bars", "label": "year", "value": "category" }),
            "`category`",
        ),
    ] {
        let why = chart(wrong).fits(&answer).expect_err("it does not fit");
        assert!(why.contains(told), "{why}");
    }
}

#[test]
fn values_below_zero_are_not_drawn() {
    let rows = df!("name" => ["a", "b"], "change" => [1_i64, -1]).expect("two columns");
    assert!(written(&rows, Vec::new()).drawn().is_empty());
}

#[test]
fn the_json_of_a_report_is_read_back_as_it_was() {
    let rows = yearly();
    let lines =
        json!({ "type": "lines", "label": ["year"], "value": "posts", "series": "category" });
    let mut written = written(&rows, vec![chart(lines)]);
    written.params.insert("least".to_owned(), json!(3));
    let body = written.body(Format::Json, &rows).expect("it is written");
    assert_eq!(Written::from_json(&body), Some(written));
    assert_eq!(Written::from_json(b"{}"), None);
}

/// The examples of the guide and the shipped DAGs.
#[test]
fn every_example_of_a_report_is_accepted() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("the file is there");
    let guide = read("docs/REPORTS.md");
    let blocks = guide.split("```toml\n").skip(1);
    let mut files: Vec<String> = blocks
        .filter_map(|block| Some(block.split_once("```")?.0.to_owned()))
        .collect();
    assert_eq!(files.len(), 2, "examples in the guide");
    files.push(read("dags/pinterest_daily.toml"));
    files.push(read("dags/pinterest_reports.toml"));
    for file in files {
        let table: toml::Table = file.parse().expect("TOML");
        let task = &table["tasks"]["report"];
        let with = serde_json::to_value(&task["with"]).expect("JSON");
        let with = with.as_object().expect("a table");
        let request = Request::read(with);
        assert!(request.is_ok(), "{:?}", request.err());
        for report in wanted_reports(with).expect("the reports are read") {
            let exists = root.join("dags").join(&report.sql).exists();
            assert!(
                exists || report.sql == "reports/joined.sql",
                "{}",
                report.sql
            );
        }
    }
}

#[test]
fn views_have_names_and_files_and_no_name_twice() {
    let views = |views: Value| {
        wanted_views(&with(
            json!({ "datasets": { "pins": "s3://lake/clean/pins/" }, "views": views }),
        ))
    };
    let good = views(json!([{ "name": "posts", "sql": "reports/views/posts.sql" }]));
    assert_eq!(good.expect("a view").len(), 1);
    for wrong in [
        json!({}),
        json!([{ "name": "posts" }]),
        json!([{ "name": "Posts", "sql": "posts.sql" }]),
        json!([{ "name": "a; drop", "sql": "posts.sql" }]),
        json!([{ "name": "posts", "sql": "../posts.sql" }]),
        json!([{ "name": "posts", "sql": "posts.sql", "title": "Posts" }]),
        json!([{ "name": "pins", "sql": "posts.sql" }]),
        json!([{ "name": "posts", "sql": "a.sql" }, { "name": "posts", "sql": "b.sql" }]),
    ] {
        assert!(views(wrong.clone()).is_err(), "{wrong}");
    }
}
