//! Services that want TLS and credentials: what a user's settings say reaches the clients.

use std::{fs, process::Command};

use pinwheel_tasks::{
    S3Addressing, S3Settings, Sql,
    s3::{Location, ObjectStore},
};
use pinwheel_test_support::{
    postgres::Mortal,
    s3::S3,
    tls::{Front, Identity},
};
use serde_json::json;

use crate::world::{World, output};

#[tokio::test]
async fn the_address_of_a_postgres_says_how_its_certificate_is_checked() {
    let identity = Identity::of_localhost();
    let server = Mortal::start_secured(&identity.certificate, &identity.key);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let authority = file("authority.pem", &identity.authority);
    let stranger = file("stranger.pem", &Identity::of_localhost().authority);
    let ask = async |parameters: &str| {
        let url = format!("{}?{parameters}", server.url("postgres"));
        let with = json!({"url": url, "statement": "select ssl from pg_stat_ssl where pid = pg_backend_pid()"});
        World::new().run(&Sql::in_folder("nowhere"), with).await
    };
    for (parameters, is_secure) in [
        ("sslmode=disable", false),
        // What nobody asked for is used when it is there.
        ("", true),
        ("sslmode=require", true),
        (
            &format!("sslmode=verify-full&sslrootcert={authority}"),
            true,
        ),
    ] {
        let rows = output(ask(parameters).await)["rows"].clone();
        assert_eq!(rows, json!([{"ssl": is_secure}]), "{parameters}");
    }
    for parameters in [
        "sslmode=verify-full".to_owned(),
        format!("sslmode=verify-ca&sslrootcert={stranger}"),
    ] {
        let failure = ask(&parameters).await.unwrap_err();
        assert!(
            failure.message.contains("certificate"),
            "{parameters}: {failure}"
        );
    }
}

/// The part of the test below that runs in a process of its own, because the chain reads the environment.
#[tokio::test]
async fn a_store_that_the_environment_knows() {
    let Ok(endpoint) = std::env::var("TEST_ENDPOINT") else {
        return;
    };
    let settings = S3Settings {
        endpoint: Some(endpoint),
        region: "us-east-1".to_owned(),
        credentials: None,
        addressing: S3Addressing::Path,
    };
    let store = ObjectStore::connect(&settings).await;
    store.ensure_bucket("lake").await.unwrap();
    let at = Location::new("lake", "it/works");
    store.put_if_absent(&at, "yes".into()).await.unwrap();
    assert_eq!(&store.get(&at).await.unwrap()[..], b"yes");
}

#[tokio::test]
async fn a_store_over_tls_is_reached_with_the_credentials_of_the_usual_chain() {
    let identity = Identity::of_localhost();
    let server = S3::start().await;
    let endpoint = server.settings().endpoint.clone().unwrap();
    let address = endpoint.trim_start_matches("http://").parse().unwrap();
    let front = Front::start(&identity, address).await;
    let endpoint = format!("https://{}", front.address());
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("authority.pem");
    fs::write(&authority, &identity.authority).unwrap();
    let profile = folder.path().join("credentials");
    let keys = server.settings().credentials.clone().unwrap();
    let (id, secret) = (keys.access_key_id, keys.secret_access_key);
    fs::write(
        &profile,
        format!("[lake]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"),
    )
    .unwrap();
    let program = folder.path().join("program");
    fs::write(
        &program,
        format!("[profile lake]\ncredential_process = /bin/echo '{{\"Version\": 1, \"AccessKeyId\": \"{id}\", \"SecretAccessKey\": \"{secret}\"}}'\n"),
    )
    .unwrap();
    let (authority, profile, program) = (
        authority.to_str().unwrap(),
        profile.to_str().unwrap(),
        program.to_str().unwrap(),
    );
    let trusting = ("SSL_CERT_FILE", authority);
    let by_key = [
        ("AWS_ACCESS_KEY_ID", id.as_str()),
        ("AWS_SECRET_ACCESS_KEY", secret.as_str()),
    ];
    let by_profile = [
        ("AWS_SHARED_CREDENTIALS_FILE", profile),
        ("AWS_PROFILE", "lake"),
    ];
    let by_program = [("AWS_CONFIG_FILE", program), ("AWS_PROFILE", "lake")];
    for (environment, works) in [
        ([&[trusting][..], &by_key].concat(), true),
        ([&[trusting][..], &by_profile].concat(), true),
        ([&[trusting][..], &by_program].concat(), true),
        // Nobody vouches for the server.
        (by_key.to_vec(), false),
        // Nothing gives a key.
        (vec![trusting], false),
    ] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command
            .args(["--exact", "secured::a_store_that_the_environment_knows"])
            .env("TEST_ENDPOINT", &endpoint)
            // No file of this user, and no request for the credentials of an instance.
            .env("HOME", folder.path())
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .envs(environment.clone());
        let done = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert_eq!(done.status.success(), works, "{environment:?}: {said}");
    }
}
