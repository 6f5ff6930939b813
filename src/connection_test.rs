//! Tries whether a connection leads anywhere: as much as its type lets us ask without changing anything there.

use std::time::Duration;

use async_trait::async_trait;
use pinwheel_scheduler::secrets::Connection;
use pinwheel_tasks::{
    S3Addressing, S3Credentials, S3Settings,
    s3::{Location, ObjectStore},
};
use pinwheel_web::TestConnection;
use serde_json::Value;
use sqlx::{Connection as _, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// Longer than any service takes that is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the pages and the API are given to test with.
pub(crate) struct Tester;

#[async_trait]
impl TestConnection for Tester {
    async fn test(&self, connection: &Connection) -> Result<String, String> {
        test(connection).await
    }
}

/// Says in one sentence what answered, or what went wrong. The sentence may hold what a service said, so whoever shows it
/// masks it.
pub(crate) async fn test(connection: &Connection) -> Result<String, String> {
    let asked = async {
        match connection.connection_type.as_str() {
            "postgres" => postgres(connection).await,
            "http" | "https" => http(connection).await,
            "hbase" => hbase(connection).await,
            "s3" | "aws" => s3(connection).await,
            "smtp" => smtp(connection).await,
            _ => tcp(connection).await,
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} seconds", PATIENCE.as_secs())))
}

fn extra<'c>(connection: &'c Connection, name: &str) -> Option<&'c str> {
    connection.extra.get(name).and_then(Value::as_str)
}

fn host(connection: &Connection) -> Result<&str, String> {
    connection
        .host
        .as_deref()
        .ok_or_else(|| "the connection has no host".to_owned())
}

async fn postgres(connection: &Connection) -> Result<String, String> {
    let mut options = PgConnectOptions::new().host(host(connection)?);
    if let Some(port) = connection.port {
        options = options.port(port);
    }
    if let Some(login) = &connection.login {
        options = options.username(login);
    }
    if let Some(password) = &connection.password {
        options = options.password(password);
    }
    if let Some(database) = &connection.schema {
        options = options.database(database);
    }
    if let Some(mode) = extra(connection, "sslmode") {
        let mode = mode
            .parse()
            .map_err(|_| "`extra.sslmode` is not one of Postgres' words".to_owned())?;
        options = options.ssl_mode(mode);
    }
    if let Some(file) = extra(connection, "sslrootcert") {
        options = options.ssl_root_cert(file);
    }
    let explain = |error: sqlx::Error| error.to_string();
    let mut session = PgConnection::connect_with(&options)
        .await
        .map_err(explain)?;
    session.execute("select 1").await.map_err(explain)?;
    session.close().await.map_err(explain)?;
    Ok("Postgres answers `select 1`".to_owned())
}

/// A request to the address of a connection, and the login that it has.
fn request(
    connection: &Connection,
    method: reqwest::Method,
    scheme: &str,
    path: &str,
) -> Result<reqwest::RequestBuilder, String> {
    let mut url = reqwest::Url::parse(&format!("{scheme}://localhost/"))
        .map_err(|error| error.to_string())?;
    let host = host(connection)?;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    url.set_host(Some(&host))
        .map_err(|error| format!("the host is none: {error}"))?;
    url.set_port(connection.port)
        .map_err(|()| "the port is none".to_owned())?;
    url.set_path(path);
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(|error| error.to_string())?;
    let request = client.request(method, url);
    if connection.login.is_none() && connection.password.is_none() {
        return Ok(request);
    }
    let login = connection.login.as_deref().unwrap_or_default();
    Ok(request.basic_auth(login, connection.password.as_deref()))
}

