//! Who is calling: from a bearer token, a client certificate, or, for those who need nothing else, a statement's signature.
//!
//! Callers are let in by the principals in force now. Between this and the moment their statement is recorded the principals may
//! change, so the sequencer looks again at what was shown ([`crate::engine::plan`]).
//!
//! Only the SHA-256 of a token is known here. Tokens are long and random, so a plain hash is enough, and comparing all of them
//! in constant time tells nobody how close a guess was.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::failures::{Failures, Reason};
use super::limits::{Limit, LimitSettings, Limits};
use crate::ledger::principals::authority::{Shown, Unauthorized};
use crate::ledger::principals::{Principal, Principals};
use crate::ledger::signature::{self, statement_message};
use crate::ledger::statement::Violation;
use crate::proto::{self, Credential, Role};

/// Probes that are answered at once, half of them at most of callers without credentials, as all are; and of one address.
const PROBES: usize = 2048;
const PROBES_OF_AN_ADDRESS: u32 = 64;

/// Who is at the other end of a connection, as far as the connection tells. Every request carries it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// From where.
    pub address: IpAddr,
    /// The names in its client certificate, which leads to a trusted authority; none if it showed none. Or why the one that
    /// it showed does not hold.
    pub certificate: Result<Arc<[String]>, Arc<str>>,
}

/// Who may read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reads {
    /// Everybody.
    #[default]
    Open,
    /// Principals with the role reader.
    Reader,
}

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: health, reflection, what this is.
    Nothing,
    /// A secret that is not a principal's, and is looked at where the path leads: a webhook's.
    OwnSecret,
    /// To be a principal, where reading is not open: what it takes to check a receipt.
    Known,
    /// To be a reader, where reading is not open.
    Reader,
    /// To be somebody; each statement is judged by itself.
    Writer,
}

/// Whoever calls, once let in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The principal, if it is known before a statement is read.
    pub name: Option<String>,
    /// What it showed.
    pub shown: Shown,
}

/// Why a caller is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Nothing was shown.
    #[error(
        "this needs the metadata `authorization: Bearer <token>`, or a client certificate; the first token is in the file `token` of the server's data directory"
    )]
    Missing,
    /// A token nobody has, or nobody any more.
    #[error("the token is not known to this ledger: it never was, or it was revoked")]
    Unknown,
    /// A certificate that does not hold.
    #[error("the client certificate does not hold: {0}")]
    BadCertificate(Arc<str>),
    /// A certificate nobody has.
    #[error("no principal has one of the names in the client certificate: {0}")]
    Certificate(String),
    /// Not all that this principal has to show.
    #[error(transparent)]
    Credentials(Unauthorized),
    /// Known, and not allowed to.
    #[error("principal {0:?} does not have the role reader, and reading needs it here")]
    NoReader(String),
}

/// The door of the service: who there is, who may read, and how much.
pub struct Access {
    principals: watch::Receiver<Arc<Principals>>,
    reads: Reads,
    /// Certificates can be shown here.
    takes_certificates: bool,
    /// How much.
    pub limits: Limits,
    /// How many probes at once.
    pub probes: Limits,
    /// Who was not let in.
    pub failures: Failures,
}

impl Access {
    /// The door of a ledger.
    pub fn new(
        principals: watch::Receiver<Arc<Principals>>,
        reads: Reads,
        takes_certificates: bool,
        limits: Limits,
        failures: Failures,
    ) -> Self {
        let probe = Limit { per_second: 0, burst: 0, concurrent: PROBES_OF_AN_ADDRESS };
        let probes = LimitSettings { concurrent: PROBES, memory_mib: 0, address: probe, ..LimitSettings::default() };
        Self { principals, reads, takes_certificates, limits, probes: Limits::new(probes), failures }
    }

    /// The principals now.
    pub fn principals(&self) -> Arc<Principals> {
        Arc::clone(&self.principals.borrow())
    }

    /// Lets a call in. `None`: anybody may make it, and who does is not known.
    pub fn admit(&self, need: Need, headers: &HeaderMap, peer: &Peer) -> Result<Option<Caller>, AuthError> {
        let is_open = need == Need::Nothing || (need != Need::Writer && self.reads == Reads::Open);
        let caller = self.authenticate(headers, peer);
        if is_open {
            if let Err(error) = &caller
                && !matches!(error, AuthError::Missing)
            {
                self.failures.note(reason(error), peer.address, error);
            }
            // Who shows something that does not count may read all the same.
            return Ok(caller.ok().filter(|caller| caller.name.is_some()));
        }
        let caller = caller.and_then(|caller| self.check_may_read(need, caller)).inspect_err(|error| {
            self.failures.note(reason(error), peer.address, error);
        })?;
        Ok(Some(caller))
    }

