//! The vault over a real Postgres.

use serde_json::json;
use sqlx::{Connection as _, PgConnection, Row};

use crate::{
    model::{ConnectionId, VariableName},
    secrets::{Environment, Error, Keyring, Secrecy, Source, Sources, Variable, Vault, new_key},
    store::{Kept, Store},
    testing::fresh_store,
};

const SECRET: &str = "hunter2-and-more";

fn sources(keys: &[&str], environment: &[(&str, &str)]) -> Sources {
    Sources {
        keyring: Keyring::parse(&keys.join(",")).unwrap(),
        environment: Environment::of(
            environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        ),
    }
}

fn vault(store: &Store, keys: &[&str]) -> Vault {
    Vault::new(store.clone(), sources(keys, &[]))
}

fn connection_id(text: &str) -> ConnectionId {
    ConnectionId::new(text).unwrap()
}

fn name(text: &str) -> VariableName {
    VariableName::new(text).unwrap()
}

fn secret(value: serde_json::Value) -> Variable {
    Variable {
        value,
        secrecy: Secrecy::Secret,
    }
}

async fn fill(vault: &Vault) {
    let connection = pinwheel_tasks::Connection::parse(&format!(
        "postgres://{SECRET}-login:{SECRET}@{SECRET}.example.com/{SECRET}?token={SECRET}"
    ))
    .unwrap();
    let kept = vault
        .set_connection(
            &connection_id("warehouse"),
            connection,
            Some("The warehouse"),
            "a test",
        )
        .await
        .unwrap();
    assert_eq!(kept, Kept::Created);
    for (variable, value) in [
        ("token", secret(json!(SECRET))),
        ("table", secret(json!({ "a": [SECRET] }))),
    ] {
        vault
            .set_variable(&name(variable), &value, None, "a test")
            .await
            .unwrap();
    }
}

/// Everything that stands in the database, as text: bytes as hexadecimal and as they are.
pub(crate) async fn all_of_the_database(url: &str) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let tables = sqlx::query(
        "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let mut all = String::new();
    for table in tables {
        let table: String = table.get(0);
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "select t::text from {table} t"
        )))
        .fetch_all(&mut connection)
        .await
        .unwrap();
        for row in rows {
            all.push_str(&row.get::<String, _>(0));
            all.push('\n');
        }
    }
    let sealed = sqlx::query("select sealed from connection union all select sealed from variable")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert!(!sealed.is_empty());
    for row in sealed {
        all.push_str(&String::from_utf8_lossy(&row.get::<Vec<u8>, _>(0)));
    }
    all
}

async fn execute(url: &str, statement: &'static str) -> u64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query(statement)
        .execute(&mut connection)
        .await
        .unwrap()
        .rows_affected()
}

#[tokio::test]
async fn what_is_kept_comes_back_and_the_database_never_holds_it_in_the_clear() {
    let (store, url) = fresh_store().await;
    let vault = vault(&store, &[&new_key()]);
    fill(&vault).await;
    let connection = vault.connection("warehouse").await.unwrap();
    assert_eq!(connection.password.as_deref(), Some(SECRET));
    assert_eq!(
        vault.variable("table").await.unwrap().value,
        json!({ "a": [SECRET] })
    );
    let all = all_of_the_database(&url).await;
    assert!(all.contains("The warehouse"), "it was read");
    assert!(!all.contains(SECRET) && !all.contains(&hex::encode(SECRET)));
    // The same value is never the same bytes twice.
    let before = all_of_the_database(&url).await;
    vault
        .set_variable(&name("token"), &secret(json!(SECRET)), None, "a test")
        .await
        .unwrap();
    assert_ne!(before, all_of_the_database(&url).await);
}

#[tokio::test]
async fn lists_show_no_secret() {
    let (store, _) = fresh_store().await;
    let vault = vault(&store, &[&new_key()]);
    fill(&vault).await;
    let connection =
        pinwheel_tasks::Connection::parse(&format!("x://ada:{SECRET}@host:7/db?token={SECRET}"))
            .unwrap();
    vault
        .set_connection(&connection_id("warehouse"), connection, None, "a test")
        .await
        .unwrap();
    let shown = Variable {
        value: json!(5),
        secrecy: Secrecy::Shown,
    };
    vault
        .set_variable(&name("rows"), &shown, Some("How many"), "a test")
        .await
        .unwrap();
    let connections = vault.connections().await.unwrap();
    let variables = vault.variables().await.unwrap();
    let listed = json!([connections, variables]).to_string();
    assert!(!listed.contains(SECRET), "{listed}");
    let warehouse = &connections[0];
    assert_eq!(
        (
            warehouse.login.as_deref(),
            warehouse.has_password,
            warehouse.extra.as_slice()
        ),
        (Some("ada"), true, ["token".to_owned()].as_slice())
    );
    assert_eq!(
        warehouse.description, "The warehouse",
        "it stays when it is not given"
    );
    assert_eq!(variables[0].value, Some(json!(5)));
    assert_eq!(variables[2].value, None);
}

