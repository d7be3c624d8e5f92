//! What is asked, by name.

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use prost::Message as _;
use tagledger::ledger::evidence::verify;
use tagledger::ledger::note::{Skey, Vkey};
use tagledger::ledger::signature::{key_id, sign, statement_message};
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::append_stream_response::Result as StreamResult;
use tagledger::proto::log_service_client::LogServiceClient;
use tagledger::proto::query_service_client::QueryServiceClient;
use tagledger::proto::{self, statement::Kind};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::Failure;
use crate::drive::{Asked, Seen, Watch, ask_again, authorized, histogram};
use crate::server::Server;
use crate::traffic::{Random, Traffic};

/// Every so many answers one is verified; all of them would measure the client.
const VERIFIED_EVERY: u64 = 997;
/// Streams, and statements of each that wait for their answer.
const STREAMS: usize = 4;
const WINDOW: usize = 512;
/// Statements of a batch.
const BATCH: usize = 250;
/// Statements signed in advance, for each second.
const SIGNED_PER_S: usize = 40_000;

/// Where scenarios run.
pub(crate) struct Place<'a> {
    pub(crate) server: &'a Server,
    pub(crate) programs: &'a Path,
    pub(crate) traffic: Arc<Mutex<Traffic>>,
    pub(crate) vkey: Vkey,
    /// Entries of the ledger as it was preloaded.
    pub(crate) size: u64,
    /// Of the newest of them, on average.
    pub(crate) entry_bytes: u64,
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
}

/// Processor time so far: of this process and of the server.
#[derive(Clone, Copy)]
pub(crate) struct Cpu(Duration, Duration);

/// What a scenario measured, and the processor time while it did.
pub(crate) struct Measured {
    pub(crate) seen: Seen,
    pub(crate) client: Duration,
    pub(crate) server: Duration,
}

