//! The page at `/`: what it is made of, and the headers under which a browser lets it do only what it needs.
//!
//! It is one page that needs nothing from elsewhere and no build: the files beside this one, as they stand. It
//! reads `/metrics` like everybody else, so that it can show nothing that a scrape does not have.
//!
//! * `page.js` asks once a second and keeps what came, at most 5 minutes
//! * `scrape.js` reads the text; rates and quantiles are what two scrapes say together
//! * `figures.js` has every figure by its name; an element with that name as `data-figure` shows it
//! * `tables.js`, `chart.js`, `text.js`: rows, lines, and how numbers are written
//!
//! `scripts/check-page` works every figure out again.

use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// One of the files.
pub struct Part {
    path: &'static str,
    pub content_type: &'static str,
    pub text: &'static str,
}

const PARTS: &[Part] = &[
    Part { path: "/", content_type: HTML, text: include_str!("page.html") },
    Part { path: "/page.css", content_type: CSS, text: include_str!("page.css") },
    Part { path: "/page.js", content_type: SCRIPT, text: include_str!("page.js") },
    Part { path: "/chart.js", content_type: SCRIPT, text: include_str!("chart.js") },
    Part { path: "/figures.js", content_type: SCRIPT, text: include_str!("figures.js") },
    Part { path: "/scrape.js", content_type: SCRIPT, text: include_str!("scrape.js") },
    Part { path: "/tables.js", content_type: SCRIPT, text: include_str!("tables.js") },
    Part { path: "/text.js", content_type: SCRIPT, text: include_str!("text.js") },
];

/// What is at this path, if it is the page's.
pub fn part(path: &str) -> Option<&'static Part> {
    PARTS.iter().find(|part| part.path == path)
}

/// Nothing but these files runs, is asked for, or is shown; and no other page may put this one in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Puts the headers of all answers of the admin address in: a browser is to take each for what it says it is.
pub fn guard<B>(response: &mut Response<B>) {
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // The next version of the server may have another page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
