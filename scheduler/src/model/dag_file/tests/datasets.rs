//! `outlets`, and the form of `schedule` that waits for datasets.

use super::*;
use crate::model::DatasetName;

fn read(schedule: &str) -> Dag {
    let source = file(&format!("schedule = {schedule}"), "");
    load("a.toml", source.as_bytes(), &registry()).expect(schedule)
}

#[test]
fn a_dag_may_wait_for_datasets_in_every_form() {
    for (written, words) in [
        ("{ datasets = \"pins\" }", "pins"),
        (
            "{ datasets = { all = [\"s3://lake/a\", \"b\"] } }",
            "s3://lake/a and b",
        ),
        (
            "{ datasets = { any = [\"a\", { all = [\"b\", \"c\"] }] } }",
            "a or (b and c)",
        ),
        ("[{ datasets = \"pins\" }]", "pins"),
    ] {
        let dag = read(written);
        assert_eq!(dag.datasets.as_ref().expect(written).describe(), words);
        assert_eq!(dag.schedule, None, "{written}");
        let stored = serde_json::to_value(&dag).expect("it is JSON");
        let again: Dag = serde_json::from_value(stored).expect("it is read again");
        assert_eq!(again, dag);
    }
    let both = read("[\"@daily\", { datasets = { any = [\"a\", \"b\"] } }]");
    assert_eq!(
        both.runs_when().expect("it does"),
        "every day at 00:00 UTC; after updates of a or b"
    );
    assert_eq!(both.schedule.expect("a clock as well").text(), "@daily");
}

#[test]
fn what_a_task_updates_is_read() {
    let source = file(
        "",
        "[tasks.b]\nkind = \"noop\"\noutlets = [\"s3://lake/clean/pins\", \"pins\"]\n",
    );
    let dag = load("a.toml", source.as_bytes(), &registry()).expect("it is good");
    let (_, task) = dag.task("b").expect("it is there");
    let outlets: Vec<&str> = task.outlets.iter().map(DatasetName::as_str).collect();
    assert_eq!(outlets, ["s3://lake/clean/pins", "pins"]);
}

#[test]
fn every_mistake_about_datasets_is_shown_at_its_place() {
    let source = r#"[dag]
id = "a"
schedule = [{ datasets = { all = ["ok", "not ok"], any = [] } }, { datasets = { every = "x" } }]

[tasks.write]
kind = "noop"
outlets = ["s3://lake/{{ ds }}", "a", "a", 5]

[tasks.plain]
kind = "noop"
outlets = "pins"
"#;
    assert_eq!(
        messages(source),
        [
            "`datasets` takes one of `all` and `any`",
            "`schedule` has `datasets` twice",
            "`s3://lake/{{ ds }}` cannot name a dataset",
            "`a` is named twice in `outlets`",
            "an element of `outlets` must be text, found a whole number",
            "`outlets` must be a list of texts, found text",
        ]
    );
    let report = report(source);
    for place in [
        "--> dags/a.toml:3:26\n",
        "--> dags/a.toml:7:12\n",
        "hint: a dataset is no template; name the whole set, such as \"s3://lake/clean/pins\"\n",
        "hint: write `outlets = [\"pins\"]`\n",
    ] {
        assert!(report.contains(place), "{place}{report}");
    }
    for (schedule, found) in [
        (
            "{ datasets = { any = [] }, every = \"1d\" }",
            [
                "`any` is an empty list of datasets",
                "unknown key `every` in `schedule`",
            ],
        ),
        (
            "{ datasets = { any = [\"\", \"a b\"] } }",
            ["`` cannot name a dataset", "`a b` cannot name a dataset"],
        ),
    ] {
        assert_eq!(
            messages(&file(&format!("schedule = {schedule}"), "")),
            found
        );
    }
    let needed = file(
        "schedule = { datasets = \"pins\" }",
        "[params.needed]\ntype = \"string\"",
    );
    assert_eq!(
        messages(&needed),
        ["param `needed` has no default, but the DAG has a schedule"]
    );
    for (schedule, message) in [
        (
            "{ datasets = [\"a\"] }",
            "`datasets` must be a dataset, or a table with `all` or `any`, found a list",
        ),
        (
            "{ datasets = { all = \"a\" } }",
            "`all` must be a list of datasets, found text",
        ),
        (
            "{ datasets = {} }",
            "`datasets` takes one of `all` and `any`",
        ),
    ] {
        let found = messages(&file(&format!("schedule = {schedule}"), ""));
        assert_eq!(found, [message]);
    }
    let deep = "{ all = [".repeat(20) + "\"a\"" + &"] }".repeat(20);
    let found = messages(&file(&format!("schedule = {{ datasets = {deep} }}"), ""));
    assert_eq!(found, ["`datasets` is nested deeper than 8"]);
    let many: Vec<String> = (0..101).map(|number| format!("\"d{number}\"")).collect();
    let many = many.join(", ");
    let found = messages(&file(
        &format!("schedule = {{ datasets = {{ any = [{many}] }} }}"),
        "",
    ));
    assert_eq!(
        found,
        ["the DAG waits for 101 datasets; at most 100 are allowed"]
    );
}

#[test]
fn a_template_reads_only_datasets_that_the_dag_waits_for() {
    let waits = "schedule = { datasets = { all = [\"s3://lake/pins\", \"users\"] } }";
    let task = |template: &str| {
        format!(
            "[tasks.b]\nkind = \"shell\"\nwith.command = [\"{}\"]\n",
            template.replace('"', "\\\"")
        )
    };
    let good = "{{ (triggering_datasets[\"s3://lake/pins\"] | last).extra.rows }} {{ triggering_datasets.users | length }}";
    assert_eq!(messages(&file(waits, &task(good))), [""; 0]);
    for (dag, template, hint) in [
        (
            waits,
            "{{ triggering_datasets.user }}",
            "did you mean `users`?",
        ),
        (
            waits,
            "{{ triggering_datasets.s3 }}",
            "write one in brackets, as in `triggering_datasets[\"s3://lake/pins\"]`",
        ),
        (
            "",
            "{{ triggering_datasets.users }}",
            "add `schedule = { datasets = { all = [\"…\"] } }` to `[dag]`",
        ),
    ] {
        let (message, found) = only_message(&file(dag, &task(template)));
        assert!(
            message.starts_with("the DAG does not wait for the dataset "),
            "{message}"
        );
        assert_eq!(found.as_deref(), Some(hint));
    }
}

#[test]
fn the_schema_takes_what_is_read() {
    let schema = schema(&registry());
    for pointer in [
        "/$defs/datasets/oneOf/1/properties/all/items/$ref",
        "/$defs/datasets/oneOf/2/properties/any/items/$ref",
        "/$defs/schedule/oneOf/3/properties/datasets/$ref",
    ] {
        assert_eq!(
            schema.pointer(pointer),
            Some(&json!("#/$defs/datasets")),
            "{pointer}"
        );
    }
    assert_eq!(
        schema.pointer("/properties/tasks/additionalProperties/properties/outlets/items/$ref"),
        Some(&json!("#/$defs/dataset"))
    );
}
