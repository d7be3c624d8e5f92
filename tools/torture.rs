//! Kills a real server with -9 at random moments, and checks after each restart that it kept its word.
//!
//! Writers append over gRPC, alone, in batches and in streams, and remember every entry, checkpoint and piece of evidence they
//! were given. Then the server is killed: while they write, while it starts, or while it recovers. After the next start:
//!
//! - every entry acknowledged since the last check is at its index, byte for byte, and no index was acknowledged twice; now and
//!   then, and at the end, so is every one from the first on;
//! - every checkpoint that was seen since the last check, by a writer or by a reader who asked for nothing else, is consistent with the
//!   newest, and so is the newest of that check; now and then, and at the end, so is every one ever seen;
//! - what was sent and not answered is sent again, and is in the log once, whichever of the two recorded it;
//! - whoever knows no more than the first key is shown all later ones: those whose announcement was acknowledged, and perhaps one
//!   that was under way;
//! - now and then, and at the end, `tagledgerd fsck` finds the database whole, as the kill left it; and the real CLI audits the log,
//!   which replays every entry and recomputes every map root, and verifies the evidence files that were saved so far.
//!
//! Now and then another key is made and announced while they write, so the kill comes before, in or after the change.
//!
//! With `--soak` nobody is killed: `soak` tells.

mod soak;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Parser;
use prost::Message as _;
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{Body, SignedEntry};
use tagledger::ledger::evidence::{hashes, verify};
use tagledger::ledger::keys::{Chain, Keys as _};
use tagledger::ledger::merkle::proof::verify_consistency;
use tagledger::ledger::note::Vkey;
use tagledger::proto::append_service_client::AppendServiceClient;
use tagledger::proto::log_service_client::LogServiceClient;
use tagledger::proto::{self, statement::Kind};
use tokio_stream::StreamExt as _;
use tonic::Request;
use tonic::transport::Channel;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Kills the server with -9 at random moments while clients write, and checks after each restart that nothing it acknowledged is
/// lost or contradicted.
#[derive(Parser)]
#[command(name = "torture")]
struct Arguments {
    /// How often
    #[arg(long, default_value = "200")]
    kills: u64,
    /// Instead: write as fast as it goes for so many minutes, and judge whether memory and latency stay as they are
    #[arg(long, value_name = "MINUTES")]
    soak: Option<u64>,
    /// For the moments and the statements; printed, so that a run can be repeated
    #[arg(long)]
    seed: Option<u64>,
    /// Clients that write at the same time
    #[arg(long, default_value = "8")]
    writers: u64,
    /// The CLI audits and verifies after so many kills, and at the end
    #[arg(long, default_value = "20")]
    audit_every: u64,
    /// Leave data directory, logs and evidence in this folder, which must not be there yet
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Where tagledgerd and tagledger are
    #[arg(long, value_name = "DIR")]
    programs: PathBuf,
}

/// SplitMix64 (Steele, Lea, Flood 2014): a seed tells everything.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What the server said, and what it has yet to say.
#[derive(Default)]
struct Told {
    /// Acknowledged, by index.
    entries: BTreeMap<u64, Vec<u8>>,
    /// Seen, by size.
    checkpoints: BTreeMap<u64, String>,
    /// Those of them that were not held against a newer one yet.
    unproven: BTreeMap<u64, String>,
    /// Shown to readers, and not looked at yet.
    shown: Vec<String>,
    /// Sent, and not answered: statements by event id.
    open: HashMap<String, Vec<u8>>,
    /// Answered, and not looked at yet: the key may have changed since the writer came.
    unverified: Vec<proto::Evidence>,
    /// Broken promises that a writer met.
    broken: Vec<String>,
    answers: u64,
}

impl Told {
    fn sent(&mut self, statements: &[(String, Vec<u8>)]) {
        self.open.extend(statements.iter().cloned());
    }

