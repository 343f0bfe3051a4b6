//! The page at `/`, and the headers with which a browser allows it only what it needs.
//!
//! Owns the page's files, which are beside this one and need no build step. It must not know what they show: the page
//! reads `/metrics` like every other client. Invariant: the page loads nothing from elsewhere.
//!
//! * `page.js` asks once per second and keeps the answers of the last 5 minutes
//! * `scrape.js` parses the text, and computes rates and quantiles from two scrapes
//! * `figures.js` computes every figure by name, and an element with that name in `data-figure` shows it
//! * `tables.js`, `chart.js`, `text.js` draw rows and lines, and format numbers
//!
//! `scripts/check-page` computes every figure again with other code.

use hyper::Response;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};

/// A file of the page.
pub struct Part {
    path: &'static str,
    /// The value of its `Content-Type` header.
    pub content_type: &'static str,
    /// The file's content.
    pub text: &'static str,
}

/// Returns the page's file at this path, if there is one.
pub fn part(path: &str) -> Option<&'static Part> {
    PARTS.iter().find(|part| part.path == path)
}

/// Adds the security headers of every answer of the admin address. A browser must not guess the content's type.
pub fn add_security_headers<B>(response: &mut Response<B>) {
    let headers: &mut HeaderMap = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // The next version of the server may have a different page.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// The policy allows only these files, and forbids other pages to show this one in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

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

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
