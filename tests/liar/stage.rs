//! A real server over a dishonest store, and the real CLI that asks it.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prost::Message as _;
use tagledger::api::failures::Failures;
use tagledger::api::guard::guarded;
use tagledger::api::limits::{LimitSettings, Limits};
use tagledger::api::principals::{Access, Reads};
use tagledger::api::{grpc, http};
use tagledger::engine::plan::Submission;
use tagledger::engine::{Ledger, Options, clock};
use tagledger::ledger::note::Skey;
use tagledger::ledger::statement::Statement;
use tagledger::proto;
use tagledger::server::crowd::Crowd;
use tagledger::server::in_process::EngineSource;
use tagledger::server::listen;
use tagledger::store::memory::MemoryStore;
use tokio::sync::oneshot;

use crate::proxy::Proxy;
use crate::store::LyingStore;

pub(crate) const ORIGIN: &str = "ledger.example/liar";
/// What stands in a file before an answer is saved there.
const BEFORE: &str = "kept from before";

/// The ledger's key.
pub(crate) fn skey() -> Skey {
    Skey::from_seed(ORIGIN.parse().expect("an origin"), &[3; 32])
}

/// Statements as they come from the door.
pub(crate) fn submissions(statements: &[proto::Statement]) -> Vec<Submission> {
    let submission = |message: &proto::Statement| {
        let bytes = message.encode_to_vec();
        Submission {
            statement: Statement::parse(&bytes).expect("valid"),
            bytes,
            principal: "ci".into(),
            assurance: proto::Assurance::Authenticated,
            producer: None,
            shown: None,
            only_at_version: None,
        }
    };
    statements.iter().map(submission).collect()
}

/// A server, somebody before it, and somebody who asks.
pub(crate) struct Stage {
    pub(crate) store: Arc<LyingStore>,
    pub(crate) proxy: Proxy,
    pub(crate) ledger: Ledger,
    runtime: tokio::runtime::Runtime,
    stop: Option<oneshot::Sender<()>>,
    home: tempfile::TempDir,
}

impl Stage {
    /// A new ledger.
    pub(crate) fn new() -> Self {
        Self::over(MemoryStore::default(), tempfile::tempdir().expect("a folder"))
    }

    /// The server is gone; another one with the same key takes its place, with other rows. Who asks stays the same.
    pub(crate) fn restarted_over(mut self, rows: MemoryStore) -> Self {
        let home = std::mem::replace(&mut self.home, tempfile::tempdir().expect("a folder"));
        drop(self);
        Self::over(rows, home)
    }

