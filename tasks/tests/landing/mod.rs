//! `kafka_to_s3` and what looks after its objects, against a real broker and a real S3 server.

mod bounded;
mod crash;
mod lake;
mod protocol;
mod world;
