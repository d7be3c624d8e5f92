//! Reading the log over plain HTTP: C2SP tlog-tiles, and what operators ask of a service.
//!
//! | path | answer |
//! |---|---|
//! | `/checkpoint` | the signed checkpoint |
//! | `/tile/<L>/<N>[.p/<W>]` | hashes |
//! | `/tile/entries/<N>[.p/<W>]` | entries, compressed for who accepts gzip |
//! | `/healthz` | 200 while the process lives |
//! | `/readyz` | 200 while it can append, else 503 and the reason |
//! | `/metrics` | OpenMetrics |
//! | `/` | what this is |
//!
//! A tile is served if the latest checkpoint covers it; a partial one of any width that it covers, so that clients which
//! hold an older checkpoint find theirs (tlog-tiles, "Partial Tiles"). What is served under such a path never changes, so
//! it may be cached for ever; a 404 may turn into a tile with the next commit, so it may not be cached at all.
//!
//! The log is asked through [`LogSource`], whose reads may block; they run where that is allowed.

use std::ops::Range;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tower_http::compression::CompressionLayer;

use super::turns::turn;
use crate::ledger::merkle::Hash;
use crate::ledger::merkle::tile::{TILE_HEIGHT, TilePath, push_bundled};

const TEXT: &str = "text/plain; charset=utf-8";
const BYTES: &str = "application/octet-stream";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// "This endpoint is immutable, so its caching headers SHOULD be long-lived" (tlog-tiles): a year, as long as caches go.
const IMMUTABLE: &str = "public, max-age=31536000, immutable";
/// "This endpoint is mutable, so its headers SHOULD prevent caching beyond a few seconds" (tlog-tiles).
const FRESH: &str = "no-cache";
const NEVER: &str = "no-store";

/// A log to serve. Every method may block.
pub trait LogSource: Send + Sync + 'static {
    /// The latest checkpoint.
    fn checkpoint(&self) -> Result<LogHead, String>;

    /// The roots of the complete subtrees of height `level` (0: leaf hashes; 8: one for 256 leaves) at these positions of
    /// their level. At most 256, and only such as the latest checkpoint covers.
    fn hashes(&self, level: u8, range: Range<u64>) -> Result<Vec<Hash>, String>;

    /// The exact bytes of these entries. At most 256, and only such as the latest checkpoint covers.
    fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, String>;

    /// Whether the log can be appended to; if not, why.
    fn health(&self) -> Result<(), String>;
}

/// The latest checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogHead {
    /// Number of leaves it covers.
    pub size: u64,
    /// The signed note.
    pub note: String,
}

/// The routes over a log.
pub fn routes<L: LogSource>(log: Arc<L>, metrics: Arc<Registry>) -> Router {
    let entries = get(tile::<L>).layer(CompressionLayer::new().gzip(true));
    let public = Router::new()
        .route("/checkpoint", get(checkpoint::<L>))
        .route("/tile/entries/{*path}", entries)
        .route("/tile/{*path}", get(tile::<L>))
        .layer(map_response(for_any_origin));
    let operator = Router::new()
        .route("/", get(about::<L>))
        .route("/healthz", get(async || (StatusCode::OK, text("alive\n"))))
        .route("/readyz", get(ready::<L>))
        .with_state(log.clone());
    let metrics = Router::new().route("/metrics", get(render)).with_state(metrics);
    public.with_state(log).merge(operator).merge(metrics).layer(map_response(as_declared))
}

async fn checkpoint<L: LogSource>(State(log): State<Arc<L>>) -> Response {
    match blocking(log, |log| log.checkpoint()).await {
        Ok(head) => ([(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, FRESH)], head.note).into_response(),
        Err(error) => unreadable(&error),
    }
}