/// The REST gateway is asked for the version of the cluster behind it, which it only knows when it reaches the master.
async fn hbase(connection: &Connection) -> Result<String, String> {
    let prefix = connection.schema.as_deref().unwrap_or_default();
    let path = format!("{}/version/cluster", prefix.trim_end_matches('/'));
    let answer = request(connection, reqwest::Method::GET, "http", &path)?
        .header("accept", "text/plain")
        .send()
        .await
        .map_err(|error| chain(&error))?;
    let status = answer.status();
    if !status.is_success() {
        return Err(format!(
            "it answers {status} to `{path}`, which is no HBase REST gateway that reaches its cluster"
        ));
    }
    let version = answer.text().await.map_err(|error| chain(&error))?;
    let version: String = version.trim().chars().take(40).collect();
    Ok(format!("the gateway answers: HBase {version}"))
}

async fn http(connection: &Connection) -> Result<String, String> {
    let path = connection.schema.as_deref().unwrap_or_default();
    let scheme = &connection.connection_type;
    let request = request(connection, reqwest::Method::HEAD, scheme, path)?;
    let answer = request.send().await.map_err(|error| chain(&error))?;
    let status = answer.status();
    match status.as_u16() {
        401 | 403 => Err(format!(
            "it answers {status}: login or password are not accepted"
        )),
        500.. => Err(format!("it answers {status}")),
        _ => Ok(format!("it answers {status} to HEAD")),
    }
}

async fn s3(connection: &Connection) -> Result<String, String> {
    let endpoint = extra(connection, "endpoint")
        .map(str::to_owned)
        .or_else(|| {
            let host = connection.host.as_deref()?;
            let port = connection
                .port
                .map(|port| format!(":{port}"))
                .unwrap_or_default();
            let scheme = if extra(connection, "tls") == Some("false") {
                "http"
            } else {
                "https"
            };
            Some(format!("{scheme}://{host}{port}"))
        });
    let credentials = match (&connection.login, &connection.password) {
        (Some(id), Some(secret)) => Some(S3Credentials {
            access_key_id: id.clone(),
            secret_access_key: secret.clone(),
        }),
        (None, None) => None,
        (Some(_), None) | (None, Some(_)) => {
            return Err(
                "one of login (the access key's id) and password (its secret) is missing"
                    .to_owned(),
            );
        }
    };
    let addressing = match endpoint {
        Some(_) => S3Addressing::Path,
        None => S3Addressing::VirtualHost,
    };
    let store = ObjectStore::connect(&S3Settings {
        endpoint,
        region: extra(connection, "region")
            .unwrap_or("us-east-1")
            .to_owned(),
        credentials,
        addressing,
    })
    .await;
    match &connection.schema {
        Some(bucket) => {
            // A prefix that nothing has: what is asked is whether listing is allowed.
            let nothing = Location::new(bucket, "pinwheel-connection-test/");
            store
                .list(&nothing)
                .await
                .map_err(|error| error.to_string())?;
            Ok(format!("the bucket `{bucket}` can be listed"))
        }
        None => {
            store.ping().await.map_err(|error| error.to_string())?;
            Ok("the object store answers and knows the key".to_owned())
        }
    }
}

async fn smtp(connection: &Connection) -> Result<String, String> {
    let port = connection.port.unwrap_or(25);
    let stream = open(host(connection)?, port).await?;
    if port == 465 {
        return Ok("it accepts connections; what it says inside of TLS was not asked".to_owned());
    }
    let mut stream = BufReader::new(stream);
    let greeting = reply(&mut stream).await?;
    if !greeting.starts_with("220") {
        return Err(format!("it greets with `{greeting}`"));
    }
    say(&mut stream, "EHLO pinwheel.invalid\r\n").await?;
    let answer = reply(&mut stream).await?;
    say(&mut stream, "QUIT\r\n").await?;
    if answer.starts_with("250") {
        Ok("the mail server answers EHLO".to_owned())
    } else {
        Err(format!("it answers `{answer}` to EHLO"))
    }
}