impl Place<'_> {
    fn cpu(&self) -> Result<Cpu, Failure> {
        Ok(Cpu(crate::server::cpu_of(std::process::id())?, self.server.cpu()?))
    }

    /// So many clients on so many connections; `client` makes what each of them asks again and again.
    async fn clients<C, F>(
        &self,
        clients: usize,
        connections: usize,
        client: impl Fn(Channel, Random) -> C,
    ) -> Result<Measured, Failure>
    where
        C: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<u64, Failure>> + Send + 'static,
    {
        let (watch, channels) = (Watch::new(), self.server.channels(connections).await?);
        let asking = (0..clients).map(|number| {
            let ask = client(channels[number % connections].clone(), Random(number as u64));
            tokio::spawn(ask_again(Arc::clone(&watch), ask))
        });
        let asking = asking.collect();
        self.measure(&watch, asking).await
    }

    async fn measure(&self, watch: &Watch, asking: Vec<JoinHandle<Asked>>) -> Result<Measured, Failure> {
        let mut before = None;
        let begin = || {
            before = Some(self.cpu()?);
            Ok(())
        };
        let elapsed = watch.run(self.warm_up, self.time, begin).await?;
        let (before, after) = (before.expect("taken"), self.cpu()?);
        let (mut count, mut latency) = (0, histogram());
        for asked in asking {
            let (answers, seen) = asked.await??;
            count += answers;
            latency.add(seen)?;
        }
        Ok(Measured {
            seen: Seen::new(count, elapsed, latency),
            client: after.0.saturating_sub(before.0),
            server: after.1.saturating_sub(before.1),
        })
    }

    fn next(&self) -> impl Fn() -> (Vec<u8>, bool) + Clone + Send + 'static {
        let traffic = Arc::clone(&self.traffic);
        move || {
            let made = traffic.lock().expect("nobody panicked").next();
            (made.statement, made.is_denied)
        }
    }

    /// `append-N`: unary, each client one statement at a time.
    pub(crate) async fn append(&self, clients: usize, connections: usize) -> Result<Measured, Failure> {
        let (token, vkey, next) = (Arc::<str>::from(self.server.token()?), self.vkey.clone(), self.next());
        self.clients(clients, connections, |channel, mut random| {
            let (client, token, vkey, next) =
                (AppendServiceClient::new(channel), Arc::clone(&token), vkey.clone(), next.clone());
            move || {
                let (statement, is_denied) = next();
                let submission = Some(proto::Submission { statement, ..Default::default() });
                let request = authorized(&token, proto::AppendRequest { submission });
                let (mut client, vkey, verifies) = (client.clone(), vkey.clone(), random.below(VERIFIED_EVERY) == 0);
                async move { recorded(&client.append(request).await?.into_inner(), is_denied, verifies.then_some(&vkey)) }
            }
        })
        .await
    }

    /// `batch`: many statements in one request.
    pub(crate) async fn batch(&self) -> Result<Measured, Failure> {
        let (token, vkey, next) = (Arc::<str>::from(self.server.token()?), self.vkey.clone(), self.next());
        self.clients(4, 4, |channel, mut random| {
            let client = AppendServiceClient::new(channel).max_decoding_message_size(64 << 20);
            let (token, vkey, next) = (Arc::clone(&token), vkey.clone(), next.clone());
            move || {
                let submissions =
                    (0..BATCH).map(|_| proto::Submission { statement: next().0, ..Default::default() }).collect();
                let request = authorized(&token, proto::AppendBatchRequest { submissions });
                let (mut client, vkey, verifies) = (client.clone(), vkey.clone(), random.below(VERIFIED_EVERY) == 0);
                async move {
                    let evidence = client.append_batch(request).await?.into_inner().evidence.ok_or("no evidence")?;
                    if verifies {
                        verify(&evidence, &vkey)?;
                    }
                    Ok(BATCH as u64)
                }
            }
        })
        .await
    }

    /// `stream`, `stream-signed`: several streams, each with many statements on their way.
    pub(crate) async fn stream(&self, signed: bool) -> Result<Measured, Failure> {
        let (watch, channels) = (Watch::new(), self.server.channels(STREAMS).await?);
        let token = self.server.token()?;
        let mut in_advance = if signed {
            let seconds = (self.warm_up + self.time).as_secs_f64().ceil() as usize;
            self.signed(seconds * SIGNED_PER_S / STREAMS).await?
        } else {
            Vec::new()
        };
        let mut asking = Vec::new();
        for channel in channels {
            let next = self.next();
            let mut ready = in_advance.pop().unwrap_or_default().into_iter();
            let submissions = move || {
                if signed {
                    return ready.next();
                }
                Some(proto::Submission { statement: next().0, ..Default::default() })
            };
            let token = if signed { None } else { Some(token.clone()) };
            let stream = one_stream(Arc::clone(&watch), channel, token, self.vkey.clone(), submissions);
            asking.push(tokio::spawn(stream));
        }
        self.measure(&watch, asking).await
    }

    /// Lets a producer in that shows nothing but signatures, and signs statements in its name: so many for each stream.
    async fn signed(&self, count: usize) -> Result<Vec<Vec<proto::Submission>>, Failure> {
        let skey = Arc::new(Skey::from_seed("pipeline".parse()?, &[7; 32]));
        let principal = proto::Principal {
            roles: vec![proto::Role::Writer.into()],
            grants: vec![proto::Grant { repositories: vec!["**".into()], kinds: Vec::new() }],
            requires: vec![proto::Credential::Signature.into()],
            keys: vec![skey.vkey().to_string()],
            ..Default::default()
        };
        let change = Some(proto::principal_change::Change::Principal(principal));
        let change = Kind::PrincipalChange(proto::PrincipalChange { name: "pipeline".into(), change });
        let statement = proto::Statement { kind: Some(change), ..Default::default() }.encode_to_vec();
        let submission = Some(proto::Submission { statement, ..Default::default() });
        let mut client = AppendServiceClient::new(self.server.channels(1).await?.remove(0));
        client.append(authorized(&self.server.token()?, proto::AppendRequest { submission })).await?;

        let mut streams = Vec::new();
        for _ in 0..STREAMS {
            let (next, skey) = (self.next(), Arc::clone(&skey));
            streams.push(tokio::task::spawn_blocking(move || {
                let id = key_id(&skey.key().verifying_key());
                let submission = |_| {
                    let statement = next().0;
                    let signature = sign(skey.key(), &statement_message(&statement)).to_vec();
                    let producer = Some(proto::Producer { key_id: id.clone(), signature });
                    proto::Submission { statement, producer, ..Default::default() }
                };
                (0..count).map(submission).collect()
            }));
        }
        let mut signed = Vec::new();
        for stream in streams {
            signed.push(stream.await?);
        }
        Ok(signed)
    }

    /// `proof-64`: inclusion proofs of any entry in the newest tree.
    pub(crate) async fn proof(&self, clients: usize, connections: usize) -> Result<Measured, Failure> {
        let (size, vkey) = (self.size, self.vkey.clone());
        self.clients(clients, connections, |channel, mut random| {
            let (client, vkey) = (LogServiceClient::new(channel), vkey.clone());
            move || {
                let request = proto::GetInclusionProofRequest { index: random.below(size), tree_size: 0 };
                let (mut client, vkey, verifies) = (client.clone(), vkey.clone(), random.below(VERIFIED_EVERY) == 0);
                async move {
                    let proof = client.get_inclusion_proof(request).await?.into_inner();
                    if verifies {
                        proves(&proof, &vkey)?;
                    }
                    Ok(1)
                }
            }
        })
        .await
    }

    /// `resolve-N`, `resolve-bare-N`: what a tag points to.
    pub(crate) async fn resolve(&self, clients: usize, connections: usize, bare: bool) -> Result<Measured, Failure> {
        let (traffic, vkey) = (Arc::new(self.traffic.lock().expect("nobody panicked").clone()), self.vkey.clone());
        self.clients(clients, connections, |channel, mut random| {
            let (client, vkey, traffic) = (QueryServiceClient::new(channel), vkey.clone(), Arc::clone(&traffic));
            move || {
                let request = resolve(&traffic, &mut random, bare);
                let (mut client, vkey, verifies) = (client.clone(), vkey.clone(), random.below(VERIFIED_EVERY) == 0);
                async move {
                    let answer = client.resolve_tag(request).await?.into_inner();
                    if answer.digest.is_empty() {
                        return Err("a tag that the traffic bound is not bound".into());
                    }
                    if let (false, Some(evidence), true) = (bare, &answer.evidence, verifies) {
                        verify(evidence, &vkey)?;
                    }
                    Ok(1)
                }
            }
        })
        .await
    }

    /// `history`: the last twenty versions of a tag, with evidence.
    pub(crate) async fn history(&self, clients: usize, connections: usize) -> Result<Measured, Failure> {
        let traffic = Arc::new(self.traffic.lock().expect("nobody panicked").clone());
        self.clients(clients, connections, |channel, mut random| {
            let (client, traffic) = (QueryServiceClient::new(channel), Arc::clone(&traffic));
            move || {
                let request = history(&traffic, &mut random);
                let mut client = client.clone();
                async move {
                    let answer = client.list_tag_history(request).await?.into_inner();
                    if answer.versions.is_empty() {
                        return Err("a tag that the traffic named has no history".into());
                    }
                    Ok(1)
                }
            }
        })
        .await
    }

    /// `tiles`: full tiles of hashes and of entries, over HTTP/1.1.
    pub(crate) async fn tiles(&self, clients: usize) -> Result<Measured, Failure> {
        let full = (self.size / 256).max(1);
        let base = format!("http://{}", self.server.address);
        // reqwest is built without a crypto provider of its own.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
        let (watch, mut asking) = (Watch::new(), Vec::new());
        for number in 0..clients {
            let (http, base, mut random) = (http.clone(), base.clone(), Random(number as u64));
            asking.push(tokio::spawn(ask_again(Arc::clone(&watch), move || {
                let tile = random.below(full);
                let sort = if random.below(2) == 0 { "0" } else { "entries" };
                let url = format!("{base}/tile/{sort}/{}", tile_path(tile));
                let http = http.clone();
                async move {
                    let answer = http.get(&url).send().await?;
                    if !answer.status().is_success() {
                        return Err(format!("{url}: {}", answer.status()).into());
                    }
                    answer.bytes().await?;
                    Ok(1)
                }
            })));
        }
        self.measure(&watch, asking).await
    }

    /// `mixed`: of ten clients' questions five resolve, three append, one asks for a history and one for a proof.
    pub(crate) async fn mixed(&self) -> Result<Measured, Failure> {
        let (token, next, size) = (Arc::<str>::from(self.server.token()?), self.next(), self.size);
        let traffic = Arc::new(self.traffic.lock().expect("nobody panicked").clone());
        self.clients(64, 8, |channel, mut random| {
            let (token, next, traffic) = (Arc::clone(&token), next.clone(), Arc::clone(&traffic));
            move || {
                let (channel, token, choice) = (channel.clone(), Arc::clone(&token), random.below(10));
                let (next, traffic, mut random) = (next.clone(), Arc::clone(&traffic), Random(random.next()));
                async move {
                    match choice {
                        0..5 => drop(
                            QueryServiceClient::new(channel).resolve_tag(resolve(&traffic, &mut random, false)).await?,
                        ),
                        5..8 => {
                            let (statement, is_denied) = next();
                            let submission = Some(proto::Submission { statement, ..Default::default() });
                            let request = authorized(&token, proto::AppendRequest { submission });
                            recorded(
                                &AppendServiceClient::new(channel).append(request).await?.into_inner(),
                                is_denied,
                                None,
                            )?;
                        }
                        8 => drop(
                            QueryServiceClient::new(channel).list_tag_history(history(&traffic, &mut random)).await?,
                        ),
                        _ => {
                            let request = proto::GetInclusionProofRequest { index: random.below(size), tree_size: 0 };
                            drop(LogServiceClient::new(channel).get_inclusion_proof(request).await?);
                        }
                    }
                    Ok(1)
                }
            }
        })
        .await
    }

    /// `audit`: the CLI's, from the first entry.
    pub(crate) fn audit(&self) -> Result<Measured, Failure> {
        let trust = tempfile::tempdir()?;
        let (begun, before) = (Instant::now(), self.server.cpu()?);
        let mut command = Command::new(self.programs.join("tagledger"));
        command.env("TAGLEDGER_TRUST", trust.path()).args([
            "--server",
            &format!("http://{}", self.server.address),
            "audit",
            "--json",
        ]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let children_before = children_cpu()?;
        let printed = child.wait_with_output()?;
        let elapsed = begun.elapsed();
        if !printed.status.success() {
            return Err(format!("tagledger audit ended with {}", printed.status).into());
        }
        let mut latency = histogram();
        latency.record(u64::try_from(elapsed.as_nanos())?)?;
        Ok(Measured {
            seen: Seen::new(self.size, elapsed, latency),
            client: children_cpu()?.saturating_sub(children_before),
            server: self.server.cpu()?.saturating_sub(before),
        })
    }
}

