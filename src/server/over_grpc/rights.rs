//! Whether the principal that a gateway or a scanner comes as may do what it needs: asked at the start, and not found out by the first
//! push that waits for it.
//!
//! The principals are in the log, so the ledger is asked nothing that it does not prove.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::super::tls::names_shown;
use super::OverGrpc;
use crate::edge::port::PortError;
use crate::ledger::answer::{Finding, Question};
use crate::ledger::names::Registry;
use crate::ledger::principals::authority::role_word;
use crate::ledger::principals::{Principal, Principals};
use crate::proto::{Credential, Role, StatementKind};

/// What it needs.
#[derive(Debug, Clone, Copy)]
pub struct Needs<'a> {
    /// What it speaks of.
    pub registry: &'a Registry,
    /// One of these.
    pub roles: &'a [Role],
    /// All of these, as `--kind` names them.
    pub kinds: &'a [(StatementKind, &'static str)],
    /// What it is given by the commands that are advised.
    pub gives: &'a [Role],
}

/// What it has not.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// The ledger does not even let it ask.
    #[error("{0}")]
    Refused(String),
    /// What answers is no ledger, or none to be trusted.
    #[error("the ledger's answer does not verify: {0}")]
    Untrusted(String),
    /// The certificate's file.
    #[error("ledger.certificate: {0}")]
    Certificate(String),
    /// Nobody has such a token, key or certificate.
    #[error("what is shown to the ledger is nobody's; show what somebody has, or, as an admin, run: {advice}")]
    Nobody {
        /// A command.
        advice: String,
    },
    /// It may not.
    #[error("principal {principal:?} {lacks}; {advice}")]
    Lacks {
        /// Its name.
        principal: String,
        /// What is missing, in words.
        lacks: String,
        /// What to set, or to run.
        advice: String,
    },
}

impl OverGrpc {
    /// Asks the ledger. One that can't be asked now is said in the log, and no error.
    pub async fn check_rights(&self, needs: &Needs<'_>) -> Result<(), RightsError> {
        let answer = match self.ask(Question::Principals { at_us: 0 }).await {
            Ok(answer) => answer,
            Err(PortError::Invalid(reason)) => return Err(RightsError::Refused(reason)),
            Err(PortError::Untrusted(reason)) => return Err(RightsError::Untrusted(reason)),
            Err(error) => {
                tracing::warn!(%error, "can't ask the ledger yet what its principal may do");
                return Ok(());
            }
        };
        match &answer.finding {
            Finding::Principals(found) => self.shown_may(&found.principals, needs),
            _ => Ok(()),
        }
    }

    fn shown_may(&self, principals: &Principals, needs: &Needs<'_>) -> Result<(), RightsError> {
        let shown = &self.shown.credentials;
        let token: Option<[u8; 32]> = shown.token.as_ref().map(|token| Sha256::digest(token.as_bytes()).into());
        let key = self.shown.sign_key.as_ref().map(crate::ledger::note::Skey::vkey);
        let certificate = shown.identity.as_ref().map(|identity| names_shown(&identity.certificate)).transpose();
        let certificate = certificate.map_err(RightsError::Certificate)?;
        if principals.is_empty() || token.is_none() && certificate.is_none() && key.is_none() {
            return Ok(());
        }
        let has_key = |principal: &Principal| {
            key.as_ref().is_some_and(|key| principal.keys().iter().any(|k| k.key() == key.key()))
        };
        let has_name = |principal: &Principal| {
            certificate.iter().flatten().any(|name| principal.certificate_names().contains(name))
        };
        // In the order in which the ledger finds out who calls.
        let found = match &token {
            Some(token) => principals.iter().find(|principal| principal.has_token(token)),
            None => {
                let named = principals.iter().find(|principal| has_name(principal));
                named.or_else(|| principals.iter().find(|principal| has_key(principal)))
            }
        };
        let Some(principal) = found else {
            return Err(RightsError::Nobody { advice: needs.new_principal() });
        };
        let lacks = |lacks: &str, advice: &str| {
            let (principal, lacks, advice) = (principal.name().to_owned(), lacks.to_owned(), advice.to_owned());
            Err(RightsError::Lacks { principal, lacks, advice })
        };
        if principal.must_show(Credential::Token) && token.is_none() {
            return lacks("has to show a token, and token_file is not set", "set ledger.token_file (--token-file)");
        }
        if principal.must_show(Credential::Signature) && !has_key(principal) {
            return match key {
                None => {
                    lacks("has to sign what it states, and sign_key is not set", "set ledger.sign_key (--sign-key)")
                }
                Some(_) => lacks(
                    "has to sign what it states, and the key of sign_key is none of its own",
                    "set ledger.sign_key (--sign-key) to one of its own",
                ),
            };
        }
        if principal.must_show(Credential::Certificate) && !has_name(principal) {
            return match certificate {
                None => lacks(
                    "has to show a certificate, and certificate and key are not set",
                    "set ledger.certificate and ledger.key (--cert, --key)",
                ),
                Some(_) => lacks(
                    "has to show a certificate, and the one of ledger.certificate has none of its names",
                    "set ledger.certificate and ledger.key (--cert, --key) to one of its own",
                ),
            };
        }
        let missing = needs.missing(principal);
        match missing.in_words(needs.registry) {
            Some(words) => lacks(&words, &needs.advice(principal, &missing)),
            None => Ok(()),
        }
    }
}

