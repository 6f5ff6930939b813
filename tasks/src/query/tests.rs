use std::collections::BTreeSet;

use super::*;
use serde_json::json;

fn refusal(sql: &str) -> Failure {
    check(sql, ["pins", "users"]).expect_err("the statement is refused")
}

#[test]
fn only_reads_of_known_datasets_pass() {
    let reads = [
        "select * from pins",
        "SELECT count(*) FROM pins;",
        "with top as (select * from pins) select * from top join users on top.index = users.ind",
        "select * from (select category from pins union all select first_name from users) as names",
        "select * from pins where category in (select category from pins)",
        "values (1), (2)",
    ];
    for sql in reads {
        assert!(
            matches!(check(sql, ["pins", "users"]), Ok(Checked::Query { .. })),
            "{sql}"
        );
    }
    assert_eq!(check("show tables", []), Ok(Checked::ShowTables));
    let tables = BTreeSet::from(["pins".to_owned(), "users".to_owned()]);
    assert_eq!(
        check("select * from pins, users", ["pins", "users"]),
        Ok(Checked::Query { tables })
    );
}

#[test]
fn whatever_writes_or_reads_something_else_is_refused() {
    let refused = [
        "create table x as select * from pins",
        "drop table pins",
        "truncate table pins",
        "delete from pins",
        "insert into pins values (1)",
        "update pins set title = 'x'",
        "explain select * from pins",
        "select * into copy from pins",
        "select * from read_csv('/etc/passwd')",
        "select * from READ_PARQUET('s3://other/x.parquet')",
        "select * from pins join read_json('/etc/passwd') as p on true",
        "select * from (select * from read_csv('/etc/passwd')) as t",
        "select * from pins where title in (select a from read_csv('/etc/passwd'))",
        "with x as (select * from read_csv('/etc/passwd')) select * from x",
        "select * from pins union all select * from read_csv('/etc/passwd')",
        "select * from lateral read_csv('/etc/passwd')",
        "select * from table(read_csv('/etc/passwd'))",
        "with x as (delete from pins returning *) select * from x",
        "select * from 'file.parquet'",
        "select * from public.pins",
        "table pins",
        "select 1; select 2",
        "",
        "selec * from pins",
    ];
    for sql in refused {
        assert!(check(sql, ["pins", "users"]).is_err(), "{sql}");
    }
}

#[test]
fn refusals_say_what_to_do() {
    let words = [
        "select * from pinns",
        "select * from nothing_like_it",
        "drop table pins",
        "select * from read_csv('/etc/passwd')",
        "select from where",
        "select 1; select 2",
    ];
    let text: Vec<String> = words
        .iter()
        .map(|sql| (sql, refusal(sql)))
        .map(|(sql, it)| format!("{sql}\n  {}\n  {}", it.message, it.hint.unwrap_or_default()))
        .collect();
    insta::assert_snapshot!(text.join("\n"));
}

fn posts() -> DataFrame {
    df!(
        "id" => ["a", "b", "c", "d"],
        "category" => [Some("art"), Some("art"), None, Some("travel")],
        "followers" => [Some(10_i64), Some(25), None, Some(3)],
    )
    .expect("the columns have one length")
}

fn answer(sql: &str) -> Result<String, Failure> {
    check(sql, ["posts"])?;
    let rows = execute(vec![("posts".to_owned(), posts().lazy())], sql)?;
    Ok(render(&rows, Format::Json).expect("the rows can be shown"))
}

#[test]
fn medians_interpolate_and_nulls_are_a_group() {
    let rows = answer("select category, count(*) as posts, median(followers) as median from posts group by category order by posts desc, category nulls last").expect("the query runs");
    assert_eq!(
        rows,
        "[\n  {\"category\":\"art\",\"posts\":2,\"median\":17.5},\n  {\"category\":\"travel\",\"posts\":1,\"median\":3.0},\n  {\"category\":null,\"posts\":1,\"median\":null}\n]\n"
    );
}

#[test]
fn parameters_are_values_and_never_sql() {
    let run = |sql: &str, value: serde_json::Value| {
        let bindings = Bindings::from([("wanted".to_owned(), value)]);
        let sql = bind::bind(sql, &bindings)?;
        check(&sql, ["posts"])?;
        execute(vec![("posts".to_owned(), posts().lazy())], &sql).map(|rows| rows.height())
    };
    let by_category = "select * from posts where category = $wanted";
    assert_eq!(run(by_category, json!("art")), Ok(2));
    for hostile in [
        "' or 1 = 1 --",
        "x' union select * from posts --",
        "\\' or true",
        "'; drop table posts; --",
        "$wanted",
        "art\u{0}",
    ] {
        assert_eq!(run(by_category, json!(hostile)), Ok(0), "{hostile}");
    }
    assert_eq!(
        run("select * from posts where followers >= $wanted", json!(10)),
        Ok(2)
    );
    assert_eq!(
        run(
            "select * from posts where followers > 5 - $wanted",
            json!(-5)
        ),
        Ok(1)
    );
    assert_eq!(
        run(
            "select * from posts -- what $wanted costs\nwhere 'ü$wanted' = 'x' or /* ü */ category = $wanted",
            json!("art")
        ),
        Ok(2)
    );
    let missing = run("select * from posts where followers >= $other", json!(10))
        .expect_err("the parameter is not given");
    assert!(missing.message.contains("`other`"), "{missing}");
    assert!(run(by_category, json!({"a": 1})).is_err());
}

#[test]
fn a_mistake_in_a_query_is_explained_without_a_plan() {
    let failure = answer("select nothing from posts").expect_err("there is no such column");
    assert!(
        failure.message.contains("nothing") && !failure.message.contains('\n'),
        "{}",
        failure.message
    );
}

fn awkward() -> DataFrame {
    let tags = Series::new(
        "tags".into(),
        [
            Series::new("".into(), ["a", "b,c"]),
            Series::new("".into(), ["ü"]),
        ],
    );
    let columns = vec![
        Column::new(
            "text".into(),
            [Some("=1+1"), Some("a \"quoted\", line\nbreak\u{1b}[31m")],
        ),
        tags.into_column(),
        Column::new("count".into(), [Some(-3_i64), None]),
        Column::new("share".into(), [0.5, f64::NAN]),
        Column::new("empty".into(), [Some(""), None]),
    ];
    DataFrame::new(2, columns).expect("the columns have one length")
}

#[test]
fn rows_are_shown_as_table_csv_and_json() {
    let show = |format| render(&awkward(), format).expect("the rows can be shown");
    insta::assert_snapshot!("as_table", show(Format::Table));
    insta::assert_snapshot!("as_csv", show(Format::Csv(Formulas::AsTheyAre)));
    insta::assert_snapshot!("as_json", show(Format::Json));
    assert!(
        show(Format::Csv(Formulas::Disarmed)).contains("'=1+1,"),
        "a formula is disarmed"
    );
    assert!(
        show(Format::Csv(Formulas::Disarmed)).contains(",-3,"),
        "a number is no formula"
    );
}