#[tokio::test]
async fn a_rotation_seals_everything_anew_and_the_old_key_may_go() {
    let (store, _) = fresh_store().await;
    let (old, new) = (new_key(), new_key());
    fill(&vault(&store, &[&old])).await;
    let rotated = vault(&store, &[&new, &old]).rotate("a test").await.unwrap();
    assert_eq!(
        (rotated.connections, rotated.variables, rotated.unchanged),
        (1, 2, 0)
    );
    let again = vault(&store, &[&new, &old]).rotate("a test").await.unwrap();
    assert_eq!(
        (again.connections, again.variables, again.unchanged),
        (0, 0, 3)
    );
    let after = vault(&store, &[&new]);
    assert_eq!(after.variable("token").await.unwrap().value, json!(SECRET));
    assert_eq!(
        after
            .connection("warehouse")
            .await
            .unwrap()
            .password
            .as_deref(),
        Some(SECRET)
    );
    assert!(matches!(
        vault(&store, &[&old]).variable("token").await,
        Err(Error::WrongKey { .. })
    ));
}

#[tokio::test]
async fn a_rotation_that_cannot_open_something_changes_nothing() {
    let (store, url) = fresh_store().await;
    let (old, other, new) = (new_key(), new_key(), new_key());
    fill(&vault(&store, &[&old])).await;
    vault(&store, &[&other])
        .set_variable(&name("of-another"), &secret(json!("x")), None, "a test")
        .await
        .unwrap();
    let before = all_of_the_database(&url).await;
    let error = vault(&store, &[&new, &old])
        .rotate("a test")
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("variable `of-another`"),
        "{error}"
    );
    assert_eq!(before, all_of_the_database(&url).await);
}

#[tokio::test]
async fn without_the_key_the_message_says_what_to_do() {
    let (store, _) = fresh_store().await;
    let key = new_key();
    fill(&vault(&store, &[&key])).await;
    let id = Keyring::parse(&key).unwrap().newest().unwrap().to_string();

    let error = vault(&store, &[])
        .connection("warehouse")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "connection `warehouse` cannot be read: this process has no key for secrets"
    );
    assert!(error.hint().unwrap().contains("PINWHEEL_SECRETS_KEY"));
    let error = vault(&store, &[])
        .set_variable(&name("x"), &secret(json!(1)), None, "a test")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "variable `x` cannot be kept: this process has no key for secrets"
    );

    let error = vault(&store, &[&new_key()])
        .variable("token")
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("it is sealed with the key {id}")),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("pinwheel secrets rotate"));
    // A list still names everything, and says why the rest is not there.
    let listed = vault(&store, &[&new_key()]).connections().await.unwrap();
    assert_eq!(listed[0].connection_type, "postgres");
    assert!(listed[0].problem.as_ref().unwrap().contains(&id));
}

#[tokio::test]
async fn what_was_changed_by_hand_is_not_opened() {
    for statement in [
        // One bit of the ciphertext.
        "update variable set sealed = set_byte(sealed, octet_length(sealed) - 1, get_byte(sealed, octet_length(sealed) - 1) # 1) where variable_name = 'token'",
        // Another version.
        "update variable set sealed = set_byte(sealed, 0, 2) where variable_name = 'token'",
        // The value of another name.
        "update variable set sealed = (select sealed from variable where variable_name = 'table') where variable_name = 'token'",
        // No secret any more, to be read off the page.
        "update variable set is_secret = false where variable_name = 'token'",
    ] {
        let (store, url) = fresh_store().await;
        let vault = vault(&store, &[&new_key()]);
        fill(&vault).await;
        assert_eq!(execute(&url, statement).await, 1);
        let error = vault.variable("token").await.map(|_| ()).unwrap_err();
        assert!(
            matches!(error, Error::Tampered { .. }),
            "{statement}: {error}"
        );
        let listed = vault.variables().await.unwrap();
        assert_eq!(
            listed.iter().find(|row| row.name == "token").unwrap().value,
            None
        );
    }
    let (store, url) = fresh_store().await;
    let vault = vault(&store, &[&new_key()]);
    fill(&vault).await;
    execute(&url, "update connection set connection_type = 'http'").await;
    assert!(matches!(
        vault.connection("warehouse").await,
        Err(Error::Tampered { .. })
    ));
}