/// Both kinds of tile. The path is taken as it was sent: a tile has one spelling, and escapes are none.
async fn tile<L: LogSource>(State(log): State<Arc<L>>, request: Request) -> Response {
    let Some(path) = request.uri().path().strip_prefix("/tile/").and_then(TilePath::parse) else {
        return absent("not the path of a tile\n");
    };
    match blocking(log, move |log| read_tile(log, path)).await {
        Ok(Some(bytes)) => ([(header::CONTENT_TYPE, BYTES), (header::CACHE_CONTROL, IMMUTABLE)], bytes).into_response(),
        Ok(None) => absent("the checkpoint does not cover this tile\n"),
        Err(error) => unreadable(&error),
    }
}

/// The bytes of a tile; `None` if the checkpoint does not cover it.
fn read_tile<L: LogSource>(log: &L, path: TilePath) -> Result<Option<Vec<u8>>, String> {
    if !path.is_covered_by(log.checkpoint()?.size) {
        return Ok(None);
    }
    let (width, found, bytes) = match path {
        TilePath::Hashes { level, tile } => {
            let hashes = log.hashes(level * TILE_HEIGHT, tile.range())?;
            (tile.width, hashes.len(), hashes.concat())
        }
        TilePath::Entries(tile) => {
            let entries = log.entries(tile.range())?;
            let mut bundle = Vec::new();
            for entry in &entries {
                push_bundled(&mut bundle, entry);
            }
            (tile.width, entries.len(), bundle)
        }
    };
    // A short tile would be cached for a year.
    if found as u64 == width { Ok(Some(bytes)) } else { Err(format!("tile {path} has {found} rows, not {width}")) }
}

async fn ready<L: LogSource>(State(log): State<Arc<L>>) -> Response {
    match log.health() {
        Ok(()) => text("ready\n"),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, text(format!("not ready: {reason}\n"))).into_response(),
    }
}

async fn render(State(metrics): State<Arc<Registry>>) -> Response {
    let mut body = String::new();
    match prometheus_client::encoding::text::encode(&mut body, &metrics) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS), (header::CACHE_CONTROL, NEVER)], body).into_response(),
        Err(error) => unreadable(&error.to_string()),
    }
}

async fn about<L: LogSource>(State(log): State<Arc<L>>) -> Response {
    match blocking(log, |log| log.checkpoint()).await {
        Ok(LogHead { size, note }) => {
            let origin = note.lines().next().unwrap_or_default();
            text(format!(
                "tagledger {version}: an append-only ledger of container tags\n\
                 \n\
                 log:     {origin}\n\
                 entries: {size}\n\
                 \n\
                 /checkpoint                  its signed size and root (C2SP tlog-checkpoint)\n\
                 /tile/<L>/<N>[.p/<W>]        its hashes (C2SP tlog-tiles)\n\
                 /tile/entries/<N>[.p/<W>]    its entries\n\
                 /healthz /readyz /metrics    the service\n\
                 gRPC, same port              package tagledger.v1; reflection is on\n\
                 \n\
                 Ask with the command tagledger; it verifies what it prints.\n",
                version = env!("CARGO_PKG_VERSION"),
            ))
        }
        Err(error) => unreadable(&error),
    }
}

/// Runs a read where it may block.
async fn blocking<L: LogSource, T: Send + 'static>(
    log: Arc<L>,
    read: impl FnOnce(&L) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let _turn = turn().await;
    tokio::task::spawn_blocking(move || read(&log))
        .await
        .unwrap_or_else(|error| Err(format!("the read ended in {error}")))
}

fn text(body: impl Into<String>) -> Response {
    ([(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, NEVER)], body.into()).into_response()
}

fn absent(why: &'static str) -> Response {
    (StatusCode::NOT_FOUND, text(why)).into_response()
}

fn unreadable(error: &str) -> Response {
    tracing::error!(error, "a read over HTTP failed");
    (StatusCode::INTERNAL_SERVER_ERROR, text("the log cannot be read now\n")).into_response()
}