    fn answered(&mut self, ids: &[String], evidence: proto::Evidence) {
        self.answers += 1;
        ids.iter().for_each(|id| drop(self.open.remove(id)));
        self.unverified.push(evidence);
    }

    /// Looks at what was answered, under the keys that the ledger had by then.
    fn look(&mut self, keys: &Chain) {
        for evidence in std::mem::take(&mut self.unverified) {
            self.look_at(&evidence, keys);
        }
        for note in std::mem::take(&mut self.shown) {
            self.saw(&note, keys);
        }
    }

    fn look_at(&mut self, evidence: &proto::Evidence, keys: &Chain) {
        if let Err(error) = verify(evidence, keys) {
            self.broken.push(format!("a reply does not verify: {error}"));
        }
        for entry in &evidence.entries {
            if let Some(earlier) = self.entries.insert(entry.index, entry.entry.clone())
                && earlier != entry.entry
            {
                self.broken.push(format!("index {} was acknowledged twice, for different entries", entry.index));
            }
        }
        self.saw(&evidence.checkpoint, keys);
    }

    fn saw(&mut self, note: &str, keys: &Chain) {
        match Checkpoint::open(note, keys) {
            Ok(checkpoint) => {
                let earlier = self.checkpoints.insert(checkpoint.size, note.to_owned());
                let earlier = earlier.and_then(|note| Checkpoint::open(&note, keys).ok());
                if earlier.is_some_and(|earlier| earlier.root != checkpoint.root) {
                    self.broken.push(format!("two checkpoints over {} entries have different roots", checkpoint.size));
                }
                self.unproven.insert(checkpoint.size, note.to_owned());
            }
            Err(error) => self.broken.push(format!("a checkpoint that was shown: {error}")),
        }
    }
}

/// Everything of a run.
struct Torture {
    arguments: Arguments,
    seed: u64,
    folder: PathBuf,
    port: u16,
    random: Random,
    told: Arc<Mutex<Told>>,
    /// Event ids found in the log, and where.
    recorded: HashMap<String, u64>,
    /// Entries compared with the log so far: those below this index.
    compared: u64,
    evidence: Vec<PathBuf>,
    /// The CLI has audited before, and goes on from there.
    is_audited: bool,
    starts_us: Vec<u128>,
    /// From the first key on, which is all that is believed.
    keys: Option<Chain>,
    /// Keys whose announcement was acknowledged.
    announced: Vec<Vkey>,
}

/// Another key, on its way.
struct Announcing {
    vkey: Vkey,
    cli: Child,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).expect("the system has randomness");
        u32::from_le_bytes(bytes).into()
    });
    match arguments.soak {
        Some(minutes) => println!("soak: {minutes} minutes, {} connections, --seed {seed}", arguments.writers),
        None => println!("torture: {} kills, {} writers, --seed {seed}", arguments.kills, arguments.writers),
    }
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let folder = arguments.keep.clone().unwrap_or_else(|| temporary.path().join("torture"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let torture = Torture {
        arguments,
        seed,
        folder: folder.clone(),
        port: 0,
        random: Random(seed),
        told: Arc::default(),
        recorded: HashMap::new(),
        compared: 0,
        evidence: Vec::new(),
        is_audited: false,
        starts_us: Vec::new(),
        keys: None,
        announced: Vec::new(),
    };
    match runtime.block_on(torture.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture: {error}");
            eprintln!("torture: FAILED with --seed {seed}");
            if folder.starts_with(temporary.path()) {
                eprintln!("torture: everything is left in {}", temporary.keep().display());
            }
            ExitCode::FAILURE
        }
    }
}