#[tokio::test]
async fn the_environment_wins_over_the_database_and_is_marked_so() {
    let (store, _) = fresh_store().await;
    let key = new_key();
    fill(&vault(&store, &[&key])).await;
    let vault = Vault::new(
        store,
        sources(
            &[&key],
            &[
                (
                    "PINWHEEL_CONN_WAREHOUSE",
                    "postgres://env:env-password@elsewhere/db",
                ),
                ("PINWHEEL_CONN_MY_API", r#"{"type": "http", "host": "api"}"#),
                ("PINWHEEL_CONN_BROKEN", "hunter2"),
                ("PINWHEEL_VAR_TOKEN", "of the environment"),
                ("PINWHEEL_VAR_LIST", "[1, 2]"),
                ("PINWHEEL_VAR_NUMBER", "5"),
                ("PINWHEEL_VAR_API_KEY", "abc"),
                ("HOME", "/"),
            ],
        ),
    );
    assert_eq!(
        vault.connection("warehouse").await.unwrap().host.as_deref(),
        Some("elsewhere")
    );
    assert_eq!(
        vault.connection("my-api").await.unwrap().host.as_deref(),
        Some("api")
    );
    let variable = async |name| {
        let variable = vault.variable(name).await.unwrap();
        (variable.value, variable.secrecy)
    };
    // The database says that it is secret, wherever the value comes from.
    assert_eq!(
        variable("token").await,
        (json!("of the environment"), Secrecy::Secret)
    );
    assert_eq!(variable("list").await, (json!([1, 2]), Secrecy::Shown));
    assert_eq!(variable("number").await, (json!("5"), Secrecy::Shown));
    assert_eq!(variable("api_key").await, (json!("abc"), Secrecy::Secret));

    let shown: Vec<_> = vault
        .connections()
        .await
        .unwrap()
        .into_iter()
        .map(|row| (row.connection_id, row.source, row.problem.is_some()))
        .collect();
    assert_eq!(
        shown,
        [
            ("broken".to_owned(), Source::Environment, true),
            ("my_api".to_owned(), Source::Environment, false),
            (
                "warehouse".to_owned(),
                Source::EnvironmentOverDatabase,
                false
            ),
        ]
    );
    let error = vault.connection("broken").await.unwrap_err();
    assert!(
        error.to_string().contains("`PINWHEEL_CONN_BROKEN`"),
        "{error}"
    );
    assert!(!error.to_string().contains("hunter2"));
    assert!(matches!(
        vault.delete_variable(&name("list"), "a test").await,
        Err(Error::FromEnvironment { .. })
    ));
    assert!(!format!("{vault:?}").contains("env-password"));
}

#[tokio::test]
async fn what_is_not_there_is_said_with_the_nearest_that_is() {
    let (store, _) = fresh_store().await;
    let vault = vault(&store, &[&new_key()]);
    fill(&vault).await;
    let error = vault.connection("warehose").await.unwrap_err();
    assert_eq!(error.to_string(), "there is no connection `warehose`");
    assert_eq!(error.hint().as_deref(), Some("did you mean `warehouse`?"));
    vault
        .delete_connection(&connection_id("warehouse"), "a test")
        .await
        .unwrap();
    assert!(matches!(
        vault
            .delete_connection(&connection_id("warehouse"), "a test")
            .await,
        Err(Error::Unknown { .. })
    ));
    let large = secret(json!("x".repeat(300_000)));
    let error = vault
        .set_variable(&name("large"), &large, None, "a test")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("at most 262144"), "{error}");
    let two_lines = vault
        .set_variable(&name("x"), &secret(json!(1)), Some("a\nb"), "a test")
        .await;
    assert!(matches!(two_lines, Err(Error::Misfit { .. })));
}

#[test]
fn keys_are_read_in_every_way_settings_hold_them() {
    let (one, two) = (new_key(), new_key());
    let hexadecimal = hex::encode([7; 32]);
    let ring = Keyring::parse(&format!(
        "# newest first\n{one}, {two} # the old one\n\n{hexadecimal}\n{one}\n"
    ))
    .unwrap();
    assert_eq!(format!("{ring:?}").matches(", ").count(), 2, "{ring:?}");
    assert!(Keyring::parse(" \n").unwrap().is_empty());
    for wrong in ["short", &one[1..], &format!("{one},{}", "g".repeat(64))] {
        let error = Keyring::parse(wrong).unwrap_err();
        assert!(!error.to_string().contains(wrong), "{error}");
    }
}
