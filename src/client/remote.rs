//! A ledger on a server whose key is pinned, and its one append-only log.

use std::sync::{Arc, PoisonError, RwLock};

use super::credentials::Connection;
use tonic::Code;

use super::error::{is_transient, visible};
use super::trust::{Remembered, TrustError, TrustFolder};
use super::{ClientError, Credentials, Server};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::evidence::{EvidenceError, check_root, check_same_log, hashes};
use crate::ledger::keys::{Chain, ChainError, Keys as _};
use crate::ledger::merkle::Hash;
use crate::ledger::note::{Origin, Vkey};
use crate::proto::append_service_client::AppendServiceClient;
use crate::proto::log_service_client::LogServiceClient;
use crate::proto::query_service_client::QueryServiceClient;
use crate::proto::{self, GetCheckpointRequest, GetConsistencyProofRequest, GetKeysRequest, GetLedgerRequest};

/// Most bytes of one answer: a thousand states, each with three entries of up to 16 KiB and a proof.
const MAX_MESSAGE_LENGTH: usize = 64 * 1024 * 1024;

/// A server that presented the key pinned for it, or one that followed.
pub struct RemoteLedger {
    server: Server,
    channel: Connection,
    known: RwLock<Known>,
    trust: TrustFolder,
}

/// The keys of the ledger, as far as they are known.
#[derive(Clone)]
struct Known {
    keys: Arc<Chain>,
    /// What shows how they followed each other, if they are several.
    shown: Option<Arc<proto::Evidence>>,
}

/// How the key of a server came to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// It was pinned before, or given by the caller.
    Known,
    /// It was pinned just now, on the server's word alone.
    New,
}

impl RemoteLedger {
    /// Connects. A server without a pinned key gets the one it presents pinned, or `vkey` if that is given; one that presents
    /// another key has to show that the pinned one announced it, or is refused.
    pub async fn open(
        server: Server,
        credentials: Credentials,
        trust: TrustFolder,
        vkey: Option<Vkey>,
    ) -> Result<(Self, Pin), ClientError> {
        let channel = server.connect(credentials).await?;
        let answer = log_client(&channel).get_ledger(GetLedgerRequest {}).await?.into_inner();
        let presented: Vkey = answer.vkey.parse()?;
        let (trusted, is_new) = match vkey {
            Some(vkey) => (vkey, false),
            None => match trust.pin(&server.to_string(), &presented) {
                // Pinned for another server of the log: that key may have announced this one.
                Err(TrustError::SeveralKeys { path, origin }) => match trust.key_of_origin(&origin)? {
                    Some(known) => (known, false),
                    None => return Err(TrustError::SeveralKeys { path, origin }.into()),
                },
                pinned => pinned?,
            },
        };
        let known = match trust.keys(&trusted)? {
            Some((keys, shown)) => Known { keys: Arc::new(keys), shown: Some(Arc::new(shown)) },
            None => Known { keys: Arc::new(Chain::of(trusted.clone())), shown: None },
        };
        let ledger = Self { server, channel, known: RwLock::new(known), trust };
        let changes = u64::try_from(ledger.keys().later().len()).expect("a chain is short");
        let is_known = ledger.keys().all().any(|key| *key == presented);
        if answer.key_changes > changes || (answer.key_changes > 0 && !is_known) {
            match ledger.follow().await {
                Err(ClientError::Keys { error, .. }) if matches!(*error, ChainError::Elsewhere(_)) => {}
                followed => drop(followed?),
            }
        }
        if !ledger.keys().all().any(|key| *key == presented) {
            return Err(ClientError::KeyChanged {
                server: ledger.server.to_string(),
                pinned: trusted.to_string(),
                presented: presented.to_string(),
                known_ledgers: ledger.trust.known_ledgers(),
            });
        }
        Ok((ledger, if is_new { Pin::New } else { Pin::Known }))
    }

    /// The key in force.
    pub fn vkey(&self) -> Vkey {
        self.keys().newest().clone()
    }

    /// The keys of the ledger, as far as they were followed from the pinned one.
    pub fn keys(&self) -> Arc<Chain> {
        Arc::clone(&self.known().keys)
    }

    /// What shows how they followed each other, if they are several.
    pub fn shown_keys(&self) -> Option<proto::Evidence> {
        self.known().shown.as_deref().cloned()
    }