/// Processor time of children that ended.
fn children_cpu() -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("an odd /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(13).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn resolve(traffic: &Traffic, random: &mut Random, without_evidence: bool) -> proto::ResolveTagRequest {
    let (registry, repository, tag) = traffic.some_tag(random);
    proto::ResolveTagRequest { registry, repository, tag, at_us: 0, without_evidence }
}

fn history(traffic: &Traffic, random: &mut Random) -> proto::ListTagHistoryRequest {
    let (registry, repository, tag) = traffic.some_tag(random);
    proto::ListTagHistoryRequest { registry, repository, tag, page_size: 20, newest_first: true, ..Default::default() }
}

/// "x001/234" (C2SP tlog-tiles).
fn tile_path(number: u64) -> String {
    let mut path = format!("{:03}", number % 1000);
    let mut rest = number / 1000;
    while rest > 0 {
        path = format!("x{:03}/{path}", rest % 1000);
        rest /= 1000;
    }
    path
}

/// A reply is a recorded entry with its proof, decided as the policy says.
fn recorded(response: &proto::AppendResponse, is_denied: bool, vkey: Option<&Vkey>) -> Result<u64, Failure> {
    let receipt = response.receipt.as_ref().ok_or("no receipt")?;
    if is_denied != (receipt.outcome() == proto::Outcome::Denied) {
        return Err(format!("a statement was recorded as {:?}: {}", receipt.outcome(), receipt.detail).into());
    }
    let evidence = response.evidence.as_ref().ok_or("no evidence")?;
    if let Some(vkey) = vkey {
        verify(evidence, vkey)?;
    }
    Ok(1)
}