impl Torture {
    async fn run(mut self) -> Result<(), Failure> {
        std::fs::create_dir(&self.folder).map_err(|error| format!("{}: {error}", self.folder.display()))?;
        // The CLI pins the key of an address, so each server gets the same.
        self.port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        if let Some(minutes) = self.arguments.soak {
            return soak::run(&mut self, minutes).await;
        }
        let started = Instant::now();
        // Where that round does not even come up, the next one is held against everything.
        let (mut is_audit_due, mut is_fsck_due) = (true, false);
        for kill in 0..self.arguments.kills {
            is_audit_due |= kill % self.arguments.audit_every == 0;
            is_fsck_due |= (kill + 1) % self.arguments.audit_every == 0;
            // Now and then it does not even come up.
            if self.random.below(10) == 0 {
                let mut child = self.spawn()?;
                tokio::time::sleep(Duration::from_micros(self.random.below(60_000))).await;
                child.kill()?;
                child.wait()?;
                continue;
            }
            let mut server = self.start().await?;
            self.check(std::mem::take(&mut is_audit_due)).await?;
            let mut clients = self.writers(kill).await?;
            clients.push(self.reader().await?);
            let announcing = if self.random.below(5) == 0 { Some(self.announce()?) } else { None };
            // Most of the time in the middle of the first batches, sometimes long after: the CLI takes a while until it announces.
            let moment_us = if announcing.is_some() || self.random.below(4) == 0 { 600_000 } else { 60_000 };
            tokio::time::sleep(Duration::from_micros(self.random.below(moment_us))).await;
            server.kill()?;
            for client in clients {
                client.await?;
            }
            server.wait()?;
            if let Some(mut announcing) = announcing
                && announcing.cli.wait()?.success()
            {
                self.announced.push(announcing.vkey);
            }
            self.report(kill + 1, started);
            if std::mem::take(&mut is_fsck_due) {
                self.fsck()?;
            }
        }
        let mut server = self.start().await?;
        self.check(true).await?;
        server.kill()?;
        server.wait()?;
        self.fsck()?;
        let told = self.told.lock().expect("nobody panicked");
        self.starts_us.sort_unstable();
        println!(
            "torture: {} kills survived in {} s: {} entries acknowledged in {} answers, {} checkpoints seen, {} evidence \
             files verified, {} changes of the key, {} of them acknowledged, nothing lost, nothing contradicted; a start \
             took {} ms in the middle, {} ms at most",
            self.arguments.kills,
            started.elapsed().as_secs(),
            told.entries.len(),
            told.answers,
            told.checkpoints.len(),
            self.evidence.len(),
            self.keys.as_ref().map_or(0, |keys| keys.later().len()),
            self.announced.len(),
            self.starts_us[self.starts_us.len() / 2] / 1000,
            self.starts_us[self.starts_us.len() - 1] / 1000,
        );
        Ok(())
    }

    fn report(&self, kills: u64, started: Instant) {
        let told = self.told.lock().expect("nobody panicked");
        if kills.is_multiple_of(self.arguments.audit_every) {
            println!("torture: {kills} kills, {} entries, {} s", told.entries.len(), started.elapsed().as_secs());
        }
    }

    /// Makes another key, and announces it beside everything else. The next start lets the one before go at once, or lets it sign on.
    fn announce(&mut self) -> Result<Announcing, Failure> {
        let program = self.arguments.programs.join("tagledgerd");
        let printed = Command::new(program).args(["key", "prepare", "--data-dir"]).arg(self.data_dir()).output()?;
        let change = String::from_utf8(printed.stdout)?;
        let Some(change) = change.trim().strip_prefix("tagledger key announce ") else {
            return Err(format!("tagledgerd key prepare: {}", String::from_utf8_lossy(&printed.stderr)).into());
        };
        let vkey = proto::KeyChange::decode(&*BASE64.decode(change)?)?.vkey.parse()?;
        std::fs::write(self.config(), format!("[keys]\noverlap_days = {}\n", 30 * self.random.below(2)))?;
        let mut cli = self.tagledger(&["--token-file", &self.data_dir().join("token").display().to_string()]);
        let cli = cli.args(["key", "announce", change]).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(Announcing { vkey, cli })
    }

