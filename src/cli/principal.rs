//! `principal`: who may state what. Shows it as the log proves it, and changes it by statements like any other.
//!
//! A token is made here, from the system's randomness, and shown once; only its hash leaves this program. What is changed is one
//! principal as a whole, so `rotate` first asks for what it is now.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::json::{place, time};
use super::record::{Sent, usage};
use super::show::words;
use super::table::Rows;
use super::when::{Moment, moment};
use super::{Answering, Ending, Failure, Globals, Outcome, print, show};
use crate::client::{Receipt, RemoteLedger};
use crate::ledger::answer::{Finding, Place, PrincipalsAt, Question};
use crate::ledger::note::Vkey;
use crate::ledger::principals::authority::role_word;
use crate::ledger::principals::{Change, Principal};
use crate::ledger::signature::key_id;
use crate::proto::{self, principal_change, statement::Kind};

/// Show and change who may state what
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Changing takes the role admin; the first admin is \"operator\", with the token in the server's data directory."
)]
pub(super) enum Command {
    /// List who may state what, now or at a time
    List(List),
    /// Show one principal, and how it came to be so
    Show(Show),
    /// Add a principal, and make its token
    Add(Box<Add>),
    /// Give a principal new credentials, or take old ones
    Rotate(Box<Rotate>),
    /// Revoke a principal: what it stated stays, and stays verifiable
    Revoke(Revoke),
}

/// List who may state what, now or at a time
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tagledger principal list --time \"3 days ago\"\n\nExits 4 if nobody was ever named."
)]
pub(super) struct List {
    /// At which recorded time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "now", hide_default_value = true)]
    time: Moment,
    #[command(flatten)]
    answering: Answering,
}

/// Show one principal, and how it came to be so
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tagledger principal show ci\n\nExits 4 if nobody is called so.")]
pub(super) struct Show {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// At which recorded time [default: now]
    #[arg(long, value_name = "TIME", value_parser = moment, default_value = "now", hide_default_value = true)]
    time: Moment,
    #[command(flatten)]
    answering: Answering,
}

/// Add a principal, and make its token
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tagledger principal add ci --role writer --repository \"registry.example/team/**\" --token-out ci.token\n  \
    tagledger principal add scanner --role scanner --role reader --repository \"registry.example/**\"\n  \
    tagledger principal add release --role writer --repository \"**\" --require certificate,signature \\\n    \
    --certificate-name release.example --public-key \"$(cat release.vkey)\"\n\n\
    The token is printed once, and nobody can read it from the ledger. Patterns: * within a component, ** across them, ?, {a,b}.")]
pub(super) struct Add {
    /// Its name, as entries will carry it
    #[arg(value_name = "NAME")]
    name: String,
    /// What it may do; may be repeated
    #[arg(long = "role", value_enum, required = true, value_delimiter = ',')]
    roles: Vec<Role>,
    /// Repositories that a writer or scanner may speak for, a pattern of registry/repository; may be repeated
    #[arg(long = "repository", value_name = "PATTERN")]
    repositories: Vec<String>,
    /// Only these kinds of statement [default: all that the role allows]
    #[arg(long = "kind", value_enum, value_delimiter = ',')]
    kinds: Vec<StatementKind>,
    /// What it must show, all of it together [default: token]
    #[arg(long = "require", value_enum, value_delimiter = ',')]
    requires: Vec<Credential>,
    /// A name in its client certificate; may be repeated
    #[arg(long = "certificate-name", value_name = "NAME")]
    certificate_names: Vec<String>,
    /// A key it signs statements with, in signed-note form; may be repeated
    #[arg(long = "public-key", value_name = "VKEY")]
    keys: Vec<Vkey>,
    /// Let it be this from now on, if there is such a principal already
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    made: Made,
    #[command(flatten)]
    sent: Sent,
}

/// Give a principal new credentials, or take old ones
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    tagledger principal rotate ci --token-out new.token          # both tokens are good\n  \
    tagledger principal rotate ci --keep-only new.token          # the new one alone\n  \
    tagledger principal rotate ci --drop-tokens                  # a new one, and no other from now on\n  \
    tagledger principal rotate ci --add-key \"$(cat new.vkey)\" --drop-key 0123456789abcdef")]
