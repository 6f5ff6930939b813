//! The few files a browser loads: one style sheet, two scripts, one picture. Embedded, named by their content, cached for ever.

use axum::{
    extract::Path,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::failure::Failure;

struct Asset {
    stem: &'static str,
    ending: &'static str,
    kind: &'static str,
    body: &'static str,
}

const STYLE: Asset = Asset {
    stem: "app",
    ending: "css",
    kind: "text/css; charset=utf-8",
    body: include_str!("../assets/app.css"),
};
const SCRIPT: Asset = Asset {
    stem: "app",
    ending: "js",
    kind: "text/javascript; charset=utf-8",
    body: include_str!("../assets/app.js"),
};
const THEME: Asset = Asset {
    stem: "theme",
    ending: "js",
    kind: "text/javascript; charset=utf-8",
    body: include_str!("../assets/theme.js"),
};
const MARK: Asset = Asset {
    stem: "mark",
    ending: "svg",
    kind: "image/svg+xml",
    body: include_str!("../assets/mark.svg"),
};
const ALL: [&Asset; 4] = [&STYLE, &SCRIPT, &THEME, &MARK];

/// The addresses that pages link to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Assets {
    pub(crate) style: String,
    pub(crate) script: String,
    pub(crate) theme: String,
    pub(crate) mark: String,
}

impl Assets {
    pub(crate) fn new() -> Self {
        let address = |asset: &Asset| format!("/assets/{}", asset.name());
        Self {
            style: address(&STYLE),
            script: address(&SCRIPT),
            theme: address(&THEME),
            mark: address(&MARK),
        }
    }
}

impl Asset {
    /// The name changes with the content, so that browsers may keep it for ever.
    fn name(&self) -> String {
        format!(
            "{}.{:016x}.{}",
            self.stem,
            fingerprint(self.body),
            self.ending
        )
    }
}

/// FNV-1a: tells contents apart, is no protection against forgery.
pub(crate) fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// `GET /assets/{file}`
pub(crate) async fn serve(Path(file): Path<String>) -> Response {
    match ALL.iter().find(|asset| asset.name() == file) {
        Some(asset) => {
            let headers = [
                (header::CONTENT_TYPE, asset.kind),
                (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
            ];
            (headers, asset.body).into_response()
        }
        None => Failure::new(StatusCode::NOT_FOUND, "No such asset")
            .detail("this page is from another version of Pinwheel")
            .hint("load the page again")
            .into_response(),
    }
}
