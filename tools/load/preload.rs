//! Ledgers of a size, made once by the real server from the traffic, and kept.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indicatif::{ProgressBar, ProgressStyle};
use prost::Message as _;
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::{self, statement::Kind};
use tokio::sync::Semaphore;

use crate::Failure;
use crate::drive::authorized;
use crate::server::Server;
use crate::traffic::{POLICY, Traffic};

const BATCH: usize = 1000;
/// Batches on their way at once.
const AHEAD: usize = 8;

/// The data directory with `size` statements, made if it is not there yet.
pub(crate) async fn preload(programs: &Path, cache: &Path, seed: u64, size: u64) -> Result<PathBuf, Failure> {
    let format = tagledger::store::rows::FORMAT;
    let folder = cache.join(format!("format-{format}-seed-{seed}-{size}"));
    if folder.join("whole").exists() {
        return Ok(folder.join("ledger"));
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    std::fs::create_dir_all(&folder)?;
    let data_dir = folder.join("ledger");
    let server = Server::start(programs, &data_dir, None)?;
    let client = AppendServiceClient::new(server.channels(1).await?.remove(0)).max_decoding_message_size(64 << 20);
    let token: Arc<str> = server.token()?.into();
    let change = proto::PolicyChange { policy: POLICY.into(), replaces: String::new() };
    let statement = proto::Statement { kind: Some(Kind::PolicyChange(change)), ..Default::default() };
    let submission = Some(proto::Submission { statement: statement.encode_to_vec(), ..Default::default() });
    client.clone().append(authorized(&token, proto::AppendRequest { submission })).await?;

    let bar = ProgressBar::new(size).with_style(ProgressStyle::with_template(
        "preload {bar:30} {human_pos}/{human_len} entries, {per_sec}, {eta} left",
    )?);
    let mut traffic = Traffic::after(seed, 0);
    let room = Arc::new(Semaphore::new(AHEAD));
    let mut sent = Vec::new();
    while traffic.made < size {
        let count = BATCH.min(usize::try_from(size - traffic.made)?);
        let submissions: Vec<_> = (0..count)
            .map(|_| proto::Submission { statement: traffic.next().statement, ..Default::default() })
            .collect();
        let place = Arc::clone(&room).acquire_owned().await?;
        let (mut client, request) = (client.clone(), authorized(&token, proto::AppendBatchRequest { submissions }));
        let bar = bar.clone();
        sent.push(tokio::spawn(async move {
            let answer = client.append_batch(request).await.map(drop);
            bar.inc(count as u64);
            drop(place);
            answer
        }));
        // The first error ends it early.
        if sent.len() > 2 * AHEAD {
            for done in sent.drain(..AHEAD) {
                done.await??;
            }
        }
    }
    for done in sent {
        done.await??;
    }
    bar.finish_and_clear();
    server.stop()?;
    // Opened and closed once more: it is at rest, and its log files are gone.
    Server::start(programs, &data_dir, None)?.stop()?;
    std::fs::write(folder.join("whole"), "")?;
    Ok(data_dir)
}
