//! What the docs promise.

use super::*;

#[test]
fn every_example_in_the_docs_is_true() {
    let docs = include_str!("../../../../../docs/SCHEDULES.md");
    let mut examples = 0;
    for line in docs.lines() {
        let cells: Vec<&str> = line
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.trim().trim_matches('`'))
            .collect();
        let [expression, zone, after, fires_at, _because] = cells.as_slice() else {
            continue;
        };
        let (Ok(after), Ok(fires_at)) = (
            after.parse::<DateTime<Utc>>(),
            fires_at.parse::<DateTime<Utc>>(),
        ) else {
            continue;
        };
        assert_eq!(
            cron(expression, zone).next_after(after),
            Some(fires_at),
            "{line}"
        );
        examples += 1;
    }
    assert_eq!(examples, 12);
}
