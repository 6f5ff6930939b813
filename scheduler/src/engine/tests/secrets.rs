//! What a try looks up, and that nothing it shows holds a secret.

use pinwheel_tasks::{Connection, LogStream, Registry, light_kinds};
use serde_json::{Value, json};

use super::*;
use crate::{
    model::{ConnectionId, Dag, RunId, VariableName},
    secrets::{Environment, Keyring, Secrecy, Sources, Variable, Vault, new_key},
    store::tests::secrets::all_of_the_database,
};

const PASSWORD: &str = "hunter2-and-more";
const TOKEN: &str = "tok-{1} \"x\"";
const PEM: &str = "-----BEGIN KEY-----\nMIIabcdefgh\nqwertyuiop\n-----END KEY-----\n";

struct House {
    store: Store,
    url: String,
    sources: Sources,
}

impl House {
    /// A store with a connection and some variables, and the key to them.
    async fn furnished() -> Self {
        let (store, url) = fresh_store().await;
        let sources = Sources {
            keyring: Keyring::parse(&new_key()).unwrap(),
            environment: Environment::default(),
        };
        let vault = Vault::new(store.clone(), sources.clone());
        let connection = Connection::parse(&format!(
            "postgres://ada:{PASSWORD}@db.example.com:5432/sales"
        ))
        .unwrap();
        let id = ConnectionId::new("warehouse").unwrap();
        vault
            .set_connection(&id, connection, None, "a test")
            .await
            .unwrap();
        for (name, value, secrecy) in [
            ("token", json!(TOKEN), Secrecy::Secret),
            ("pem", json!(PEM), Secrecy::Secret),
            ("region", json!("eu-west-1"), Secrecy::Shown),
            ("limits", json!({ "rows": 5 }), Secrecy::Shown),
        ] {
            let name = VariableName::new(name).unwrap();
            let variable = Variable { value, secrecy };
            vault
                .set_variable(&name, &variable, None, "a test")
                .await
                .unwrap();
        }
        Self {
            store,
            url,
            sources,
        }
    }

    async fn engine(&self, registry: Registry) -> Engine {
        let options = Options {
            secrets: self.sources.clone(),
            ..options("test")
        };
        start_with(
            &self.store,
            registry,
            Roles::Both,
            options,
            Arc::new(SystemClock::new()),
        )
        .await
    }

    /// Runs a DAG of one task to its end.
    async fn run(&self, registry: Registry, one: &Dag) -> RunId {
        publish(&self.store, one).await;
        let engine = self.engine(registry).await;
        let run = trigger(&self.store, one).await;
        engine.bell().ring();
        run_end(&self.store, engine.changes(), run).await;
        finish(engine).await;
        run
    }

    async fn failure(&self, run: RunId) -> (String, String) {
        let instance = self.store.instances(run).await.unwrap().remove(0);
        let tries = self.store.tries(instance.instance_id).await.unwrap();
        let last = tries.last().unwrap();
        (
            last.reason.clone().unwrap_or_default(),
            last.hint.clone().unwrap_or_default(),
        )
    }

    async fn log(&self, run: RunId) -> Vec<String> {
        let instance = self.store.instances(run).await.unwrap().remove(0);
        self.store
            .log(instance.instance_id, LogPosition::default(), 1000)
            .await
            .unwrap()
            .into_iter()
            .map(|line| line.message)
            .collect()
    }

    /// No table holds a secret in the clear.
    async fn keeps_no_secret(&self) {
        let all = all_of_the_database(&self.url).await;
        for secret in [
            PASSWORD,
            TOKEN,
            &TOKEN.replace('"', "\\\""),
            "MIIabcdefgh",
            "qwertyuiop",
        ] {
            assert!(!all.contains(secret), "{secret} is in the database");
        }
    }
}

fn one(with: Value) -> Dag {
    let mut one = dag("one", &[("only", &[])]);
    one.tasks[0].with = with.as_object().unwrap().clone();
    one
}

