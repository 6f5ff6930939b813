//! TLS for the servers of tests: an authority of a test's own, and a certificate of it for this machine.

use std::{net::SocketAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

/// A port that speaks TLS before a server that does not. It ends when the value is dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// Who a server is, and who vouches for it. Everything is PEM.
pub struct Identity {
    /// The authority's certificate, which a client must trust.
    pub authority: String,
    /// The server's certificate.
    pub certificate: String,
    /// The server's key, as PKCS #8.
    pub key: String,
    /// The same for a server in this process.
    pub tls: TlsAcceptor,
}

impl Identity {
    /// A new authority, and a certificate of it for `localhost` and `127.0.0.1`.
    ///
    /// # Panics
    /// No key can be made.
    pub fn of_localhost() -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Whoever has the name of its issuer has signed itself, says OpenSSL.
        authority
            .distinguished_name
            .push(DnType::CommonName, "authority of a test");
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(authority, key).expect("it signs itself");
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().expect("a key can be made");
        let leaf = CertificateParams::new(names)
            .and_then(|params| params.signed_by(&key, &issuer))
            .expect("the names are valid");
        let chain: Vec<CertificateDer<'static>> = vec![leaf.der().clone()];
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, der))
            .expect("the certificate fits its key");
        Self {
            authority: issuer.pem(),
            certificate: leaf.pem(),
            key: key.serialize_pem(),
            tls: TlsAcceptor::from(Arc::new(config)),
        }
    }
}

impl Front {
    /// Listens as `identity` on a free loopback port; what comes is passed on to `server`.
    ///
    /// # Panics
    /// There is no free port.
    pub async fn start(identity: &Identity, server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port is free");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let tls = identity.tls.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let tls = tls.clone();
                tokio::spawn(async move {
                    // A client that trusts us not is what a test may want to see.
                    let (Ok(mut inside), Ok(mut outside)) = (
                        TcpStream::connect(server).await,
                        tls.accept(connection).await,
                    ) else {
                        return;
                    };
                    let _gone = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                });
            }
        });
        Self { address, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
