//! A ledger on a server whose key is pinned, and its one append-only log.

use super::credentials::Connection;
use tonic::Code;

use super::error::{is_transient, visible};
use super::trust::{Remembered, TrustFolder};
use super::{ClientError, Credentials, Server};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::evidence::{EvidenceError, check_root, check_same_log, hashes};
use crate::ledger::merkle::Hash;
use crate::ledger::note::Vkey;
use crate::proto::append_service_client::AppendServiceClient;
use crate::proto::log_service_client::LogServiceClient;
use crate::proto::query_service_client::QueryServiceClient;
use crate::proto::{GetCheckpointRequest, GetConsistencyProofRequest, GetLedgerRequest};

/// Most bytes of one answer: a thousand states, each with three entries of up to 16 KiB and a proof.
const MAX_MESSAGE_LENGTH: usize = 64 * 1024 * 1024;

/// A server that presented the key pinned for it.
pub struct RemoteLedger {
    server: Server,
    channel: Connection,
    vkey: Vkey,
    trust: TrustFolder,
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
    /// another key than the pinned one is refused.
    pub async fn open(
        server: Server,
        credentials: Credentials,
        trust: TrustFolder,
        vkey: Option<Vkey>,
    ) -> Result<(Self, Pin), ClientError> {
        let channel = server.connect(credentials).await?;
        let answer = log_client(&channel).get_ledger(GetLedgerRequest {}).await?.into_inner();
        let presented: Vkey = answer.vkey.parse()?;
        let (pinned, is_new) = match vkey {
            Some(vkey) => (vkey, false),
            None => trust.pin(&server.to_string(), &presented)?,
        };
        if pinned != presented {
            return Err(ClientError::KeyChanged {
                server: server.to_string(),
                pinned: pinned.to_string(),
                presented: presented.to_string(),
                known_ledgers: trust.known_ledgers(),
            });
        }
        Ok((Self { server, channel, vkey: pinned, trust }, if is_new { Pin::New } else { Pin::Known }))
    }

    /// The pinned key.
    pub fn vkey(&self) -> &Vkey {
        &self.vkey
    }

    /// Where keys and checkpoints are kept, and what contradicts them.
    pub(super) fn trust_folder(&self) -> &TrustFolder {
        &self.trust
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
        let known = self.remembered()?;
        let note = self.log().get_checkpoint(GetCheckpointRequest {}).await?.into_inner().checkpoint;
        let checkpoint = self.observe(&note).await?;
        let behind = known.filter(|known| known.checkpoint.size > checkpoint.size);
        Ok((Remembered { note, checkpoint }, behind))
    }

    /// What is known of the log before it is asked. Other commands may learn more in the meantime; an answer need not.
    pub(super) fn remembered(&self) -> Result<Option<Remembered>, ClientError> {
        Ok(self.trust.checkpoint(&self.vkey)?)
    }

    /// The server is behind what it signed before. Keeps both checkpoints.
    pub(super) fn rollback(&self, known: &Remembered, seen: u64, note: &str) -> ClientError {
        match self.trust.keep_fork(self.vkey.origin(), known, note) {
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
        let seen = Checkpoint::open(note, &self.vkey)?;
        check_root(&seen).map_err(EvidenceError::from)?;
        loop {
            let remembered = self.trust.checkpoint(&self.vkey)?;
            if let Some(remembered) = &remembered {
                self.compare(remembered, &seen, note).await?;
                if seen.size <= remembered.checkpoint.size {
                    return Ok(seen);
                }
            }
            // Another command may have remembered something else in the meantime; then that is what counts.
            if self.trust.remember(&self.vkey, remembered.as_ref(), note)? {
                return Ok(seen);
            }
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
        let keep = || self.trust.keep_fork(self.vkey.origin(), remembered, note);
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
            return Err(ClientError::Fork { origin: self.vkey.origin().to_string(), error, kept: keep()? });
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