    fn over(rows: MemoryStore, home: tempfile::TempDir) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let store = Arc::new(LyingStore::new(rows));
        // A second goes by with each reading.
        let clock_us = AtomicU64::new(1_795_000_000_000_000);
        let options = Options {
            store: store.clone(),
            keys: tagledger::engine::signer::only(&skey()),
            key_overlap_us: 0,
            has_begun: false,
            high_water: None,
            clock: Arc::new(move || clock_us.fetch_add(1_000_000, Ordering::Relaxed)),
            clock_bounds: clock::Bounds::default(),
            kept_map: None,
        };
        let ledger = Ledger::open(options).expect("it opens");
        let (stop, stopped) = oneshot::channel::<()>();
        let address = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("bound");
            let failures = Failures::register(&mut prometheus_client::registry::Registry::default());
            let limits = Limits::new(LimitSettings::default());
            let access = Arc::new(Access::new(ledger.principals(), Reads::Open, false, limits, failures));
            let grpc =
                guarded(grpc::routes(&ledger, Arc::clone(&access)).await.into_axum_router(), Arc::clone(&access));
            let source = Arc::new(EngineSource::new(ledger.clone()));
            let http = http::routes(source, Arc::new(prometheus_client::registry::Registry::default()));
            tokio::spawn(async move {
                let stopped = async {
                    let _ = stopped.await;
                };
                let (crowd, limits) = (Crowd::new(0, 0, Vec::new()), LimitSettings::default());
                listen::serve(listener, None, crowd, grpc, guarded(http, access), &limits, stopped).await;
            });
            address
        });
        let proxy = Proxy::before(&address.to_string());
        Self { store, proxy, ledger, runtime, stop: Some(stop), home }
    }

    /// Records statements in one batch, and returns the index of the first entry.
    pub(crate) fn record(&self, statements: &[proto::Statement]) -> u64 {
        let appended = self.runtime.block_on(self.ledger.append(submissions(statements))).expect("recorded");
        appended.receipts[0].index
    }

    /// The CLI, through whoever stands before the server.
    pub(crate) fn tagledger(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tagledger"));
        command.current_dir(self.home.path()).env_clear().env("HOME", self.home.path()).env("TZ", "UTC");
        command.env("TAGLEDGER_SERVER", format!("127.0.0.1:{}", self.proxy.port)).stdin(Stdio::null());
        command.args(arguments).output().expect("tagledger starts")
    }

    /// Asks, expects an answer that verifies, also out of its file and without the server, and returns what was printed.
    pub(crate) fn holds(&self, code: i32, question: &[&str]) -> String {
        let printed = self.tagledger(&[question, &["--save", "held.json"]].concat());
        assert_eq!(printed.status.code(), Some(code), "{question:?}: {}", words(&printed));
        let again = self.tagledger(&["verify", "held.json"]);
        assert_eq!(again.status.code(), Some(code), "{question:?} out of its file: {}", words(&again));
        assert_eq!(again.stdout, printed.stdout, "{question:?} is answered alike out of its file");
        String::from_utf8(printed.stdout).expect("UTF-8")
    }

    /// Asks, and expects that the answer is refused for a reason, that nothing of it is shown, and nothing saved.
    pub(crate) fn refused(&self, question: &[&str], reason: &str) {
        let saved = self.home.path().join("refused.json");
        fs::write(&saved, BEFORE).expect("written");
        let printed = self.tagledger(&[question, &["--save", "refused.json"]].concat());
        let error = String::from_utf8_lossy(&printed.stderr);
        assert_eq!(printed.status.code(), Some(3), "{question:?}: {}", words(&printed));
        assert!(error.contains("VERIFICATION FAILED: "), "{question:?}: {error}");
        assert!(error.contains(reason), "{question:?} is refused for another reason than {reason:?}: {error}");
        assert!(printed.stdout.is_empty(), "{question:?}: {}", words(&printed));
        assert_eq!(fs::read_to_string(&saved).expect("still there"), BEFORE, "{question:?} is not saved");
        println!("{question:?} -> {}", error.trim());
        // What was served is kept aside, and refused again out of its file.
        if let Some((_, kept)) = error.trim().split_once("what was served is kept in ") {
            let again = self.tagledger(&["verify", kept]);
            assert_eq!(again.status.code(), Some(3), "{question:?} out of its file: {}", words(&again));
            assert!(String::from_utf8_lossy(&again.stderr).contains(reason), "{question:?}: {}", words(&again));
        }
    }

    /// Audits the log, and expects that nothing is found.
    pub(crate) fn is_audited(&self) {
        let printed = self.tagledger(&["audit"]);
        assert_eq!(printed.status.code(), Some(0), "{}", words(&printed));
    }

    /// Audits the log, and expects that a lie is found, and named.
    pub(crate) fn is_found_out(&self, lie: &str) {
        let printed = self.tagledger(&["audit"]);
        let error = String::from_utf8_lossy(&printed.stderr);
        assert_eq!(printed.status.code(), Some(3), "{}", words(&printed));
        let reason = error.lines().find(|line| line.contains("VERIFICATION FAILED: ")).expect("a reason");
        assert!(reason.contains(lie), "an audit finds another lie than {lie:?}: {error}");
        println!("audit -> {reason}");
    }

    /// A question that is answered honestly, then with a lie that is refused for a reason, and honestly again.
    pub(crate) fn catches(&self, question: &[&str], lie: impl FnOnce(&Self), reason: &str) {
        let code = self.tagledger(question).status.code().expect("it was not killed");
        assert!(code == 0 || code == 4, "{question:?} has an honest answer");
        let honest = self.holds(code, question);
        lie(self);
        self.refused(question, reason);
        self.repent();
        assert_eq!(self.holds(code, question), honest, "{question:?} is answered as before");
    }

    /// Nobody lies any more.
    pub(crate) fn repent(&self) {
        self.store.repent();
        self.proxy.forward();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop.take();
        self.runtime.block_on(self.ledger.close());
    }
}

/// What a command said.
pub(crate) fn words(printed: &Output) -> String {
    let [out, error] = [&printed.stdout, &printed.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{:?}\n{out}{error}", printed.status.code())
}