#[tokio::test]
async fn variables_and_connections_reach_templates_and_are_masked_in_what_is_kept() {
    let house = House::furnished().await;
    let (saw, mut seen) = mpsc::unbounded_channel();
    let registry = kinds(move |_, with| {
        saw.send(with).unwrap();
        async { Ok(Outcome::success()) }
    });
    let with = json!({
        "url": "{{ conn.warehouse.uri }}",
        "password": "{{ conn.warehouse.password }}",
        "host": "{{ conn.warehouse.host }}:{{ conn.warehouse.port }}",
        "header": "Bearer {{ var.token }}",
        "region": "{{ var.region }}",
        "rows": "{{ var.limits.rows }}",
    });
    let run = house.run(registry, &one(with)).await;
    let seen = seen.recv().await.unwrap();
    assert_eq!(seen["password"], PASSWORD);
    assert_eq!(seen["header"], format!("Bearer {TOKEN}"));
    let instance = house.store.instances(run).await.unwrap().remove(0);
    let rendered = house
        .store
        .rendered(instance.instance_id, 1)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        rendered,
        json!({
            "url": "postgres://ada:***@db.example.com:5432/sales",
            "password": "***",
            "host": "db.example.com:5432",
            "header": "Bearer ***",
            "region": "eu-west-1",
            "rows": 5,
        })
    );
    house.keeps_no_secret().await;
}

#[tokio::test]
async fn log_lines_and_failures_hold_no_secret() {
    let house = House::furnished().await;
    let registry = kinds(|context, with| async move {
        for line in PEM.lines() {
            context
                .log
                .line(LogStream::Stdout, format!("> {line}"))
                .await;
        }
        let password = with["password"].as_str().unwrap().to_owned();
        context.log.say(format!("logging in with {password}")).await;
        context
            .log
            .line(
                LogStream::Stderr,
                format!("half of it: {}", &password[..10]),
            )
            .await;
        context
            .log
            .line(LogStream::Stderr, format!("{} was it", &password[10..]))
            .await;
        context.log.say("eu-west-1 is fine").await;
        Err(Failure::permanent(format!("{password} was refused"))
            .with_hint(format!("is {password} right?")))
    });
    let with = json!({
        "password": "{{ conn.warehouse.password }}", "pem": "{{ var.pem }}", "token": "{{ var.token }}", "region": "{{ var.region }}",
    });
    let run = house.run(registry, &one(with)).await;
    assert_eq!(
        house.log(run).await,
        [
            "> ***",
            "> ***",
            "> ***",
            "> ***",
            "logging in with ***",
            "half of it: ***",
            "*** was it",
            "eu-west-1 is fine",
        ]
    );
    assert_eq!(
        house.failure(run).await,
        ("*** was refused".to_owned(), "is *** right?".to_owned())
    );
    house.keeps_no_secret().await;
}

#[tokio::test]
async fn a_kind_gets_a_connection_by_name_and_its_password_is_masked_from_then_on() {
    let house = House::furnished().await;
    let registry = kinds(|context, _| async move {
        let connection = context.connections.get("warehouse").await?;
        let password = connection.password.unwrap();
        context
            .log
            .say(format!("{:?} {password}", connection.host))
            .await;
        Ok(Outcome::Skipped {
            reason: format!("{password} is enough"),
        })
    });
    let run = house.run(registry, &one(json!({}))).await;
    assert_eq!(house.log(run).await, ["Some(\"db.example.com\") ***"]);
    house.keeps_no_secret().await;

    let registry = kinds(|context, _| async move {
        context.connections.get("warehose").await?;
        Ok(Outcome::success())
    });
    let run = house.run(registry, &one(json!({ "another": 1 }))).await;
    assert_eq!(
        house.failure(run).await,
        (
            "there is no connection `warehose`".to_owned(),
            "did you mean `warehouse`?".to_owned()
        )
    );
}