    /// The keys that the server shows to whoever knows no more than the first.
    async fn keys(&mut self, log: &mut LogServiceClient<Channel>) -> Result<Chain, Failure> {
        let known = match self.keys.take() {
            Some(known) => known,
            None => Chain::of(self.vkey()?),
        };
        let evidence = log.get_keys(proto::GetKeysRequest {}).await?.into_inner().evidence.ok_or("no evidence")?;
        let keys = Chain::follow(&evidence, known.first())?;
        if !keys.continues(&known) {
            return Err("the keys that were shown before are not those that are shown now".into());
        }
        if let Some(lost) = self.announced.iter().find(|announced| !keys.all().any(|vkey| vkey == *announced)) {
            return Err(format!("{lost} was announced and acknowledged, and the ledger does not know it").into());
        }
        self.keys = Some(keys.clone());
        Ok(keys)
    }

    /// As it was left by the kill: every row is what follows from the entries.
    fn fsck(&self) -> Result<(), Failure> {
        if !self.data_dir().join("begun").exists() {
            return Ok(());
        }
        let program = self.arguments.programs.join("tagledgerd");
        let printed = Command::new(program).args(["fsck", "--data-dir"]).arg(self.data_dir()).output()?;
        if printed.status.success() {
            return Ok(());
        }
        let said = [printed.stdout, printed.stderr].concat();
        Err(format!("tagledgerd fsck: {}\n{}", printed.status, String::from_utf8_lossy(&said)).into())
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.join("ledger")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("ledger.toml")
    }