    /// Notice of every change of who there is.
    pub fn changes(&self) -> watch::Receiver<Arc<Principals>> {
        self.principals.clone()
    }

    /// Whether somebody who was let in to read still would be: a stream outlives a revocation.
    pub fn still_reads(&self, caller: Option<&Caller>) -> bool {
        let still = |caller: &Caller| {
            let principals = self.principals();
            let principal = caller.name.as_deref().and_then(|name| principals.get(name));
            principal
                .is_some_and(|principal| principal.has(Role::Reader) && principal.accepts(&caller.shown, true).is_ok())
        };
        self.reads == Reads::Open || caller.is_some_and(still)
    }

    fn check_may_read(&self, need: Need, caller: Caller) -> Result<Caller, AuthError> {
        if need == Need::Writer {
            return Ok(caller);
        }
        let name = caller.name.clone().ok_or(AuthError::Missing)?;
        let principals = self.principals();
        let may = principals.get(&name).is_some_and(|principal| need == Need::Known || principal.has(Role::Reader));
        if may { Ok(caller) } else { Err(AuthError::NoReader(name)) }
    }

    /// Whose credentials a call carries.
    fn authenticate(&self, headers: &HeaderMap, peer: &Peer) -> Result<Caller, AuthError> {
        let principals = self.principals();
        let token = bearer(headers)?.map(|token| <[u8; 32]>::from(Sha256::digest(token)));
        let certificate_names = peer.certificate.as_ref().map_err(|why| AuthError::BadCertificate(Arc::clone(why)))?;
        let certificate_names = certificate_names.to_vec();
        let shown = Shown { token, certificate_names, key: None, takes_certificates: self.takes_certificates };
        let has_certificate = |principal: &&Arc<Principal>| {
            shown.certificate_names.iter().any(|name| principal.certificate_names().contains(name))
        };
        let found = match &shown.token {
            Some(token) => Some(holder(&principals, token).ok_or(AuthError::Unknown)?),
            None => principals.iter().find(has_certificate),
        };
        let Some(principal) = found else {
            // Somebody whose signature says it all may show nothing else.
            let is_enough = |principal: &Arc<Principal>| principal.requires() == [Credential::Signature];
            if principals.iter().any(is_enough) {
                return Ok(Caller { name: None, shown });
            }
            return Err(match shown.certificate_names.join(", ") {
                none if none.is_empty() => AuthError::Missing,
                names => AuthError::Certificate(names),
            });
        };
        principal.accepts(&shown, true).map_err(AuthError::Credentials)?;
        Ok(Caller { name: Some(principal.name().to_owned()), shown })
    }
}

/// The token of a call, if it has one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, AuthError> {
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let (scheme, token) = header.to_str().ok().and_then(|header| header.split_once(' ')).ok_or(AuthError::Missing)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(AuthError::Missing);
    }
    Ok(Some(token))
}

/// Who has a token. All are compared, whichever matches.
fn holder<'a>(principals: &'a Principals, presented: &[u8; 32]) -> Option<&'a Arc<Principal>> {
    let mut found = None;
    for principal in principals.iter() {
        if principal.has_token(presented) {
            found = Some(principal);
        }
    }
    found
}

/// Checks a statement's signature under the keys of its principal, and says how far the producer is known.
pub(super) fn check_signature(
    principal: &Principal,
    statement: &[u8],
    producer: Option<&proto::Producer>,
    shown: &mut Shown,
) -> Result<proto::Assurance, Violation> {
    let Some(producer) = producer else {
        if principal.must_show(Credential::Signature) {
            let message = format!("must be there: principal {:?} may only submit signed statements", principal.name());
            return Err(Violation::new("producer.signature", "REQUIRED", message));
        }
        return Ok(proto::Assurance::Authenticated);
    };
    let key = principal.key(&producer.key_id).ok_or_else(|| {
        let id: String = producer.key_id.chars().take(16).collect();
        let message = format!("{id:?} is not a key of principal {:?}", principal.name());
        Violation::new("producer.key_id", "UNKNOWN_KEY", message)
    })?;
    signature::verify(key, &statement_message(statement), &producer.signature)
        .map_err(|error| Violation::new("producer.signature", "BAD_SIGNATURE", error.to_string()))?;
    shown.key = Some(*key);
    Ok(proto::Assurance::Signed)
}

fn reason(error: &AuthError) -> Reason {
    match error {
        AuthError::Missing => Reason::Missing,
        AuthError::Unknown => Reason::Token,
        AuthError::BadCertificate(_) | AuthError::Certificate(_) => Reason::Certificate,
        AuthError::Credentials(_) => Reason::Credentials,
        AuthError::NoReader(_) => Reason::Role,
    }
}