pub(super) struct Rotate {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    /// Make a new token, and take all others
    #[arg(long, conflicts_with = "keep_only")]
    drop_tokens: bool,
    /// Make no token; take all but the one in this file
    #[arg(long, value_name = "FILE", conflicts_with = "token_out")]
    keep_only: Option<PathBuf>,
    /// A key more, in signed-note form; may be repeated
    #[arg(long = "add-key", value_name = "VKEY")]
    add_keys: Vec<Vkey>,
    /// A key less, by its id; may be repeated
    #[arg(long = "drop-key", value_name = "KEY_ID")]
    drop_keys: Vec<String>,
    /// A name in its client certificate more; may be repeated
    #[arg(long = "add-certificate-name", value_name = "NAME")]
    add_certificate_names: Vec<String>,
    /// A name in its client certificate less; may be repeated
    #[arg(long = "drop-certificate-name", value_name = "NAME")]
    drop_certificate_names: Vec<String>,
    #[command(flatten)]
    made: Made,
    #[command(flatten)]
    sent: Sent,
}

/// Revoke a principal: what it stated stays, and stays verifiable
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tagledger principal revoke ci\n\nThe last principal with the role admin can't be revoked."
)]
pub(super) struct Revoke {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    sent: Sent,
}

/// Where a new token goes.
#[derive(Debug, Args)]
struct Made {
    /// Write the token into this new file, readable by you alone, instead of printing it
    #[arg(long, value_name = "FILE")]
    token_out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Reader,
    Writer,
    Scanner,
    Admin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Credential {
    Token,
    Certificate,
    Signature,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StatementKind {
    Push,
    Delete,
    DeleteDigest,
    Observe,
    Deploy,
    Attest,
}

impl Role {
    fn on_wire(self) -> i32 {
        match self {
            Self::Reader => proto::Role::Reader,
            Self::Writer => proto::Role::Writer,
            Self::Scanner => proto::Role::Scanner,
            Self::Admin => proto::Role::Admin,
        }
        .into()
    }
}

impl Credential {
    fn on_wire(self) -> i32 {
        match self {
            Self::Token => proto::Credential::Token,
            Self::Certificate => proto::Credential::Certificate,
            Self::Signature => proto::Credential::Signature,
        }
        .into()
    }
}

impl StatementKind {
    fn on_wire(self) -> i32 {
        match self {
            Self::Push => proto::StatementKind::TagPush,
            Self::Delete => proto::StatementKind::TagDelete,
            Self::DeleteDigest => proto::StatementKind::ManifestDelete,
            Self::Observe => proto::StatementKind::TagObserved,
            Self::Deploy => proto::StatementKind::Deployment,
            Self::Attest => proto::StatementKind::Attestation,
        }
        .into()
    }
}

impl Command {
    pub(super) async fn run(self, globals: &Globals) -> Outcome {
        match self {
            Self::List(list) => {
                globals.answer(Question::Principals { at_us: list.time.as_us() }, &list.answering).await
            }
            Self::Show(show) => show.run(globals).await,
            Self::Add(add) => add.run(globals).await,
            Self::Rotate(rotate) => rotate.run(globals).await,
            Self::Revoke(revoke) => revoke.run(globals).await,
        }
    }
}

impl Show {
    async fn run(self, globals: &Globals) -> Outcome {
        let (answer, claimed) = globals.open().await?.ask(Question::Principals { at_us: self.time.as_us() }).await?;
        self.answering.keep(&claimed)?;
        let Finding::Principals(found) = &answer.finding else { return Ok(Ending::Absent) };
        if self.answering.output.json {
            let mut document = super::json::answer(&answer);
            let known = found.principals.get(&self.name);
            document["principal"] = known.map_or(Value::Null, |principal| principal_json(principal, found));
            print(&super::json::text(&document))?;
        } else {
            let mut text = one(&self.name, found);
            for version in &found.history.versions {
                let entry = answer.entries.get(version.place.index).map(|entry| &entry.body);
                if let Some(crate::ledger::entry::Body::Record(record, statement)) = entry
                    && matches!(&statement.kind, crate::ledger::statement::Kind::PrincipalChange { change } if change.name() == self.name)
                {
                    text.push_str(&show::change_line(version.place, record, statement));
                }
            }
            print(&(text + &show::verdict(&answer.verdict())))?;
        }
        Ok(if found.principals.get(&self.name).is_some() { Ending::Answered } else { Ending::Absent })
    }
}

impl Add {
    async fn run(self, globals: &Globals) -> Outcome {
        let mut requires: Vec<i32> = self.requires.iter().map(|credential| credential.on_wire()).collect();
        if requires.is_empty() {
            requires.push(proto::Credential::Token.into());
        }
        let token = requires.contains(&proto::Credential::Token.into()).then(Token::new);
        if token.is_none() && self.made.token_out.is_some() {
            return Err(usage("no token is made where none is required; leave --token-out out"));
        }
        let speaks = self.roles.iter().any(|role| matches!(role, Role::Writer | Role::Scanner));
        if speaks && self.repositories.is_empty() {
            return Err(usage("for which repositories? give patterns with --repository; \"**\" is all of them"));
        }
        let grant = proto::Grant {
            repositories: sorted(self.repositories.clone()),
            kinds: sorted(self.kinds.iter().map(|kind| kind.on_wire()).collect()),
        };
        let has_grant = speaks || !self.repositories.is_empty() || !self.kinds.is_empty();
        let principal = proto::Principal {
            roles: sorted(self.roles.iter().map(|role| role.on_wire()).collect()),
            grants: has_grant.then_some(grant).into_iter().collect(),
            requires: sorted(requires),
            token_sha256: token.iter().map(|token| token.sha256().to_vec()).collect(),
            certificate_names: sorted(self.certificate_names.clone()),
            keys: sorted(self.keys.iter().map(Vkey::to_string).collect()),
        };
        let ledger = globals.open().await?;
        if !self.replace && known(&ledger).await?.principals.get(&self.name).is_some() {
            let message = format!(
                "principal {:?} is there already; rotate gives it new credentials, --replace makes it another",
                self.name
            );
            return Err(Failure::Operational(message));
        }
        change(&ledger, &self.name, principal, token, &self.made, &self.sent).await
    }
}

impl Rotate {
    async fn run(self, globals: &Globals) -> Outcome {
        let ledger = globals.open().await?;
        let found = known(&ledger).await?;
        let Some(principal) = found.principals.get(&self.name) else {
            return Err(Failure::Operational(format!("principal {:?} is not known", self.name)));
        };
        let mut message = on_wire(principal);
        let changes_others = !(self.add_keys.is_empty()
            && self.drop_keys.is_empty()
            && self.add_certificate_names.is_empty()
            && self.drop_certificate_names.is_empty());
        let mut token = None;
        if let Some(path) = &self.keep_only {
            let hash = Sha256::digest(super::secret(path)?.trim().as_bytes()).to_vec();
            if !message.token_sha256.contains(&hash) {
                let message = format!("{} holds no token of principal {:?}", path.display(), self.name);
                return Err(Failure::Operational(message));
            }
            message.token_sha256 = vec![hash];
        } else if self.drop_tokens || self.made.token_out.is_some() || !changes_others {
            let made = Token::new();
            if self.drop_tokens {
                message.token_sha256.clear();
            }
            message.token_sha256.push(made.sha256().to_vec());
            token = Some(made);
        }
        for id in &self.drop_keys {
            let before = message.keys.len();
            message.keys.retain(|text| text.parse::<Vkey>().map_or(true, |vkey| key_id(vkey.key()) != *id));
            if message.keys.len() == before {
                return Err(Failure::Operational(format!("principal {:?} has no key {id:?}", self.name)));
            }
        }
        message.keys.extend(self.add_keys.iter().map(Vkey::to_string));
        for name in &self.drop_certificate_names {
            let before = message.certificate_names.len();
            message.certificate_names.retain(|known| known != name);
            if message.certificate_names.len() == before {
                let message = format!("principal {:?} has no name of a certificate {name:?}", self.name);
                return Err(Failure::Operational(message));
            }
        }
        message.certificate_names.extend(self.add_certificate_names.iter().cloned());
        message.keys = sorted(std::mem::take(&mut message.keys));
        message.certificate_names = sorted(std::mem::take(&mut message.certificate_names));
        message.token_sha256 = sorted(std::mem::take(&mut message.token_sha256));
        change(&ledger, &self.name, message, token, &self.made, &self.sent).await
    }
}

impl Revoke {
    async fn run(self, globals: &Globals) -> Outcome {
        let ledger = globals.open().await?;
        let change = Some(principal_change::Change::Revocation(proto::Revocation {}));
        let change = proto::PrincipalChange { name: self.name.clone(), change };
        let receipt = self.sent.send_to(&ledger, Kind::PrincipalChange(change)).await?;
        show::receipt(&receipt, self.sent.output())
    }
}

/// A new token, which nobody knows yet.
struct Token(Zeroizing<String>);

impl Token {
    fn new() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).expect("the system has randomness");
        Self(Zeroizing::new(BASE64.encode(*bytes)))
    }

    fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// Into a file that was not there, and that only its owner reads.
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let failed =
            |error| Failure::Operational(format!("cannot write {}: {error}; nothing was changed", path.display()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
        let line = Zeroizing::new(format!("{}\n", *self.0));
        file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }
}

/// Records what a principal is from now on. The token is on disk before its hash is in the log, if it is to be in a file.
async fn change(
    ledger: &RemoteLedger,
    name: &str,
    principal: proto::Principal,
    token: Option<Token>,
    made: &Made,
    sent: &Sent,
) -> Outcome {
    let change = Some(principal_change::Change::Principal(principal));
    let kind = Kind::PrincipalChange(proto::PrincipalChange { name: name.to_owned(), change });
    sent.check(kind.clone())?;
    if let (Some(token), Some(path)) = (&token, &made.token_out) {
        token.write(path)?;
    }
    let receipt = match sent.send_to(ledger, kind).await {
        Ok(receipt) => receipt,
        Err(failure) => {
            // It may be recorded all the same, and the old credentials gone: then this is the only way in.
            match (&token, &made.token_out) {
                (Some(_), Some(path)) => eprintln!(
                    "tagledger: keep {}: if the change is recorded all the same, the token in it is the one that counts",
                    path.display()
                ),
                (Some(token), None) => eprintln!(
                    "tagledger: if the change is recorded all the same, this token of {name} is the one that counts: {}",
                    *token.0
                ),
                (None, _) => {}
            }
            return Err(failure);
        }
    };
    tell(&receipt, token.filter(|_| made.token_out.is_none()).as_ref(), sent)
}

/// The receipt, and before it the token, once.
fn tell(receipt: &Receipt, token: Option<&Token>, sent: &Sent) -> Outcome {
    let Some(token) = token else { return show::receipt(receipt, sent.output()) };
    if sent.output().json {
        let mut document = super::json::receipt(receipt);
        document["token"] = token.0.as_str().into();
        print(&super::json::text(&document))?;
        return Ok(Ending::Answered);
    }
    let shown = print(&format!("token  {}\n\nIt is shown this once; the ledger keeps its hash.\n\n", *token.0));
    if shown.is_err() {
        eprintln!("tagledger: the token, which is nowhere else: {}", *token.0);
    }
    shown?;
    show::receipt(receipt, sent.output())
}

async fn known(ledger: &RemoteLedger) -> Result<PrincipalsAt, Failure> {
    let (answer, _) = ledger.ask(Question::Principals { at_us: 0 }).await?;
    match answer.finding {
        Finding::Principals(found) => Ok(found),
        _ => Err(Failure::Operational("the answer is not about principals".to_owned())),
    }
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort();
    values.dedup();
    values
}

fn on_wire(principal: &Principal) -> proto::Principal {
    let grant = |grant: &crate::ledger::principals::change::Grant| proto::Grant {
        repositories: grant.patterns().map(str::to_owned).collect(),
        kinds: grant.kinds().iter().map(|kind| i32::from(*kind)).collect(),
    };
    proto::Principal {
        roles: principal.roles().iter().map(|role| i32::from(*role)).collect(),
        grants: principal.grants().iter().map(grant).collect(),
        requires: principal.requires().iter().map(|credential| i32::from(*credential)).collect(),
        token_sha256: principal.tokens().iter().map(|hash| hash.to_vec()).collect(),
        certificate_names: principal.certificate_names().to_vec(),
        keys: principal.keys().iter().map(Vkey::to_string).collect(),
    }
}

fn credential_word(credential: proto::Credential) -> &'static str {
    match credential {
        proto::Credential::Unspecified => "nothing",
        proto::Credential::Token => "token",
        proto::Credential::Certificate => "certificate",
        proto::Credential::Signature => "signature",
    }
}