    fn spawn(&self) -> Result<Child, Failure> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("tagledgerd.log"))?;
        let program = self.arguments.programs.join("tagledgerd");
        let mut command = Command::new(&program);
        command.args(["serve", "--listen", &format!("127.0.0.1:{}", self.port), "--data-dir"]).arg(self.data_dir());
        if self.config().exists() {
            command.arg("--config").arg(self.config());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        child.map_err(|error| format!("{}: {error}", program.display()).into())
    }

    /// Starts the server, and returns once it serves.
    async fn start(&mut self) -> Result<Child, Failure> {
        let started = Instant::now();
        let mut child = self.spawn()?;
        let mut greeting = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut greeting)?;
        if !greeting.contains("serves on") {
            child.wait()?;
            return Err(format!("the server did not come up; see {}/tagledgerd.log", self.folder.display()).into());
        }
        self.starts_us.push(started.elapsed().as_micros());
        Ok(child)
    }

    async fn channel(&self) -> Result<Channel, Failure> {
        Ok(Channel::from_shared(format!("http://127.0.0.1:{}", self.port))?.connect().await?)
    }

    fn vkey(&self) -> Result<Vkey, Failure> {
        Ok(std::fs::read_to_string(self.data_dir().join("ledger.vkey"))?.trim().parse()?)
    }

    fn token(&self) -> Result<String, Failure> {
        Ok(std::fs::read_to_string(self.data_dir().join("token"))?.trim().to_owned())
    }

    /// Starts clients that write until the server is gone.
    async fn writers(&mut self, kill: u64) -> Result<Vec<tokio::task::JoinHandle<()>>, Failure> {
        let token = self.token()?;
        let mut writers = Vec::new();
        for number in 0..self.arguments.writers {
            let writer = Writer {
                client: AppendServiceClient::new(self.channel().await?),
                token: token.clone(),
                told: Arc::clone(&self.told),
                random: Random(self.random.next()),
                prefix: format!("{}-{kill}-{number}", self.seed),
                count: 0,
            };
            writers.push(tokio::spawn(writer.write()));
        }
        Ok(writers)
    }

    /// Starts a client that wants to know how far the log is until the server is gone, and nothing else.
    async fn reader(&self) -> Result<tokio::task::JoinHandle<()>, Failure> {
        let (mut log, told) = (LogServiceClient::new(self.channel().await?), Arc::clone(&self.told));
        Ok(tokio::spawn(async move {
            while let Ok(answer) = log.get_checkpoint(proto::GetCheckpointRequest {}).await {
                let note = answer.into_inner().checkpoint;
                let mut told = told.lock().expect("nobody panicked");
                if told.shown.last() != Some(&note) {
                    told.shown.push(note);
                }
            }
        }))
    }

    /// Holds the server against everything it said before.
    async fn check(&mut self, thoroughly: bool) -> Result<(), Failure> {
        let channel = self.channel().await?;
        let mut log = LogServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        // Nobody announces another one while this is going on.
        let keys = self.keys(&mut log).await?;
        self.look(&keys)?;
        let note = log.get_checkpoint(proto::GetCheckpointRequest {}).await?.into_inner().checkpoint;
        let newest = Checkpoint::open(&note, &keys)?;
        if thoroughly {
            self.compared = 0;
            self.recorded.clear();
        }
        self.entries(&mut log, newest.size).await?;
        self.checkpoints(&mut log, &newest, &keys, thoroughly).await?;
        self.told.lock().expect("nobody panicked").shown.push(note);
        self.send_again(channel).await?;
        self.look(&keys)?;
        // Who writes on from here is told about by the next check.
        let size = log.get_checkpoint(proto::GetCheckpointRequest {}).await?.into_inner().checkpoint;
        self.entries(&mut log, Checkpoint::open(&size, &keys)?.size).await?;
        self.save().await?;
        if thoroughly {
            // Whatever the last audit came to has to hold still.
            self.cli(if self.is_audited { &["audit", "--from", "last"] } else { &["audit"] })?;
            self.is_audited = true;
            for file in &self.evidence {
                self.cli(&["verify", &file.display().to_string()])?;
            }
        }
        Ok(())
    }

    /// Everything that was answered verifies, and contradicts nothing that was answered before.
    fn look(&self, keys: &Chain) -> Result<(), Failure> {
        let mut told = self.told.lock().expect("nobody panicked");
        told.look(keys);
        told.broken.first().map_or(Ok(()), |broken| Err(broken.clone().into()))
    }

    /// Every acknowledged entry is in the log, and no event id is there twice.
    async fn entries(&mut self, log: &mut LogServiceClient<Channel>, size: u64) -> Result<(), Failure> {
        let acknowledged: BTreeMap<u64, Vec<u8>> = self
            .told
            .lock()
            .expect("nobody panicked")
            .entries
            .range(self.compared..)
            .map(|(k, v)| (*k, v.clone()))
            .collect();
        if let Some((last, _)) = acknowledged.last_key_value()
            && *last >= size
        {
            return Err(format!("entry {last} was acknowledged, and the log has {size} entries").into());
        }
        let mut at = self.compared;
        let request = proto::ListEntriesRequest { begin: at, end: size };
        let mut pages = log.list_entries(request).await?.into_inner();
        while let Some(page) = pages.next().await {
            let Some(entry) = page?.entry else { return Err("an answer without an entry".into()) };
            if entry.index != at {
                return Err(format!("entry {at} is missing; {} comes instead", entry.index).into());
            }
            if acknowledged.get(&at).is_some_and(|bytes| *bytes != entry.entry) {
                return Err(format!("entry {at} is not what was acknowledged").into());
            }
            if let Body::Record(record, _) = SignedEntry::decode(&entry.entry)?.body {
                let statement = proto::Statement::decode(&*record.statement)?;
                if !statement.event_id.is_empty()
                    && let Some(earlier) = self.recorded.insert(statement.event_id.clone(), at)
                {
                    return Err(format!("event {:?} is entry {earlier} and entry {at}", statement.event_id).into());
                }
            }
            at += 1;
        }
        if at != size {
            return Err(format!("the log ends at {at}, its checkpoint is over {size} entries").into());
        }
        self.compared = at;
        Ok(())
    }

    /// Every checkpoint seen since the last time is of the log that is there, or every one ever seen.
    async fn checkpoints(
        &mut self,
        log: &mut LogServiceClient<Channel>,
        newest: &Checkpoint,
        keys: &Chain,
        all: bool,
    ) -> Result<(), Failure> {
        let seen: Vec<String> = {
            let mut told = self.told.lock().expect("nobody panicked");
            let unproven = std::mem::take(&mut told.unproven);
            if all { told.checkpoints.values().cloned().collect() } else { unproven.into_values().collect() }
        };
        for note in &seen {
            let old = Checkpoint::open(note, keys)?;
            if old.size > newest.size {
                return Err(
                    format!("a checkpoint over {} entries was seen, now there are {}", old.size, newest.size).into()
                );
            }
            if old.size == newest.size && old.root == newest.root {
                continue;
            }
            let request = proto::GetConsistencyProofRequest { first: old.size, second: newest.size };
            let proof = hashes(&log.get_consistency_proof(request).await?.into_inner().hashes)?;
            verify_consistency(old.size, newest.size, &old.root, &newest.root, &proof)
                .map_err(|error| format!("the checkpoint over {} entries is contradicted: {error}", old.size))?;
        }
        Ok(())
    }

    /// What was not answered is asked again: it is recorded now, or was then.
    async fn send_again(&mut self, channel: Channel) -> Result<(), Failure> {
        let mut client = AppendServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let open: Vec<(String, Vec<u8>)> =
            self.told.lock().expect("nobody panicked").open.clone().into_iter().collect();
        for (id, statement) in open {
            let submission = proto::Submission { statement, ..Default::default() };
            let mut request = Request::new(proto::AppendRequest { submission: Some(submission) });
            request.metadata_mut().insert("authorization", format!("Bearer {}", self.token()?).parse()?);
            let answer = client.append(request).await?.into_inner();
            let receipt = answer.receipt.ok_or("an answer without a receipt")?;
            let before = self.recorded.get(&id);
            if receipt.duplicate != before.is_some() || before.is_some_and(|index| *index != receipt.index) {
                return Err(format!(
                    "event {id:?} is in the log as {before:?}, and asked again it is entry {} (duplicate: {})",
                    receipt.index, receipt.duplicate
                )
                .into());
            }
            let evidence = answer.evidence.ok_or("an answer without evidence")?;
            self.told.lock().expect("nobody panicked").answered(&[id], evidence);
        }
        Ok(())
    }

    /// Asks with the CLI, which demands consistency with all it saw, and keeps the answer.
    async fn save(&mut self) -> Result<(), Failure> {
        let file = self.folder.join(format!("evidence-{}.json", self.evidence.len()));
        let reference = format!("registry.example/torture/app{}:t{}", self.random.below(5), self.random.below(40));
        self.cli(&["at", &reference, "--save", &file.display().to_string()])?;
        self.evidence.push(file);
        Ok(())
    }

    fn tagledger(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.arguments.programs.join("tagledger"));
        command.env("TAGLEDGER_TRUST", self.folder.join("trust")).arg("--server");
        command.arg(format!("http://127.0.0.1:{}", self.port)).args(arguments);
        command
    }

    fn cli(&self, arguments: &[&str]) -> Result<(), Failure> {
        let printed = self.tagledger(arguments).output()?;
        // 4: it is proven that the tag never was.
        match printed.status.code() {
            Some(0 | 4) => Ok(()),
            code => Err(format!(
                "tagledger {} ended with {code:?}:\n{}{}",
                arguments.join(" "),
                String::from_utf8_lossy(&printed.stdout),
                String::from_utf8_lossy(&printed.stderr)
            )
            .into()),
        }
    }
}

