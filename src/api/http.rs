//! stub
use crate::ledger::merkle::Hash;
use std::ops::Range;
use std::sync::Arc;
#[allow(missing_docs)]
pub struct LogHead {
    pub size: u64,
    pub note: String,
}
#[allow(missing_docs)]
pub trait LogSource: Send + Sync + 'static {
    fn checkpoint(&self) -> Result<LogHead, String>;
    fn hashes(&self, level: u8, range: Range<u64>) -> Result<Vec<Hash>, String>;
    fn entries(&self, range: Range<u64>) -> Result<Vec<Vec<u8>>, String>;
    fn health(&self) -> Result<(), String>;
}
#[allow(missing_docs)]
pub fn routes<S: LogSource>(_: Arc<S>, _: Arc<prometheus_client::registry::Registry>) -> axum::Router {
    axum::Router::new()
}
