//! Which cryptography TLS goes by.

/// Says once a process that TLS goes by AWS-LC. The clients of Postgres ask the process, and where several crates brought a
/// choice along it has none until it is told.
pub fn choose_cryptography() {
    // Somebody may have said so before.
    let _chosen_already = rustls::crypto::aws_lc_rs::default_provider().install_default();
}
