use super::*;

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
            sql: "reports/posts.sql".to_owned()
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

#[test]
fn a_page_escapes_every_value_and_has_no_script() {
    let rows = df!(
        "<b>name</b>" => ["<script>alert(1)</script>", "a & \"b\" 'c'"],
        "posts" => [1_234_567_i64, 20],
    )
    .expect("the columns have one length");
    let written = page::Written {
        title: "<img src=x onerror=alert(1)>".to_owned(),
        description: "</style><script>".to_owned(),
        sql: "select '<script>' from pins".to_owned(),
        dag_id: "daily".to_owned(),
        run_id: 7,
        logical_date: "2026-01-01 00:00:00 UTC".to_owned(),
    };
    let page = page::html(&written, &rows).expect("the page is written");
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
    let written = page::Written {
        title: "t".to_owned(),
        description: String::new(),
        sql: String::new(),
        dag_id: "d".to_owned(),
        run_id: 1,
        logical_date: "now".to_owned(),
    };
    assert!(
        !page::html(&written, &rows)
            .expect("the page is written")
            .contains("<svg")
    );
}
