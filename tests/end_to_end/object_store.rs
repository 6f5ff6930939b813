//! `pinwheel_tasks::s3` against a real S3 server.

use pinwheel_tasks::{
    Failure, FailureClass, S3Settings,
    s3::{Error, Location, ObjectStore, Written},
};
use pinwheel_test_support::s3::S3;

async fn store_with_bucket() -> (S3, ObjectStore) {
    let server = S3::start().await;
    let store = ObjectStore::connect(server.settings()).await;
    store
        .ensure_bucket("lake")
        .await
        .expect("the bucket can be made");
    (server, store)
}

#[tokio::test]
async fn a_conditional_write_creates_or_finds_the_same_or_refuses() {
    let (_server, store) = store_with_bucket().await;
    let at = Location::new("lake", "raw/part");
    let body = || b"the same bytes".to_vec().into();
    assert_eq!(
        store.put_if_absent(&at, body()).await.expect("new"),
        Written::Created
    );
    assert_eq!(
        store.put_if_absent(&at, body()).await.expect("the same"),
        Written::AlreadyThere
    );
    for other in [b"other bytes!!!".to_vec(), b"longer than that was".to_vec()] {
        let error = store
            .put_if_absent(&at, other.into())
            .await
            .expect_err("other content");
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
    }
    assert_eq!(
        &store.get(&at).await.expect("it is there")[..],
        b"the same bytes"
    );
}

#[tokio::test]
async fn an_object_whose_metadata_was_lost_is_compared_by_its_bytes() {
    let (server, store) = store_with_bucket().await;
    // As a server leaves it that was killed between the bytes and the metadata.
    std::fs::write(server.folder().join("lake/part"), b"bytes").expect("the bucket is a folder");
    let at = Location::new("lake", "part");
    assert_eq!(
        store
            .put_if_absent(&at, b"bytes".to_vec().into())
            .await
            .expect("the same"),
        Written::AlreadyThere
    );
    let error = store
        .put_if_absent(&at, b"bytez".to_vec().into())
        .await
        .expect_err("other content");
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn objects_are_put_listed_and_deleted() {
    let (_server, store) = store_with_bucket().await;
    for key in ["a/2", "a/1", "b/1"] {
        store
            .put(
                &Location::new("lake", key),
                key.as_bytes().to_vec().into(),
                "text/plain",
            )
            .await
            .expect("written");
    }
    store
        .put(
            &Location::new("lake", "a/1"),
            b"replaced".to_vec().into(),
            "text/plain",
        )
        .await
        .expect("replaced");
    assert_eq!(
        store
            .list(&Location::new("lake", "a/"))
            .await
            .expect("listed"),
        ["a/1", "a/2"]
    );
    let at = Location::new("lake", "a/1");
    assert_eq!(&store.get(&at).await.expect("it is there")[..], b"replaced");
    store.delete(&at).await.expect("deleted");
    store
        .delete(&at)
        .await
        .expect("deleting what is not there is no error");
    assert_eq!(store.get_if_exists(&at).await.expect("an answer"), None);
    assert!(matches!(store.get(&at).await, Err(Error::Missing { .. })));
    store.ping().await.expect("it answers");
}

#[tokio::test]
async fn every_trouble_has_its_class_and_its_hint() {
    let (server, store) = store_with_bucket().await;
    let missing = store
        .check_bucket("attic")
        .await
        .expect_err("no such bucket");
    assert!(matches!(missing, Error::MissingBucket { .. }), "{missing}");

    let mut wrong: S3Settings = server.settings().clone();
    if let Some(credentials) = &mut wrong.credentials {
        credentials.secret_access_key = "wrong".to_owned();
    }
    let denied = ObjectStore::connect(&wrong)
        .await
        .ping()
        .await
        .expect_err("the secret is wrong");
    assert!(matches!(denied, Error::Denied { .. }), "{denied}");

    let mut nobody = server.settings().clone();
    nobody.endpoint = Some("http://127.0.0.1:1".to_owned());
    let unavailable = ObjectStore::connect(&nobody)
        .await
        .ping()
        .await
        .expect_err("nobody listens there");
    assert!(unavailable.is_unavailable());
    assert!(unavailable.hint().contains("`s3.endpoint`"));
    let failure = Failure::from(unavailable);
    assert_eq!(failure.class, FailureClass::Retryable);
    assert!(
        failure
            .message
            .starts_with("the S3 store at http://127.0.0.1:1 does not answer: "),
        "{failure}"
    );
    assert_eq!(Failure::from(missing).class, FailureClass::Permanent);
}

#[test]
fn a_location_is_read_as_it_is_written() {
    let at: Location = "s3://lake/raw/pins/part.parquet"
        .parse()
        .expect("a location");
    assert_eq!(at, Location::new("lake", "raw/pins/part.parquet"));
    assert_eq!(at.to_string(), "s3://lake/raw/pins/part.parquet");
    for wrong in ["lake/raw", "s3://lake", "s3:///key"] {
        assert!(wrong.parse::<Location>().is_err(), "{wrong}");
    }
}