    fn known(&self) -> Known {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks which keys the ledger had, and follows them from the trusted one. True: there are more than were known.
    pub async fn follow(&self) -> Result<bool, ClientError> {
        let mut evidence = match self.log().get_keys(GetKeysRequest {}).await {
            // It is older than the first change of a key could be.
            Err(status) if status.code() == Code::Unimplemented => return Ok(false),
            response => response?.into_inner().evidence.ok_or(ClientError::Incomplete("evidence"))?,
        };
        let before = self.known();
        let (known, server) = (&before.keys, self.server.to_string());
        // Where the newest is not among them, they may part from what is known: then that is what to say.
        let shown = Chain::follow(&evidence, known.newest()).or_else(|error| match error {
            ChainError::Elsewhere(_) => Chain::follow(&evidence, known.first()).map_err(|_| error),
            error => Err(error),
        });
        let shown = shown.map_err(|error| ClientError::Keys { server, error: Box::new(error) })?;
        let mut keys = shown.longer((**known).clone())?;
        // Another command may have come further already; and what it kept counts as what is known here does.
        if let Some((kept, shown)) = self.trust.keys(known.newest())? {
            let longest = keys.clone().longer(kept)?;
            if longest != keys {
                (keys, evidence) = (longest, shown);
            }
        }
        if keys == **known {
            return Ok(false);
        }
        let after = Known { keys: Arc::new(keys.clone()), shown: Some(Arc::new(evidence.clone())) };
        self.know(after);
        // The log that shows them is the one that was seen before.
        let seen = Checkpoint::open(&evidence.checkpoint, &keys)?;
        let remembered = self.trust.checkpoint(&keys);
        let compared = match remembered {
            Ok(remembered) => self.remember(&seen, &evidence.checkpoint, remembered).await,
            Err(error @ TrustError::Retired { .. }) => {
                let kept = self.trust.keep_keys_as_proof(keys.first().origin(), &evidence);
                Err(kept.err().unwrap_or(error).into())
            }
            Err(error) => Err(error.into()),
        };
        if let Err(error) = compared {
            self.know(before);
            return Err(error);
        }
        self.trust.keep_keys(&keys, &evidence)?;
        Ok(true)
    }

    fn know(&self, known: Known) {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// Checks something under the keys that are known, and once more if the ledger has announced others since.
    pub(super) async fn checked<T, E>(
        &self,
        check: impl Fn(&Chain) -> Result<T, E>,
    ) -> Result<Result<T, E>, ClientError> {
        let refused = match check(&self.keys()) {
            Ok(held) => return Ok(Ok(held)),
            Err(refused) => refused,
        };
        match self.follow().await {
            Ok(true) => Ok(check(&self.keys())),
            Err(error) if error.is_verification() => Err(error),
            // It was gone before it could say. Nobody knows whether what was refused is by a key that it announced.
            Err(error @ ClientError::Call(_)) if error.is_broken_connection() => Err(error),
            // What was refused counts, and not that there was no news.
            Ok(false) | Err(_) => Ok(Err(refused)),
        }
    }

    pub(super) async fn opened(&self, note: &str) -> Result<Checkpoint, ClientError> {
        Ok(self.checked(|keys| Checkpoint::open(note, keys)).await??)
    }

    /// Where keys and checkpoints are kept, and what contradicts them.
    pub(super) fn trust_folder(&self) -> &TrustFolder {
        &self.trust
    }

    fn origin(&self) -> Origin {
        self.keys().first().origin().clone()
    }

    /// Where it is served.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The newest checkpoint, once it is of the log that is remembered, and not older.
    pub async fn checkpoint(&self) -> Result<Remembered, ClientError> {
        let (mut newest, mut behind) = self.checkpoint_once().await?;
        if behind.is_some() {
            (newest, behind) = self.checkpoint_once().await?;
        }
        match behind {
            None => Ok(newest),
            Some(known) => Err(self.rollback(&known, newest.checkpoint.size, &newest.note)),
        }
    }

    /// The checkpoint that the server calls its newest, and the larger one that was remembered before, if there is one.
    async fn checkpoint_once(&self) -> Result<(Remembered, Option<Remembered>), ClientError> {
        let known = self.remembered().await?;
        let note = self.log().get_checkpoint(GetCheckpointRequest {}).await?.into_inner().checkpoint;
        let checkpoint = self.observe(&note).await?;
        let behind = known.filter(|known| known.checkpoint.size > checkpoint.size);
        Ok((Remembered { note, checkpoint }, behind))
    }

    /// What is known of the log before it is asked. Other commands may learn more in the meantime; an answer need not.
    pub(super) async fn remembered(&self) -> Result<Option<Remembered>, ClientError> {
        // Another command may have followed the ledger to a key that is not known here.
        Ok(self.checked(|keys| self.trust.checkpoint(keys)).await??)
    }

    /// The server is behind what it signed before. Keeps both checkpoints.
    pub(super) fn rollback(&self, known: &Remembered, seen: u64, note: &str) -> ClientError {
        match self.trust.keep_fork(&self.origin(), known, note) {
            Err(error) => error.into(),
            Ok(kept) => {
                let (server, remembered) = (self.server.to_string(), known.checkpoint.size);
                ClientError::Rollback { server, seen, remembered, kept }
            }
        }
    }

    /// Demands that a checkpoint is of the same log as the remembered one, and remembers the larger of them. Nothing that
    /// rests on a checkpoint may be shown before.
    pub(super) async fn observe(&self, note: &str) -> Result<Checkpoint, ClientError> {
        let seen = self.opened(note).await?;
        let remembered = self.remembered().await?;
        self.remember(&seen, note, remembered).await?;
        Ok(seen)
    }

    async fn remember(
        &self,
        seen: &Checkpoint,
        note: &str,
        mut remembered: Option<Remembered>,
    ) -> Result<(), ClientError> {
        check_root(seen).map_err(EvidenceError::from)?;
        loop {
            if let Some(remembered) = &remembered {
                self.compare(remembered, seen, note).await?;
                if seen.size <= remembered.checkpoint.size {
                    return Ok(());
                }
            }
            // Another command may have remembered something else in the meantime; then that is what counts.
            if self.trust.remember(&*self.keys(), remembered.as_ref(), note)? {
                return Ok(());
            }
            remembered = self.trust.checkpoint(&*self.keys())?;
        }
    }

    /// Demands that two checkpoints are of one log, `seen` not behind what was `remembered`.
    pub(super) async fn compare(
        &self,
        remembered: &Remembered,
        seen: &Checkpoint,
        note: &str,
    ) -> Result<(), ClientError> {
        let known = &remembered.checkpoint;
        let keep = || self.trust.keep_fork(&self.origin(), remembered, note);
        let rollback = || self.rollback(remembered, seen.size, note);
        let proof = match self.growth(known.size, seen.size).await {
            Ok(proof) => proof,
            // It cannot prove what it does not have: it is behind what it signed before.
            Err(GrowthError::Refused(_)) if seen.size < known.size => return Err(rollback()),
            Err(GrowthError::Refused(reason)) => {
                let (older, newer) = (known.size, seen.size);
                return Err(ClientError::Unproven { older, newer, reason });
            }
            Err(GrowthError::Failed(error)) => return Err(error),
        };
        if let Err(error) = check_same_log(known, seen, &proof) {
            return Err(ClientError::Fork { origin: self.origin().to_string(), error, kept: keep()? });
        }
        // An empty log is a prefix of every other; still it is behind.
        if seen.size == 0 && known.size > 0 { Err(rollback()) } else { Ok(()) }
    }

    /// The consistency proof between two sizes, in whatever order; empty where none exists.
    pub(super) async fn growth(&self, one: u64, other: u64) -> Result<Vec<Hash>, GrowthError> {
        let (first, second) = (one.min(other), one.max(other));
        if first == 0 || first == second {
            return Ok(Vec::new());
        }
        let request = GetConsistencyProofRequest { first, second };
        match self.log().get_consistency_proof(request).await {
            Ok(response) => hashes(&response.into_inner().hashes).map_err(|error| GrowthError::Failed(error.into())),
            // Whoever may not ask was not refused a proof.
            Err(status)
                if is_transient(&status) || matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied) =>
            {
                Err(GrowthError::Failed(status.into()))
            }
            Err(status) => Err(GrowthError::Refused(visible(status.message()))),
        }
    }

    pub(super) fn channel(&self) -> Connection {
        self.channel.clone()
    }

    pub(super) fn log(&self) -> LogServiceClient<Connection> {
        log_client(&self.channel)
    }

    pub(super) fn queries(&self) -> QueryServiceClient<Connection> {
        QueryServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_LENGTH)
    }

    pub(super) fn appends(&self) -> AppendServiceClient<Connection> {
        AppendServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_LENGTH)
    }
}

/// Why there is no consistency proof.
pub(super) enum GrowthError {
    /// The server answered that it has none.
    Refused(String),
    /// It did not answer, or not in the form of a proof.
    Failed(ClientError),
}

impl GrowthError {
    /// Where a proof between two checkpoints of one answer is missing.
    pub(super) fn between(self, one: u64, other: u64) -> ClientError {
        match self {
            Self::Refused(reason) => ClientError::Unproven { older: one.min(other), newer: one.max(other), reason },
            Self::Failed(error) => error,
        }
    }
}

fn log_client(channel: &Connection) -> LogServiceClient<Connection> {
    LogServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_LENGTH)
}