/// The log is public: a page of any origin may verify it.
async fn for_any_origin(mut response: Response) -> Response {
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// Entries hold what strangers wrote; no browser may take them for a page.
async fn as_declared(mut response: Response) -> Response {
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::body::Body;
    use axum::http::{HeaderMap, Method};
    use http_body_util::BodyExt as _;
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt as _;

    use super::*;
    use crate::ledger::merkle::hash::leaf_hash;
    use crate::ledger::merkle::tile::split_bundle;
    use crate::ledger::merkle::tree::{MemoryNodes, Nodes as _, Tree};

    /// A log in memory.
    struct Memory {
        entries: Vec<Vec<u8>>,
        nodes: MemoryNodes,
        broken: Mutex<Option<String>>,
    }

    impl Memory {
        fn of_size(size: u64) -> Arc<Self> {
            let entries: Vec<Vec<u8>> =
                (0..size).map(|index| format!("entry {index} {}", "tag ".repeat(40)).into_bytes()).collect();
            let (mut tree, mut nodes) = (Tree::default(), MemoryNodes::default());
            for entry in &entries {
                tree.append(leaf_hash(entry), |node| nodes.insert(node));
            }
            Arc::new(Self { entries, nodes, broken: Mutex::default() })
        }

        fn check(&self) -> Result<(), String> {
            self.broken.lock().expect("no panic").clone().map_or(Ok(()), Err)
        }
    }

    impl LogSource for Memory {
        fn checkpoint(&self) -> Result<LogHead, String> {
            let size = self.entries.len() as u64;
            Ok(LogHead { size, note: format!("ledger.example\n{size}\nroot\n\n\u{2014} ledger.example sig\n") })
        }

        fn hashes(&self, level: u8, range: Range<u64>) -> Result<Vec<Hash>, String> {
            self.check()?;
            range.map(|index| self.nodes.node(level, index).map_err(|e| e.to_string())).collect()
        }

        fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, String> {
            self.check()?;
            let index = |index: u64| usize::try_from(index).expect("small");
            Ok(self.entries[index(range.start)..index(range.end)].to_vec())
        }

        fn health(&self) -> Result<(), String> {
            self.check()
        }
    }

    struct Answer {
        status: StatusCode,
        headers: HeaderMap,
        body: Vec<u8>,
    }

    impl Answer {
        fn header(&self, name: header::HeaderName) -> &str {
            self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
        }

        fn text(&self) -> &str {
            std::str::from_utf8(&self.body).expect("text")
        }
    }

    async fn send(log: &Arc<Memory>, method: Method, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        let response = routes(log.clone(), Arc::new(Registry::default())).oneshot(request).await.expect("infallible");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes().to_vec();
        Answer { status: head.status, headers: head.headers, body }
    }

    async fn fetch(log: &Arc<Memory>, path: &str) -> Answer {
        send(log, Method::GET, path, &[]).await
    }

    #[tokio::test]
    async fn the_checkpoint_is_text_that_is_not_cached() {
        let answer = fetch(&Memory::of_size(3), "/checkpoint").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.text(), "ledger.example\n3\nroot\n\n\u{2014} ledger.example sig\n");
        assert_eq!(answer.header(header::CONTENT_TYPE), "text/plain; charset=utf-8");
        assert_eq!(answer.header(header::CACHE_CONTROL), "no-cache");
        assert_eq!(answer.header(header::ACCESS_CONTROL_ALLOW_ORIGIN), "*");
        assert_eq!(answer.header(header::X_CONTENT_TYPE_OPTIONS), "nosniff");
    }

    /// tlog-tiles: which tiles a tree of `size` has on a level, as (index, width), full and partial.
    fn tiles_of(size: u64, level: u32) -> Vec<(u64, u64)> {
        let nodes = size / 256_u64.pow(level);
        (0..nodes.div_ceil(256)).map(|index| (index, (nodes - index * 256).min(256))).collect()
    }

    fn path(level: &str, index: u64, width: u64) -> String {
        let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
        format!("/tile/{level}/{index:03}{partial}")
    }

    #[tokio::test]
    async fn every_tile_of_every_size_is_what_the_tree_has_and_nothing_beyond_is_there() {
        for size in 0..=600 {
            let log = Memory::of_size(size);
            for level in 0..3u32 {
                for (index, width) in tiles_of(size, level) {
                    let answer = fetch(&log, &path(&level.to_string(), index, width)).await;
                    assert_eq!(answer.status, StatusCode::OK, "size {size} level {level} tile {index} width {width}");
                    assert_eq!(answer.header(header::CONTENT_TYPE), "application/octet-stream");
                    assert_eq!(answer.header(header::CACHE_CONTROL), "public, max-age=31536000, immutable");
                    let expected: Vec<u8> = (index * 256..index * 256 + width)
                        .flat_map(|n| subtree_root(&log.entries, n * 256_u64.pow(level), 256_u64.pow(level)))
                        .collect();
                    assert!(answer.body == expected, "size {size} level {level} tile {index} width {width}");
                }
                let (next, rest) = (size / 256_u64.pow(level) / 256, size / 256_u64.pow(level) % 256);
                for (index, width) in [(next, 256), (next, rest + 1), (next + 1, 1)] {
                    let beyond = path(&level.to_string(), index, width);
                    assert_eq!(fetch(&log, &beyond).await.status, StatusCode::NOT_FOUND, "size {size} {beyond}");
                }
            }
            for (index, width) in tiles_of(size, 0) {
                let answer = fetch(&log, &path("entries", index, width)).await;
                let begin = usize::try_from(index * 256).expect("small");
                let end = begin + usize::try_from(width).expect("small");
                let expected: Vec<&[u8]> = log.entries[begin..end].iter().map(Vec::as_slice).collect();
                assert_eq!(split_bundle(&answer.body), Some(expected), "size {size} bundle {index}");
                assert_eq!(answer.header(header::CACHE_CONTROL), "public, max-age=31536000, immutable");
            }
            let beyond = path("entries", size / 256, size % 256 + 1);
            assert_eq!(fetch(&log, &beyond).await.status, StatusCode::NOT_FOUND, "size {size} {beyond}");
        }
    }

    /// RFC 6962's MTH over a complete subtree, straight from its definition.
    fn subtree_root(entries: &[Vec<u8>], first: u64, length: u64) -> Hash {
        if length == 1 {
            return leaf_hash(&entries[usize::try_from(first).expect("small")]);
        }
        let half = length / 2;
        let (left, right) = (subtree_root(entries, first, half), subtree_root(entries, first + half, half));
        crate::ledger::merkle::hash::node_hash(&left, &right)
    }

    #[tokio::test]
    async fn older_partial_tiles_are_still_there() {
        let log = Memory::of_size(600);
        for width in 1..=255 {
            let answer = fetch(&log, &path("0", 0, width)).await;
            assert_eq!((answer.status, answer.body.len() as u64), (StatusCode::OK, 32 * width), "{width}");
        }
    }

    #[tokio::test]
    async fn what_is_no_path_of_a_tile_is_not_found_and_not_cached() {
        let log = Memory::of_size(300);
        for path in [
            "/tile/0/0",
            "/tile/0/000/",
            "/tile/00/000",
            "/tile/8/000",
            "/tile/0/000.p/256",
            "/tile/0/000.p/0",
            "/tile/0/%30%30%30",
            "/tile/entries/",
            "/tile/entries/0",
            "/tile/entries/000.p/01",
            "/tile/Entries/000",
            "/tile/0/x000/001",
            "/tile/-1/000",
            "/tile/0/../0/000",
            "/tile/",
            "/tile",
            "/checkpoint/",
            "/nothing",
        ] {
            let answer = fetch(&log, path).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
            assert!(!answer.header(header::CACHE_CONTROL).contains("immutable"), "{path}");
        }
        assert_eq!(fetch(&log, "/tile/0/001").await.text(), "the checkpoint does not cover this tile\n");
        assert_eq!(fetch(&log, "/tile/0/001").await.header(header::CACHE_CONTROL), "no-store");
    }

    #[tokio::test]
    async fn entries_are_compressed_for_who_accepts_it_and_hashes_are_not() {
        let log = Memory::of_size(256);
        let gzip = [("accept-encoding", "gzip, identity")];
        let plain = fetch(&log, "/tile/entries/000").await;
        assert_eq!(plain.header(header::CONTENT_ENCODING), "");
        let packed = send(&log, Method::GET, "/tile/entries/000", &gzip).await;
        assert_eq!(packed.header(header::CONTENT_ENCODING), "gzip");
        assert!(packed.header(header::VARY).eq_ignore_ascii_case("accept-encoding"));
        assert_eq!(packed.header(header::CONTENT_TYPE), "application/octet-stream");
        assert!(packed.body.len() < plain.body.len() / 4 && packed.body.starts_with(&[0x1f, 0x8b]));
        // RFC 1952: the last four bytes are the length of what was compressed.
        assert_eq!(packed.body.last_chunk().map(|length| u32::from_le_bytes(*length) as usize), Some(plain.body.len()));
        let hashes = send(&log, Method::GET, "/tile/0/000", &gzip).await;
        assert_eq!(hashes.header(header::CONTENT_ENCODING), "");
    }

    #[tokio::test]
    async fn head_tells_what_get_would_and_nothing_can_be_written() {
        let log = Memory::of_size(256);
        for path in ["/checkpoint", "/tile/0/000", "/tile/entries/000"] {
            let (get, head) = (fetch(&log, path).await, send(&log, Method::HEAD, path, &[]).await);
            assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0), "{path}");
            assert_eq!(head.header(header::CONTENT_LENGTH), get.body.len().to_string(), "{path}");
            assert_eq!(head.header(header::CONTENT_TYPE), get.header(header::CONTENT_TYPE), "{path}");
            let packed = send(&log, Method::HEAD, path, &[("accept-encoding", "gzip")]).await;
            assert_eq!((packed.status, packed.body.len()), (StatusCode::OK, 0), "{path}, compressed");
            assert_eq!(send(&log, Method::POST, path, &[]).await.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }

    #[tokio::test]
    async fn a_log_that_cannot_append_is_alive_and_not_ready() {
        let log = Memory::of_size(1);
        assert_eq!(fetch(&log, "/readyz").await.status, StatusCode::OK);
        *log.broken.lock().expect("no panic") = Some("the disk is gone".into());
        assert_eq!(fetch(&log, "/healthz").await.status, StatusCode::OK);
        let ready = fetch(&log, "/readyz").await;
        assert_eq!((ready.status, ready.text()), (StatusCode::SERVICE_UNAVAILABLE, "not ready: the disk is gone\n"));
    }

    #[tokio::test]
    async fn a_failed_read_is_an_error_that_nobody_caches_or_learns_from() {
        let log = Memory::of_size(1);
        *log.broken.lock().expect("no panic") = Some("secret path".into());
        for path in ["/tile/0/000.p/1", "/tile/entries/000.p/1"] {
            let answer = fetch(&log, path).await;
            assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
            assert!(!answer.text().contains("secret") && answer.header(header::CACHE_CONTROL) == "no-store");
        }
    }

    #[tokio::test]
    async fn metrics_are_openmetrics() {
        let mut metrics = Registry::default();
        let counter = Counter::<u64>::default();
        metrics.register("things", "Things", counter.clone());
        counter.inc();
        let request = axum::http::Request::get("/metrics").body(Body::empty()).expect("a request");
        let response = routes(Memory::of_size(0), Arc::new(metrics)).oneshot(request).await.expect("infallible");
        assert_eq!(response.headers()[header::CONTENT_TYPE], OPENMETRICS);
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        let body = std::str::from_utf8(&body).expect("text");
        assert!(body.contains("things_total 1\n") && body.ends_with("# EOF\n"), "{body}");
    }

    #[tokio::test]
    async fn the_front_page_names_the_log() {
        let answer = fetch(&Memory::of_size(7), "/").await;
        assert!(answer.text().contains("ledger.example") && answer.text().contains("entries: 7"), "{}", answer.text());
    }
}
