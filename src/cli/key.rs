//! `key`: which keys the ledger had, and that it is to have another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use prost::Message as _;
use serde_json::json;

use super::record::{Sent, usage};
use super::table::Rows;
use super::{Ending, Globals, Outcome, Output, json, print, show};
use crate::ledger::keys::Keys as _;
use crate::proto::{self, statement::Kind};

/// Show the ledger's keys, and announce another one
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show which key signed which entries, followed from the pinned one
    Show(Show),
    /// Announce, in the log, that the ledger signs with another key from now on
    Announce(Box<Announce>),
}

/// Show which key signed which entries, followed from the pinned one
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tagledger key show\n\n\
    Each key is announced by an entry that the key before it signed, and consents to it. The keys are kept in the trust \
    folder, and the newest is pinned in place of the one that was.")]
pub(super) struct Show {
    #[command(flatten)]
    output: Output,
}

/// Announce, in the log, that the ledger signs with another key from now on
#[derive(Debug, Args)]
#[command(
    after_help = "Example, on the ledger's machine and then as an admin:\n  tagledgerd key prepare --data-dir ./ledger\n  \
    tagledger key announce CmsK…\n\n\
    Takes the role admin. The ledger refuses a change that does not replace the key in force, and a key that it does not have."
)]
pub(super) struct Announce {
    /// What `tagledgerd key prepare` printed
    #[arg(value_name = "CHANGE")]
    change: String,
    #[command(flatten)]
    sent: Sent,
}

impl Command {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        match self {
            Self::Show(show) => show.run(globals).await,
            Self::Announce(announce) => announce.run(globals).await,
        }
    }
}

impl Show {
    async fn run(self, globals: &Globals) -> Outcome {
        let ledger = globals.open().await?;
        let newest = ledger.checkpoint().await?;
        let (keys, size) = (ledger.keys(), newest.checkpoint.size);
        if self.output.json {
            print(&json::text(&json!({ "keys": json::keys(&keys), "size": size })))?;
            return Ok(Ending::Answered);
        }
        let ends = keys.later().iter().map(|link| link.from).chain([size]);
        let mut rows = Rows::list();
        let mut from = 0;
        for (vkey, end) in keys.all().zip(ends) {
            let entries = if from < end { format!("entries {from} to {}", end - 1) } else { "no entry yet".to_owned() };
            rows.field(&entries, vkey);
            from = end;
        }
        let (origin, words, succession) = (keys.first().origin(), keys.words(size), keys.succession(size));
        print(&format!("{}\nverified: the log of {origin} ({words}){succession}\n", rows.text()))?;
        Ok(Ending::Answered)
    }
}

impl Announce {
    async fn run(self, globals: &Globals) -> Outcome {
        let bytes = BASE64.decode(self.change.trim()).ok();
        let change = bytes.and_then(|bytes| proto::KeyChange::decode(bytes.as_slice()).ok());
        let change = change.ok_or_else(|| usage("this is not what `tagledgerd key prepare` printed"))?;
        let ledger = globals.open().await?;
        let receipt = self.sent.send_to(&ledger, Kind::KeyChange(change)).await?;
        // The key that is in force now is pinned in place of the one before.
        ledger.follow().await?;
        show::receipt(&receipt, self.sent.output())
    }
}