/// One client.
struct Writer {
    client: AppendServiceClient<Channel>,
    token: String,
    told: Arc<Mutex<Told>>,
    random: Random,
    prefix: String,
    count: u64,
}

impl Writer {
    /// Until the server does not answer any more.
    async fn write(mut self) {
        loop {
            let went_well = match self.random.below(4) {
                0 => self.batch().await,
                1 => self.stream().await,
                _ => self.one().await,
            };
            if !went_well {
                return;
            }
        }
    }

    async fn one(&mut self) -> bool {
        let sent = self.statements(1);
        let submission = submissions(&sent).pop();
        let Ok(response) = self.client.append(self.request(proto::AppendRequest { submission })).await else {
            return false;
        };
        self.answered(&sent, response.into_inner().evidence)
    }

    async fn batch(&mut self) -> bool {
        let count = 1 + self.random.below(20);
        let sent = self.statements(count);
        let request = self.request(proto::AppendBatchRequest { submissions: submissions(&sent) });
        let Ok(response) = self.client.append_batch(request).await else { return false };
        self.answered(&sent, response.into_inner().evidence)
    }

    async fn stream(&mut self) -> bool {
        let count = 1 + self.random.below(60);
        let sent = self.statements(count);
        let requests: Vec<_> = submissions(&sent)
            .into_iter()
            .map(|submission| proto::AppendStreamRequest { submission: Some(submission) })
            .collect();
        let request = self.request(tokio_stream::iter(requests));
        let Ok(response) = self.client.append_stream(request).await else { return false };
        let mut answers = response.into_inner();
        for sent in &sent {
            let Some(Ok(answer)) = answers.next().await else { return false };
            let evidence = match answer.result {
                Some(proto::append_stream_response::Result::Recorded(recorded)) => recorded.evidence,
                // A server that stops may say so.
                _ => return false,
            };
            if !self.answered(std::slice::from_ref(sent), evidence) {
                return false;
            }
        }
        true
    }