/// What a principal has not.
struct Missing {
    role: Option<Role>,
    /// What it may not state of the registry, as `--kind` names it.
    kinds: Vec<&'static str>,
}

impl Missing {
    fn in_words(&self, registry: &Registry) -> Option<String> {
        let role = self.role.map(|role| format!("has not the role {}", role_word(role)));
        let grant = (!self.kinds.is_empty())
            .then(|| format!("has no grant for {} statements about {registry}", self.kinds.join(", ")));
        let all: Vec<String> = role.into_iter().chain(grant).collect();
        (!all.is_empty()).then(|| all.join(", and "))
    }
}

impl Needs<'_> {
    fn missing(&self, principal: &Principal) -> Missing {
        let has_role = self.roles.iter().any(|role| principal.has(*role));
        let covers = |kind: StatementKind| {
            let mut grants = principal.grants().iter().filter(|grant| grant.covers(kind, None));
            grants.any(|grant| grant.patterns().any(|pattern| may_reach(pattern, self.registry)))
        };
        Missing {
            role: self.roles.first().copied().filter(|_| !has_role),
            kinds: self.kinds.iter().filter(|(kind, _)| !covers(*kind)).map(|(_, word)| *word).collect(),
        }
    }

    /// All repositories of the registry.
    fn pattern(&self) -> String {
        format!("{}/**", self.registry)
    }

    fn words(&self) -> Vec<&'static str> {
        self.kinds.iter().map(|(_, word)| *word).collect()
    }

    /// The command for somebody who is not there yet.
    fn new_principal(&self) -> String {
        let roles: Vec<&str> = self.gives.iter().map(|role| role_word(*role)).collect();
        let mut words = words(&["tagledger", "principal", "add", "NAME", "--role", &roles.join(",")]);
        words.extend(["--repository".to_owned(), self.pattern()]);
        words.extend(["--kind".to_owned(), self.words().join(",")]);
        words.extend(["--token-out".to_owned(), "NAME.token".to_owned()]);
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default()
    }

    /// What to run so that somebody who is there gets what is missing and nothing else, and keeps what they have.
    fn advice(&self, principal: &Principal, missing: &Missing) -> String {
        let name = principal.name();
        if let Some(command) = self.command(principal, missing) {
            let note = match principal.must_show(Credential::Token) {
                true => " (from then on it has the new token, and no other)",
                false => "",
            };
            return format!("as an admin, run{note}: {command}");
        }
        let role = missing.role.map(|role| format!("the role {}", role_word(role)));
        let grant = (!missing.kinds.is_empty())
            .then(|| format!("a grant for {} statements about {}", missing.kinds.join(", "), self.pattern()));
        let needed: Vec<String> = role.into_iter().chain(grant).collect();
        format!(
            "it needs {}. An admin sees what it has with `tagledger principal show {name}`, and says all of it anew with `tagledger \
             principal add {name} --replace ...`, which replaces everything: roles, grants, tokens, keys, certificate names and what \
             it must show",
            needed.join(" and ")
        )
    }

    /// Replaces a principal by itself and what is missing; none where the command line can't say that: it knows one grant. A token
    /// can't be said again, so there is a new one.
    fn command(&self, principal: &Principal, missing: &Missing) -> Option<String> {
        let (patterns, kinds) = match principal.grants() {
            [] => (vec![self.pattern()], missing.kinds.clone()),
            [grant] => {
                let mut patterns: Vec<String> = grant.patterns().map(str::to_owned).collect();
                let mut kinds = grant.kinds().iter().map(|kind| kind_word(*kind)).collect::<Option<Vec<_>>>()?;
                if !missing.kinds.is_empty() {
                    let is_only_here =
                        patterns.iter().all(|pattern| pattern.split('/').next() == Some(self.registry.as_str()));
                    let is_here = patterns.iter().any(|pattern| may_reach(pattern, self.registry));
                    let (same, wanted) = (BTreeSet::from_iter(&kinds), self.words());
                    if is_only_here && !kinds.is_empty() {
                        kinds.extend(&missing.kinds);
                    } else if !is_here && same == BTreeSet::from_iter(&wanted) {
                        patterns.push(self.pattern());
                    } else {
                        // More kinds elsewhere, or more than is needed here.
                        return None;
                    }
                }
                (patterns, kinds)
            }
            _ => return None,
        };
        let mut roles: Vec<&str> = principal.roles().iter().map(|role| role_word(*role)).collect();
        roles.extend(missing.role.map(role_word));
        let name = principal.name();
        let mut command = words(&["tagledger", "principal", "add", name, "--replace", "--role", &roles.join(",")]);
        // What begins with a hyphen would be taken for another flag.
        let mut say = |flag: &str, value: &str| match value.starts_with('-') {
            true => command.push(format!("--{flag}={value}")),
            false => command.extend([format!("--{flag}"), value.to_owned()]),
        };
        patterns.iter().for_each(|pattern| say("repository", pattern));
        if !kinds.is_empty() {
            say("kind", &kinds.join(","));
        }
        for credential in principal.requires() {
            say("require", credential_word(*credential)?);
        }
        principal.certificate_names().iter().for_each(|name| say("certificate-name", name));
        principal.keys().iter().for_each(|key| say("public-key", &key.to_string()));
        if principal.must_show(Credential::Token) {
            say("token-out", &format!("{name}.new.token"));
        }
        shlex::try_join(command.iter().map(String::as_str)).ok()
    }
}

