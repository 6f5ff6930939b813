//! A real browser, driven over the WebDriver protocol (W3C): the few calls that the tests need, as plain JSON over HTTP.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

/// How long a page may take to show what is expected. Far beyond what it takes; only a failing test waits so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// One browser window.
pub(crate) struct Browser {
    driver: Child,
    client: reqwest::Client,
    session: String,
}

impl Browser {
    /// Starts chromedriver on a free port and a headless browser behind it.
    pub(crate) async fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed: `scripts/set-up --tests` does it");
        let lines = BufReader::new(driver.stdout.take().expect("stdout is piped")).lines();
        let port: u16 = lines
            .map_while(Result::ok)
            .find_map(|line| {
                line.split_once("started successfully on port ")?
                    .1
                    .trim_end_matches('.')
                    .parse()
                    .ok()
            })
            .expect("chromedriver says its port");
        let client = reqwest::Client::new();
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,1000",
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let base = format!("http://127.0.0.1:{port}/session");
        let answer: Value = client
            .post(&base)
            .json(&wanted)
            .send()
            .await
            .expect("chromedriver answers")
            .json()
            .await
            .expect("JSON");
        let id = answer["value"]["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("no browser: {answer}"));
        Self {
            driver,
            client,
            session: format!("{base}/{id}"),
        }
    }

    async fn call(&self, path: &str, body: Value) -> Value {
        let answer = self
            .client
            .post(format!("{}/{path}", self.session))
            .json(&body)
            .send()
            .await
            .expect("chromedriver answers");
        let answer: Value = answer.json().await.expect("chromedriver answers JSON");
        assert!(
            answer["value"]["error"].is_null(),
            "{path} {body}: {answer}"
        );
        answer["value"].clone()
    }

    /// Opens a page and waits until it is loaded.
    pub(crate) async fn open(&self, url: &str) {
        self.call("url", json!({ "url": url })).await;
    }

    /// The value of a JavaScript function body.
    pub(crate) async fn script(&self, body: &str) -> Value {
        self.call("execute/sync", json!({ "script": body, "args": [] }))
            .await
    }

    /// Waits inside the page until an expression is true: the page itself looks at every change of its content.
    pub(crate) async fn wait_until(&self, expression: &str) {
        let script = format!(
            "const done = arguments[0], holds = () => {{ try {{ return Boolean({expression}); }} catch (error) {{ return false; }} }};
             if (holds()) {{ done(true); return; }}
             const observer = new MutationObserver(() => {{ if (holds()) {{ observer.disconnect(); done(true); }} }});
             observer.observe(document, {{ subtree: true, childList: true, characterData: true, attributes: true }});
             setTimeout(() => done(document.body.innerText), {});",
            PATIENCE.as_millis()
        );
        self.call(
            "timeouts",
            json!({ "script": 2 * PATIENCE.as_millis() as u64 }),
        )
        .await;
        let answer = self
            .call("execute/async", json!({ "script": script, "args": [] }))
            .await;
        assert_eq!(answer, json!(true), "the page never showed `{expression}`");
    }

    /// Clicks the first visible element of a CSS selector.
    pub(crate) async fn click(&self, selector: &str) {
        let element = self
            .call(
                "element",
                json!({ "using": "css selector", "value": selector }),
            )
            .await;
        let id = element
            .as_object()
            .and_then(|object| object.values().next()?.as_str())
            .expect("an element has an id")
            .to_owned();
        self.call(&format!("element/{id}/click"), json!({})).await;
    }

    /// What the browser complained about since the last call: errors of scripts, refusals by the content security policy.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let entries = self.call("se/log", json!({ "type": "browser" })).await;
        entries
            .as_array()
            .into_iter()
            .flatten()
            .filter(|entry| entry["level"] == "SEVERE")
            .map(|entry| entry["message"].to_string())
            .collect()
    }

    /// Closes the window and the driver.
    pub(crate) async fn quit(self) {
        let _closed = self.client.delete(&self.session).send().await;
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _gone = self.driver.kill();
        let _reaped = self.driver.wait();
    }
}