fn kind_word(kind: proto::StatementKind) -> &'static str {
    match kind {
        proto::StatementKind::Unspecified => "nothing",
        proto::StatementKind::TagPush => "push",
        proto::StatementKind::TagDelete => "delete",
        proto::StatementKind::ManifestDelete => "delete-digest",
        proto::StatementKind::TagObserved => "observe",
        proto::StatementKind::Deployment => "deploy",
        proto::StatementKind::Attestation => "attest",
    }
}

fn roles(principal: &Principal) -> String {
    principal.roles().iter().map(|role| role_word(*role)).collect::<Vec<_>>().join(", ")
}

fn requires(principal: &Principal) -> String {
    principal.requires().iter().map(|credential| credential_word(*credential)).collect::<Vec<_>>().join(" and ")
}

fn grants(principal: &Principal) -> Vec<String> {
    let words = |grant: &crate::ledger::principals::change::Grant| {
        let patterns = grant.patterns().collect::<Vec<_>>().join(" ");
        let kinds = grant.kinds().iter().map(|kind| kind_word(*kind)).collect::<Vec<_>>().join(", ");
        if kinds.is_empty() { patterns } else { format!("{patterns} ({kinds} only)") }
    };
    principal.grants().iter().map(words).collect()
}

fn since(place: Option<&Place>) -> String {
    place.map_or(String::new(), |place| format!("entry {}, {}", place.index, words(place.recorded_at_us)))
}

