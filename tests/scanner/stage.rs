//! A ledger, a fake registry, and a scanner between them that is fast enough for tests.

#![allow(dead_code, unreachable_pub, reason = "shared by the tests beside it")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tagledger::client::trust::TrustFolder;
use tagledger::edge::port::ScannerPort;
use tagledger::edge::registry::Settings as ClientSettings;
use tagledger::edge::scanner::{Finding, Kind, Report, ScanError, Scanner, Scope, Settings, Target};
use tagledger::edge::source::{Credentials, RegistryAccess};
use tagledger::ledger::entry::{Body, SignedEntry};
use tagledger::ledger::statement::Statement;
use tagledger::proto;
use tagledger::server::over_grpc::{OverGrpc, Shown};
use tokio::sync::watch;

use crate::fake::Fake;
use crate::world::{REGISTRY, World};

pub struct Stage {
    pub world: World,
    pub fake: Fake,
    pub folder: tempfile::TempDir,
    pub settings: Settings,
    pub credentials: Option<Credentials>,
    pub token_realm: Option<String>,
    pub include: Vec<String>,
}

impl Stage {
    pub async fn new() -> Self {
        let client = ClientSettings {
            timeout: Duration::from_millis(400),
            rate: Some(5000.0),
            attempts: 2,
            backoff: Duration::from_millis(10),
            longest_wait: Duration::from_secs(3),
            pages: 20,
            ..ClientSettings::default()
        };
        let pause = Duration::from_millis(60);
        let settings = Settings { client, parallel: 4, pause, looks: 4, silence: 4, ..Settings::default() };
        Self {
            world: World::new().await,
            fake: Fake::new().await,
            folder: tempfile::tempdir().expect("a folder"),
            settings,
            credentials: None,
            token_realm: None,
            include: Vec::new(),
        }
    }

    pub fn scanner(&self) -> Scanner<OverGrpc> {
        self.scanner_over(self.port())
    }

    /// The way to the ledger.
    pub fn port(&self) -> OverGrpc {
        let world = &self.world;
        let server = format!("http://{}", world.address).parse().expect("an address");
        let trust = TrustFolder::new(self.folder.path().join("trust"));
        let shown = Shown::token(world.token.clone().into());
        OverGrpc::new(server, trust, Some(world.vkey.clone()), shown, Duration::from_secs(10))
    }

    pub fn scanner_over<P: ScannerPort>(&self, port: P) -> Scanner<P> {
        let access = RegistryAccess {
            base: self.fake.url().parse().expect("a URL"),
            credentials: self.credentials.clone(),
            token_realm: self.token_realm.clone(),
        };
        let registry = REGISTRY.parse().expect("canonical");
        let scope = Scope::new(&registry, &self.include, &[]).expect("patterns");
        // The sender is dropped: nobody ever stops it.
        let (_, stop) = watch::channel(false);
        let state = self.folder.path().join("state");
        let settings = self.settings.clone();
        Scanner::new(port, Target { registry, access, scope }, settings, Some(&state), Arc::new(()), stop)
            .expect("a scanner")
    }

    /// One round of a scanner that starts anew, in bounded time.
    pub async fn scan(&self) -> Report {
        self.try_scan().await.expect("a round")
    }

    pub async fn try_scan(&self) -> Result<Report, ScanError> {
        let mut scanner = self.scanner();
        tokio::time::timeout(Duration::from_secs(20), scanner.round()).await.expect("a round ends")
    }

    /// What the ledger has of every tag of the fake registry is what that has.
    pub async fn agrees(&self) {
        for (repository, tag, digest) in self.fake.tags() {
            assert_eq!(self.world.bound(&repository, &tag).await, digest, "{repository}:{tag}");
        }
        self.world.check_ledger().await;
    }

    /// What was observed, with the record: outcome and index.
    pub async fn observations(&self) -> Vec<(proto::TagObserved, proto::Record)> {
        self.world.observations().await
    }

    pub fn state(&self) -> std::path::PathBuf {
        self.folder.path().join("state/scan.json")
    }
}

impl World {
    /// What a tag points to; empty: nothing.
    pub async fn bound(&self, repository: &str, tag: &str) -> String {
        let request = proto::ResolveTagRequest {
            registry: REGISTRY.into(),
            repository: repository.into(),
            tag: tag.into(),
            at_us: 0,
            without_evidence: true,
        };
        self.query().resolve_tag(request).await.expect("an answer").into_inner().digest
    }

    pub async fn records(&self) -> Vec<(proto::Record, Statement)> {
        let records = self.entries().await.into_iter().filter_map(|bytes| {
            match SignedEntry::decode(&bytes).expect("an entry").body {
                Body::Record(record, statement) => Some((*record, *statement)),
                Body::Commitment(_) => None,
            }
        });
        records.collect()
    }

    pub async fn observations(&self) -> Vec<(proto::TagObserved, proto::Record)> {
        let seen = |(record, statement): (proto::Record, Statement)| match statement.message.kind {
            Some(proto::statement::Kind::TagObserved(seen)) => Some((seen, record)),
            _ => None,
        };
        self.records().await.into_iter().filter_map(seen).collect()
    }
}

/// The findings of a report, as `kind tag`.
pub fn found(report: &Report) -> Vec<String> {
    let mut found: Vec<String> = report.findings.iter().map(words).collect();
    found.sort();
    found
}

fn words(finding: &Finding) -> String {
    let tag = finding.tag.rsplit_once('/').map_or(finding.tag.as_str(), |(_, tag)| tag);
    format!("{} {tag}", finding.kind.as_str())
}

/// The one finding of a report.
pub fn only(report: &Report, kind: Kind) -> &Finding {
    assert_eq!(report.findings.len(), 1, "{report:?}");
    assert_eq!(report.findings[0].kind, kind, "{report:?}");
    &report.findings[0]
}

pub fn is_there(path: &Path) -> bool {
    path.try_exists().expect("readable")
}