/// The last line of a reply of SMTP: the others have a dash behind the code.
async fn reply(stream: &mut BufReader<TcpStream>) -> Result<String, String> {
    const MOST_LINES: usize = 100;
    for _ in 0..MOST_LINES {
        let mut line = String::new();
        let read = stream
            .read_line(&mut line)
            .await
            .map_err(|error| error.to_string())?;
        if read == 0 {
            return Err("it closed the connection".to_owned());
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line.trim_end().chars().take(200).collect());
        }
    }
    Err("its reply does not end".to_owned())
}

async fn say(stream: &mut BufReader<TcpStream>, line: &str) -> Result<(), String> {
    stream
        .get_mut()
        .write_all(line.as_bytes())
        .await
        .map_err(|error| error.to_string())
}

async fn tcp(connection: &Connection) -> Result<String, String> {
    let host = host(connection)?;
    let port = connection
        .port
        .ok_or_else(|| "the connection has no port, so nothing can be asked".to_owned())?;
    open(host, port).await?;
    Ok(format!(
        "{host}:{port} accepts connections; what is behind it was not asked, because the type is `{}`",
        connection.connection_type
    ))
}

async fn open(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("{host}:{port} cannot be reached: {error}"))
}

/// An error with its causes, which is where the reason stands.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that says these lines to whoever connects, one before each line it reads.
    async fn server(lines: &'static [&'static str]) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let mut stream = BufReader::new(stream);
                for line in lines {
                    if stream.get_mut().write_all(line.as_bytes()).await.is_err() {
                        break;
                    }
                    let mut read = String::new();
                    while stream.read_line(&mut read).await.is_ok_and(|read| read > 0) {
                        if !lines[0].is_empty() || read.ends_with("\r\n\r\n") {
                            break;
                        }
                    }
                }
            }
        });
        port
    }

    async fn tested(uri: String) -> Result<String, String> {
        test(&Connection::parse(&uri).expect("a connection")).await
    }

    #[tokio::test]
    async fn a_mail_server_is_asked_to_say_hello() {
        let good = server(&["220 hello\r\n", "250-one\r\n250 two\r\n", "221 bye\r\n"]).await;
        assert_eq!(
            tested(format!("smtp://127.0.0.1:{good}")).await,
            Ok("the mail server answers EHLO".to_owned())
        );
        let bad = server(&["554 go away\r\n"]).await;
        assert_eq!(
            tested(format!("smtp://127.0.0.1:{bad}")).await,
            Err("it greets with `554 go away`".to_owned())
        );
    }

    #[tokio::test]
    async fn an_http_server_is_asked_for_its_head() {
        let good = server(&["", "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"]).await;
        assert_eq!(
            tested(format!("http://127.0.0.1:{good}/x")).await,
            Ok("it answers 204 No Content to HEAD".to_owned())
        );
        let refused = server(&[
            "",
            "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        ])
        .await;
        let answer = tested(format!("http://ada:x@127.0.0.1:{refused}")).await;
        assert!(answer.is_err_and(|message| message.contains("are not accepted")));
    }

    #[tokio::test]
    async fn the_gateway_of_hbase_is_asked_for_the_version_of_its_cluster() {
        let good = server(&[
            "",
            "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n2.6.1\n",
        ])
        .await;
        assert_eq!(
            tested(format!("hbase://127.0.0.1:{good}")).await,
            Ok("the gateway answers: HBase 2.6.1".to_owned())
        );
        let away = server(&[
            "",
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        ])
        .await;
        let answer = tested(format!("hbase://127.0.0.1:{away}")).await;
        assert!(answer.is_err_and(|message| message.contains("503")));
    }

    #[tokio::test]
    async fn whatever_else_is_reached_by_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        assert!(tested(format!("redis://127.0.0.1:{port}")).await.is_ok());
        drop(listener);
        let refused = tested(format!("redis://127.0.0.1:{port}")).await;
        assert!(refused.is_err_and(|message| message.contains("cannot be reached")));
        assert_eq!(
            tested("redis://127.0.0.1".to_owned()).await,
            Err("the connection has no port, so nothing can be asked".to_owned())
        );
    }
}