/// Everybody, a row each.
pub(super) fn table(found: &PrincipalsAt) -> String {
    if found.principals.is_empty() {
        return "no principals: nobody was ever named, and what was recorded is not judged by who stated it\n"
            .to_owned();
    }
    let mut rows = Rows::new(&["NAME", "ROLES", "SPEAKS FOR", "SHOWS", "SINCE"]);
    for principal in found.principals.iter() {
        let speaks_for = match grants(principal).join("; ") {
            none if none.is_empty() => "-".to_owned(),
            grants => grants,
        };
        let name = principal.name();
        rows.add([name.to_owned(), roles(principal), speaks_for, requires(principal), since(found.set_by.get(name))]);
    }
    rows.text()
}

/// One of them, in full.
fn one(name: &str, found: &PrincipalsAt) -> String {
    let Some(principal) = found.principals.get(name) else {
        return format!("{name:?} is nobody: never named, or revoked\n");
    };
    let mut rows = Rows::list();
    rows.field("principal", name);
    rows.field("roles", roles(principal));
    for grant in grants(principal) {
        rows.field("speaks for", grant);
    }
    rows.field("shows", requires(principal));
    for hash in principal.tokens() {
        rows.field("token hash", hex::encode(hash));
    }
    for name in principal.certificate_names() {
        rows.field("certificate", name);
    }
    for vkey in principal.keys() {
        rows.field("key", format!("{} {vkey}", key_id(vkey.key())));
    }
    rows.field("since", since(found.set_by.get(name)));
    rows.text()
}

/// Everybody, for programs.
pub(super) fn json(found: &PrincipalsAt, history: Value) -> Value {
    json!({
        "principals": found.principals.iter().map(|principal| principal_json(principal, found)).collect::<Vec<_>>(),
        "digest": found.principals.digest().as_str(),
        "history": history,
    })
}

fn principal_json(principal: &Principal, found: &PrincipalsAt) -> Value {
    let mut document = definition_json(principal);
    document["set_by"] = found.set_by.get(principal.name()).map_or(Value::Null, place);
    document["since"] = found.set_by.get(principal.name()).map_or(Value::Null, |place| time(place.recorded_at_us));
    document
}

fn definition_json(principal: &Principal) -> Value {
    let grant = |grant: &crate::ledger::principals::change::Grant| {
        json!({
            "repositories": grant.patterns().collect::<Vec<_>>(),
            "kinds": grant.kinds().iter().map(|kind| kind_word(*kind)).collect::<Vec<_>>(),
        })
    };
    json!({
        "name": principal.name(),
        "roles": principal.roles().iter().map(|role| role_word(*role)).collect::<Vec<_>>(),
        "grants": principal.grants().iter().map(grant).collect::<Vec<_>>(),
        "requires": principal.requires().iter().map(|credential| credential_word(*credential)).collect::<Vec<_>>(),
        "token_sha256": principal.tokens().iter().map(hex::encode).collect::<Vec<_>>(),
        "certificate_names": principal.certificate_names(),
        "keys": principal.keys().iter().map(Vkey::to_string).collect::<Vec<_>>(),
    })
}

/// What a statement makes of a principal.
pub(super) fn change_json(change: &Change) -> Value {
    match change.principal() {
        Some(principal) => definition_json(principal),
        None => json!({ "name": change.name(), "revoked": true }),
    }
}

/// What a statement makes of a principal, in words.
pub(super) fn change_rows(rows: &mut Rows, change: &Change) {
    let Some(principal) = change.principal() else { return };
    rows.field("roles", roles(principal));
    for grant in grants(principal) {
        rows.field("speaks for", grant);
    }
    rows.field("shows", requires(principal));
}