fn words(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// As `--kind` names it.
fn kind_word(kind: StatementKind) -> Option<&'static str> {
    Some(match kind {
        StatementKind::TagPush => "push",
        StatementKind::TagDelete => "delete",
        StatementKind::ManifestDelete => "delete-digest",
        StatementKind::TagObserved => "observe",
        StatementKind::Deployment => "deploy",
        StatementKind::Attestation => "attest",
        _ => return None,
    })
}

/// As `--require` names it.
fn credential_word(credential: Credential) -> Option<&'static str> {
    match credential {
        Credential::Token => Some("token"),
        Credential::Certificate => Some("certificate"),
        Credential::Signature => Some("signature"),
        Credential::Unspecified => None,
    }
}

/// Whether a pattern of `registry/repository` may cover something of a registry.
fn may_reach(pattern: &str, registry: &Registry) -> bool {
    let first = pattern.split('/').next().unwrap_or_default();
    first == registry.as_str() || first.contains(['*', '?', '{', '['])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{self, principal_change};

    fn principal(roles: &[Role], kinds: &[StatementKind], pattern: &str) -> Principal {
        let kinds = kinds.iter().map(|kind| i32::from(*kind)).collect();
        let grants = vec![proto::Grant { repositories: vec![pattern.to_owned()], kinds }];
        let message = proto::Principal {
            roles: roles.iter().map(|role| i32::from(*role)).collect(),
            grants: if roles == [Role::Reader] { Vec::new() } else { grants },
            requires: vec![Credential::Token.into()],
            token_sha256: vec![vec![7; 32]],
            ..proto::Principal::default()
        };
        let change = principal_change::Change::Principal(message);
        let change = proto::PrincipalChange { name: "gateway".into(), change: Some(change) };
        let parsed = crate::ledger::principals::Change::parse(&change).expect("a principal");
        parsed.principal().expect("no revocation").as_ref().clone()
    }

    const REGISTRY: &str = "registry.example";
    const KINDS: [(StatementKind, &str); 2] =
        [(StatementKind::TagPush, "push"), (StatementKind::TagObserved, "observe")];

    fn with_needs<T>(then: impl FnOnce(&Needs<'_>) -> T) -> T {
        let registry = REGISTRY.parse().expect("a name");
        let gives = &[Role::Writer, Role::Reader];
        then(&Needs { registry: &registry, roles: &[Role::Writer], kinds: &KINDS, gives })
    }

    #[test]
    fn what_is_missing_is_said() {
        let missing = |roles: &[Role], kinds: &[StatementKind], pattern: &str| {
            let principal = principal(roles, kinds, pattern);
            with_needs(|needs| needs.missing(&principal).in_words(needs.registry)).unwrap_or_default()
        };
        let both = [StatementKind::TagPush, StatementKind::TagObserved];
        for pattern in ["registry.example/**", "**", "*.example/team/*", "{registry,other}.example/**"] {
            assert_eq!(missing(&[Role::Writer], &both, pattern), "", "{pattern}");
            assert_eq!(missing(&[Role::Writer], &[], pattern), "", "{pattern}");
        }
        let nothing = "has not the role writer, and has no grant for push, observe statements about registry.example";
        assert_eq!(missing(&[Role::Reader], &[], "**"), nothing);
        assert_eq!(missing(&[Role::Scanner], &[], "**"), "has not the role writer");
        let no_observe = "has no grant for observe statements about registry.example";
        assert_eq!(missing(&[Role::Writer], &both[..1], "**"), no_observe);
        assert!(missing(&[Role::Writer], &both, "other.example/**").contains("push, observe statements about"));
    }

    /// What a shell makes of the command that is advised: the words of its flags.
    fn words_of(said: &str) -> Vec<String> {
        let at = said.find("tagledger principal add").unwrap_or_else(|| panic!("no command: {said}"));
        shlex::split(&said[at..]).expect("whole words")
    }

    #[test]
    fn what_is_advised_is_what_it_has_and_what_is_missing_and_nothing_more() {
        let advice = |message: proto::Principal| {
            let change = principal_change::Change::Principal(message);
            let change = proto::PrincipalChange { name: "gateway".into(), change: Some(change) };
            let parsed = crate::ledger::principals::Change::parse(&change).expect("a principal");
            let principal = parsed.principal().expect("no revocation");
            with_needs(|needs| needs.advice(principal, &needs.missing(principal)))
        };
        let key = crate::ledger::note::Skey::from_seed("gateway.example".parse().expect("a name"), &[1; 32]).vkey();
        let grant = |pattern: &str, kinds: &[StatementKind]| proto::Grant {
            repositories: vec![pattern.to_owned()],
            kinds: kinds.iter().map(|kind| i32::from(*kind)).collect(),
        };
        let with = |roles: &[Role], grants: Vec<proto::Grant>| proto::Principal {
            roles: roles.iter().map(|role| i32::from(*role)).collect(),
            grants,
            requires: vec![Credential::Token.into(), Credential::Certificate.into(), Credential::Signature.into()],
            token_sha256: vec![vec![7; 32]],
            // Quotes, a substitution, and what a history expands.
            certificate_names: vec!["uri:a\"b'c $(id) `id` \\ !x".into()],
            keys: vec![key.to_string()],
        };
        let (push, observe) = (StatementKind::TagPush, StatementKind::TagObserved);
        let writer = |grants| advice(with(&[Role::Writer], grants));
        let asked = |roles: &str, patterns: &[&str], kinds: &str| {
            let mut all = words(&["tagledger", "principal", "add", "gateway", "--replace", "--role", roles]);
            all.extend(patterns.iter().flat_map(|pattern| ["--repository".to_owned(), (*pattern).to_owned()]));
            all.extend(words(&["--kind", kinds]).into_iter().filter(|_| !kinds.is_empty()));
            all.extend(words(&["--require", "token", "--require", "certificate", "--require", "signature"]));
            all.extend(words(&["--certificate-name", "uri:a\"b'c $(id) `id` \\ !x"]));
            all.extend(["--public-key".to_owned(), key.to_string()]);
            all.extend(words(&["--token-out", "gateway.new.token"]));
            all
        };
        let said = writer(vec![grant("registry.example/team/**", &[push])]);
        assert_eq!(words_of(&said), asked("writer", &["registry.example/team/**"], "push,observe"));
        assert!(said.starts_with("as an admin, run (from then on it has the new token, and no other): "), "{said}");
        let said = writer(vec![grant("other.example/**", &[push, observe])]);
        assert_eq!(words_of(&said), asked("writer", &["other.example/**", "registry.example/**"], "push,observe"));
        // Only the role is missing: the grant stays as it is, all kinds of it or some.
        for (kinds, named) in [(&[][..], ""), (&[push, observe], "push,observe")] {
            let said = advice(with(&[Role::Scanner], vec![grant("registry.example/**", kinds)]));
            assert_eq!(words_of(&said), asked("scanner,writer", &["registry.example/**"], named));
        }
        // Here the command line would give more: kinds elsewhere, kinds that are not needed, or one grant where there are two.
        for grants in [
            vec![grant("**", &[push])],
            vec![grant("other.example/**", &[push])],
            vec![grant("other.example/**", &[])],
            vec![grant("other.example/**", &[StatementKind::TagDelete]), grant("registry.example/**", &[push])],
        ] {
            let said = writer(grants.clone());
            assert!(said.contains("principal show gateway") && said.contains("replaces everything"), "{said}");
            let needed =
                if grants.len() == 2 || grants == [grant("**", &[push])] { "observe" } else { "push, observe" };
            assert!(said.starts_with(&format!("it needs a grant for {needed} statements about")), "{said}");
            assert!(!said.contains("--role") && !said.contains("role writer"), "{said}");
        }
        let fresh = with_needs(|needs| needs.new_principal());
        let expected = ["--role", "writer,reader", "--repository", "registry.example/**", "--kind", "push,observe"];
        assert_eq!(words_of(&fresh)[4..10], expected);
    }
}