    fn answered(&self, sent: &[(String, Vec<u8>)], evidence: Option<proto::Evidence>) -> bool {
        let Some(evidence) = evidence else { return false };
        let ids: Vec<String> = sent.iter().map(|(id, _)| id.clone()).collect();
        self.told.lock().expect("nobody panicked").answered(&ids, evidence);
        true
    }

    fn request<T>(&self, message: T) -> Request<T> {
        with_token(&self.token, message)
    }

    /// Statements with an event id each, remembered as sent.
    fn statements(&mut self, count: u64) -> Vec<(String, Vec<u8>)> {
        let statements: Vec<_> = (0..count)
            .map(|_| {
                self.count += 1;
                let event_id = format!("{}-{}", self.prefix, self.count);
                let statement = proto::Statement {
                    kind: Some(kind(&mut self.random)),
                    event_id: event_id.clone(),
                    ..Default::default()
                };
                (event_id, statement.encode_to_vec())
            })
            .collect();
        self.told.lock().expect("nobody panicked").sent(&statements);
        statements
    }
}

/// Something that could be stated.
fn kind(random: &mut Random) -> Kind {
    let (registry, repository) = ("registry.example".to_owned(), format!("torture/app{}", random.below(5)));
    let tag = format!("t{}", random.below(40));
    let digest = format!("sha256:{:064x}", random.below(30));
    let disposition =
        if random.below(2) == 0 { proto::Disposition::Happened.into() } else { proto::Disposition::Requested.into() };
    match random.below(10) {
        0 => Kind::TagDelete(proto::TagDelete { registry, repository, tag, disposition, settles: 0 }),
        1 => Kind::TagObserved(proto::TagObserved { registry, repository, tag, digest, ..Default::default() }),
        2 | 3 => Kind::Deployment(proto::Deployment {
            environment: format!("env{}", random.below(3)),
            workload: format!("app{}", random.below(20)),
            image: Some(proto::Image { registry, repository, tag, digest }),
            phase: proto::deployment::Phase::Started.into(),
            ..Default::default()
        }),
        _ => Kind::TagPush(proto::TagPush { registry, repository, tag, digest, disposition, ..Default::default() }),
    }
}

fn with_token<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
    request
}

fn submissions(statements: &[(String, Vec<u8>)]) -> Vec<proto::Submission> {
    let submission =
        |(_, statement): &(String, Vec<u8>)| proto::Submission { statement: statement.clone(), ..Default::default() };
    statements.iter().map(submission).collect()
}