fn proves(proof: &proto::GetInclusionProofResponse, vkey: &Vkey) -> Result<(), Failure> {
    use tagledger::ledger::checkpoint::Checkpoint;
    use tagledger::ledger::evidence::hashes;
    use tagledger::ledger::merkle::proof::verify_inclusion;
    let checkpoint = Checkpoint::open(&proof.checkpoint, vkey)?;
    let leaf = proof.leaf_hash.as_slice().try_into()?;
    verify_inclusion(proof.index, checkpoint.size, &leaf, &hashes(&proof.hashes)?, &checkpoint.root)?;
    Ok(())
}

/// Keeps a window of statements on their way.
async fn one_stream(
    watch: Arc<Watch>,
    channel: Channel,
    token: Option<String>,
    vkey: Vkey,
    mut submissions: impl FnMut() -> Option<proto::Submission> + Send,
) -> Asked {
    let (sender, receiver) = mpsc::channel(WINDOW);
    let mut client = AppendServiceClient::new(channel);
    let messages = ReceiverStream::new(receiver);
    let request = match &token {
        Some(token) => authorized(token, messages),
        None => tonic::Request::new(messages),
    };
    let mut sent: VecDeque<Instant> = VecDeque::new();
    let mut first = 0;
    let mut send = |sent: &mut VecDeque<Instant>| -> Result<(), Failure> {
        while sent.len() < WINDOW && !watch.ends() {
            let submission = submissions().ok_or("more statements were recorded than were signed in advance")?;
            if sender.try_send(proto::AppendStreamRequest { submission: Some(submission) }).is_err() {
                break;
            }
            sent.push_back(Instant::now());
        }
        Ok(())
    };
    send(&mut sent)?;
    let mut answers = client.append_stream(request).await?.into_inner();
    let (mut count, mut latency) = (0, histogram());
    while !sent.is_empty() {
        let answer = answers.next().await.ok_or("the stream ended early")??;
        let Some(StreamResult::Recorded(response)) = answer.result else {
            return Err(format!("a statement of a stream was refused: {:?}", answer.result).into());
        };
        let begun = sent.pop_front().expect("answers come in order");
        first += 1;
        if first % VERIFIED_EVERY == 0 {
            verify(response.evidence.as_ref().ok_or("no evidence")?, &vkey)?;
        }
        if watch.measures() && !watch.ends() {
            count += 1;
            latency.record(u64::try_from(begun.elapsed().as_nanos())?)?;
        }
        // In handfuls, as messages come in handfuls.
        if sent.len() <= WINDOW - 16 {
            send(&mut sent)?;
        }
    }
    Ok((count, latency))
}