#[tokio::test]
async fn an_output_with_a_secret_fails_its_task_and_is_not_kept() {
    let house = House::furnished().await;
    let registry = kinds(|_, with| async move {
        Ok(Outcome::Success {
            output: json!({ "rows": [{ "url": with["url"] }] }),
        })
    });
    let run = house
        .run(registry, &one(json!({ "url": "{{ conn.warehouse.uri }}" })))
        .await;
    let (error, hint) = house.failure(run).await;
    assert_eq!(
        error,
        "its output `rows[0].url` holds the password of connection `warehouse`, and outputs are kept and shown"
    );
    assert!(hint.contains("leave the secret out"), "{hint}");
    house.keeps_no_secret().await;

    let registry = kinds(|_, with| async move {
        Ok(Outcome::Sleep {
            wake_after: Duration::ZERO,
            reason: "waits".to_owned(),
            resume: with["token"].clone(),
        })
    });
    let run = house
        .run(registry, &one(json!({ "token": "{{ var.token }}" })))
        .await;
    let (error, _) = house.failure(run).await;
    assert_eq!(
        error,
        "what it wants to keep while it sleeps holds variable `token`"
    );
    house.keeps_no_secret().await;
}

#[tokio::test]
async fn an_output_over_the_limit_fails_its_task_and_says_where_it_belongs() {
    let house = House::furnished().await;
    for (bytes, state) in [
        (262_144 - 8, TaskState::Success),
        (262_144 - 7, TaskState::Failed),
    ] {
        // `{"x":"…"}` is eight bytes more than its text.
        let registry = kinds(move |_, _| async move {
            Ok(Outcome::Success {
                output: json!({ "x": "y".repeat(bytes) }),
            })
        });
        let run = house.run(registry, &one(json!({ "bytes": bytes }))).await;
        assert_eq!(states(&house.store, run).await["only"], state);
        if state == TaskState::Failed {
            let (error, hint) = house.failure(run).await;
            assert_eq!(error, "the output has 262145 bytes, 262144 are allowed");
            assert!(hint.contains("s3://bucket/key"), "{hint}");
        }
    }
}

#[tokio::test]
async fn a_variable_that_is_missing_or_cannot_be_opened_is_a_clear_failure() {
    let house = House::furnished().await;
    let with = json!({ "a": "{{ var.nope }}" });
    let run = house.run(noop(), &one(with)).await;
    let (error, hint) = house.failure(run).await;
    assert!(error.contains("there is no variable `nope`"), "{error}");
    assert!(hint.contains("pinwheel variables set nope"), "{hint}");

    let without_a_key = House {
        sources: Sources::default(),
        store: house.store.clone(),
        url: house.url.clone(),
    };
    let with = json!({ "a": "{{ var.token }}" });
    let run = without_a_key.run(noop(), &one(with)).await;
    let (error, hint) = house.failure(run).await;
    assert_eq!(
        error,
        "variable `token` cannot be read: this process has no key for secrets"
    );
    assert!(hint.contains("PINWHEEL_SECRETS_KEY"), "{hint}");
}

#[tokio::test]
async fn what_a_template_becomes_reaches_a_program_as_data() {
    let house = House::furnished().await;
    let hostile =
        "'; touch pwned; $(touch pwned) `touch pwned` \"; {{ conn.warehouse.password }} %s";
    let name = VariableName::new("hostile").unwrap();
    let variable = Variable {
        value: json!(hostile),
        secrecy: Secrecy::Shown,
    };
    Vault::new(house.store.clone(), house.sources.clone())
        .set_variable(&name, &variable, None, "a test")
        .await
        .unwrap();
    for with in [
        json!({ "command": ["printf", "%s\n", "{{ var.hostile }}"] }),
        json!({ "script": "printf '%s\\n' \"$GIVEN\"", "env": { "GIVEN": "{{ var.hostile }}" } }),
    ] {
        let mut one = one(with);
        one.tasks[0].kind = "shell".to_owned();
        let run = house.run(Registry::new(light_kinds()), &one).await;
        assert_eq!(states(&house.store, run).await["only"], TaskState::Success);
        assert_eq!(
            house.log(run).await,
            [hostile],
            "neither a shell nor a second template saw it"
        );
    }
}
