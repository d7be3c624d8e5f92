//! A registry on loopback: honest, unless a test says otherwise of a request.

#![allow(dead_code, unreachable_pub, reason = "shared by the tests beside it")]

use std::collections::{BTreeMap, BTreeSet};
use std::future::IntoFuture as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
}

impl Asked {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whether it is about a manifest.
    pub fn is_look(&self) -> bool {
        self.path.contains("/manifests/")
    }
}

/// What is answered.
#[derive(Debug, Clone)]
pub struct Says {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub after: Duration,
}

impl Says {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), after: Duration::ZERO }
    }

    pub fn json(body: serde_json::Value) -> Self {
        Self { body: body.to_string().into_bytes(), ..Self::status(200) }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// As Distribution says that there is no such tag.
    pub fn unknown(code: &str) -> Self {
        Self { status: 404, ..Self::json(json!({ "errors": [{ "code": code, "message": "unknown" }] })) }
    }
}

type Hook = Box<dyn Fn(&Asked, usize) -> Option<Says> + Send>;

#[derive(Default)]
struct Held {
    /// By repository and tag: the manifest.
    tags: BTreeMap<(String, String), String>,
    asked: Vec<Asked>,
    hook: Option<Hook>,
}

/// The registry. Clones are the same one.
#[derive(Clone)]
pub struct Fake {
    pub address: SocketAddr,
    held: Arc<Mutex<Held>>,
}

pub fn digest_of(manifest: &str) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(manifest)))
}

impl Fake {
    pub async fn new() -> Self {
        let held: Arc<Mutex<Held>> = Arc::default();
        let inside = Arc::clone(&held);
        let router = Router::new().fallback(move |request: Request| {
            let held = Arc::clone(&inside);
            async move {
                let (head, _) = request.into_parts();
                let asked = Asked { method: head.method, path: head.uri.to_string(), headers: head.headers };
                let said = {
                    let mut held = held.lock().expect("no panic");
                    held.asked.push(asked.clone());
                    let count = held.asked.len() - 1;
                    let said = held.hook.as_ref().and_then(|hook| hook(&asked, count));
                    said.unwrap_or_else(|| held.answer(&asked))
                };
                tokio::time::sleep(said.after).await;
                let mut response = Response::builder().status(said.status);
                for (name, value) in said.headers {
                    response = response.header(name, value);
                }
                response.body(Body::from(said.body)).expect("a response")
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { address, held }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on what `hook` says, where it says something; the number counts requests from 0.
    pub fn says(&self, hook: impl Fn(&Asked, usize) -> Option<Says> + Send + 'static) {
        let mut held = self.held.lock().expect("no panic");
        held.asked.clear();
        held.hook = Some(Box::new(hook));
    }

    pub fn is_honest(&self) {
        self.held.lock().expect("no panic").hook = None;
    }

    /// Points a tag to a manifest.
    pub fn put(&self, repository: &str, tag: &str, manifest: &str) -> String {
        self.held.lock().expect("no panic").tags.insert((repository.into(), tag.into()), manifest.into());
        digest_of(manifest)
    }

    pub fn remove(&self, repository: &str, tag: &str) {
        self.held.lock().expect("no panic").tags.remove(&(repository.into(), tag.into())).expect("it was there");
    }

    /// All tags, with their digests.
    pub fn tags(&self) -> Vec<(String, String, String)> {
        let held = self.held.lock().expect("no panic");
        held.tags.iter().map(|((name, tag), manifest)| (name.clone(), tag.clone(), digest_of(manifest))).collect()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.held.lock().expect("no panic").asked.clone()
    }

    pub fn forget(&self) {
        self.held.lock().expect("no panic").asked.clear();
    }
}

impl Held {
    fn answer(&self, asked: &Asked) -> Says {
        let path = asked.path.split('?').next().unwrap_or_default().trim_start_matches("/v2/");
        if path == "_catalog" {
            let names: BTreeSet<&String> = self.tags.keys().map(|(name, _)| name).collect();
            return Says::json(json!({ "repositories": names }));
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            // Unsorted, as Distribution 2.8.2 lists them.
            let tags: Vec<_> =
                self.tags.keys().filter(|(name, _)| name == repository).map(|(_, tag)| tag).rev().collect();
            if tags.is_empty() {
                return Says::unknown("NAME_UNKNOWN");
            }
            return Says::json(json!({ "name": repository, "tags": tags }));
        }
        let Some((repository, tag)) = path.split_once("/manifests/") else { return Says::status(404) };
        let accepted: Vec<_> = asked.headers.get_all("accept").iter().collect();
        if accepted.len() != 4 {
            return Says::unknown("MANIFEST_UNKNOWN");
        }
        let Some(manifest) = self.tags.get(&(repository.to_owned(), tag.to_owned())) else {
            return Says::unknown("MANIFEST_UNKNOWN");
        };
        let digest = digest_of(manifest);
        if asked.header("if-none-match") == format!("\"{digest}\"") {
            return Says::status(304);
        }
        let mut said = Says::status(200).with("docker-content-digest", digest);
        said.body = manifest.clone().into_bytes();
        said
    }
}
