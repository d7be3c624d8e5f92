//! Whether the principal that a gateway or a scanner comes as may do what it needs: asked at the start, and not found out by the first
//! push that waits for it.
//!
//! The principals are in the log, so the ledger is asked nothing that it does not prove. Who shows a certificate alone is not
//! found among them here, and not judged.

use sha2::{Digest as _, Sha256};

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
    /// Nobody has such a token or key.
    #[error("what is shown to the ledger is nobody's; as an admin, run: {advice}")]
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
        let token: Option<[u8; 32]> =
            self.shown.credentials.token.as_ref().map(|token| Sha256::digest(token.as_bytes()).into());
        let key = self.shown.sign_key.as_ref().map(crate::ledger::note::Skey::vkey);
        if principals.is_empty() || token.is_none() && key.is_none() {
            return Ok(());
        }
        let is_shown = |principal: &&std::sync::Arc<Principal>| match &token {
            Some(token) => principal.tokens().contains(token),
            None => principal.keys().iter().any(|known| key.as_ref().is_some_and(|key| key.key() == known.key())),
        };
        let Some(principal) = principals.iter().find(is_shown) else {
            return Err(RightsError::Nobody { advice: needs.new_principal() });
        };
        let lacks = |lacks: &str, advice: String| {
            Err(RightsError::Lacks { principal: principal.name().to_owned(), lacks: lacks.to_owned(), advice })
        };
        let must_show = |credential, is_shown: bool| principal.must_show(credential) && !is_shown;
        if must_show(Credential::Token, token.is_some()) {
            return lacks(
                "has to show a token, and token_file is not set",
                "set ledger.token_file (--token-file)".into(),
            );
        }
        if must_show(Credential::Signature, key.is_some()) {
            let advice = "set ledger.sign_key (--sign-key)".into();
            return lacks("has to sign what it states, and sign_key is not set", advice);
        }
        if must_show(Credential::Certificate, self.shown.credentials.identity.is_some()) {
            let advice = "set ledger.certificate and ledger.key (--cert, --key)".into();
            return lacks("has to show a certificate, and certificate and key are not set", advice);
        }
        match needs.missing(principal) {
            Some(missing) => lacks(&missing, needs.advice(principal)),
            None => Ok(()),
        }
    }
}

impl Needs<'_> {
    fn missing(&self, principal: &Principal) -> Option<String> {
        if !self.roles.iter().any(|role| principal.has(*role)) {
            let wanted: Vec<&str> = self.roles.iter().map(|role| role_word(*role)).collect();
            return Some(format!("has not the role {}", wanted.join(" or ")));
        }
        let covers = |kind: StatementKind| {
            let mut grants = principal.grants().iter().filter(|grant| grant.covers(kind, None));
            grants.any(|grant| grant.patterns().any(|pattern| may_reach(pattern, self.registry)))
        };
        let (_, word) = self.kinds.iter().find(|(kind, _)| !covers(*kind))?;
        Some(format!("has no grant for {word} statements about {}", self.registry))
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
        format!(
            "tagledger principal add NAME --role {} --repository \"{}\" --kind {} --token-out NAME.token",
            roles.join(","),
            self.pattern(),
            self.words().join(",")
        )
    }

    /// What to run so that somebody who is there gets what is missing, and keeps what they have.
    fn advice(&self, principal: &Principal) -> String {
        let name = principal.name();
        self.command(principal).map_or_else(
            || {
                let roles: Vec<&str> = self.gives.iter().map(|role| role_word(*role)).collect();
                format!(
                    "it needs the roles {} and a grant for {} statements about {}. An admin sees what it has with `tagledger \
                     principal show {name}`, and says all of it anew with `tagledger principal add {name} --replace ...`, which \
                     replaces everything: roles, grants, tokens, keys, certificate names and what it must show",
                    roles.join(" and "),
                    self.words().join(", "),
                    self.pattern()
                )
            },
            |command| format!("as an admin, run: {command}"),
        )
    }

    /// Replaces a principal by itself and what is missing; none where the command line can't say that. A token can't be said again,
    /// so there is a new one.
    fn command(&self, principal: &Principal) -> Option<String> {
        let (patterns, kinds) = match principal.grants() {
            [] => (vec![self.pattern()], self.words()),
            [grant] => {
                let (mut patterns, mut kinds) = (owned(grant.patterns()), Vec::new());
                for kind in grant.kinds() {
                    kinds.push(kind_word(*kind)?);
                }
                let wanted = self.words();
                let has_all = kinds.is_empty() || wanted.iter().all(|word| kinds.contains(word));
                let is_here = patterns.iter().any(|pattern| may_reach(pattern, self.registry));
                let has_only = kinds.is_empty() || kinds.iter().all(|word| wanted.contains(word));
                match (has_all, is_here) {
                    (true, true) => {}
                    // The same kinds elsewhere, or more kinds here: not both, which would also give more kinds elsewhere.
                    (true, false) if has_only => patterns.push(self.pattern()),
                    (false, true)
                        if patterns.iter().all(|pattern| pattern.split('/').next() == Some(self.registry.as_str())) =>
                    {
                        kinds.extend(wanted.into_iter().filter(|word| !kinds.contains(word)).collect::<Vec<_>>());
                    }
                    _ => return None,
                }
                (patterns, kinds)
            }
            _ => return None,
        };
        let mut roles: Vec<&str> = principal.roles().iter().map(|role| role_word(*role)).collect();
        for role in self.gives.iter().map(|role| role_word(*role)) {
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
        let name = principal.name();
        let mut command = format!("tagledger principal add {name} --replace --role {}", roles.join(","));
        let mut say = |flag: &str, value: &str| command.push_str(&format!(" --{flag} \"{value}\""));
        patterns.iter().for_each(|pattern| say("repository", pattern));
        if !kinds.is_empty() {
            say("kind", &kinds.join(","));
        }
        for credential in principal.requires() {
            say("require", credential_word(*credential)?);
        }
        principal.certificate_names().iter().for_each(|name| say("certificate-name", name));
        principal.keys().iter().for_each(|key| say("public-key", &key.to_string()));
        if command.contains(['$', '`', '\\', '!']) {
            return None;
        }
        if principal.must_show(Credential::Token) {
            command
                .push_str(&format!(" --token-out {name}.new.token; it has that new token from then on, and no other"));
        }
        Some(command)
    }
}

fn owned<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    texts.map(str::to_owned).collect()
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

    #[test]
    fn what_is_missing_is_said() {
        let registry = "registry.example".parse().expect("a name");
        let kinds = [(StatementKind::TagPush, "push"), (StatementKind::TagObserved, "observe")];
        let needs = Needs { registry: &registry, roles: &[Role::Writer], kinds: &kinds, gives: &[Role::Writer] };
        let missing = |roles: &[Role], kinds: &[StatementKind], pattern: &str| {
            needs.missing(&principal(roles, kinds, pattern)).unwrap_or_default()
        };
        let both = [StatementKind::TagPush, StatementKind::TagObserved];
        for pattern in ["registry.example/**", "**", "*.example/team/*", "{registry,other}.example/**"] {
            assert_eq!(missing(&[Role::Writer], &both, pattern), "", "{pattern}");
            assert_eq!(missing(&[Role::Writer], &[], pattern), "", "{pattern}");
        }
        assert_eq!(missing(&[Role::Reader], &[], "**"), "has not the role writer");
        assert!(missing(&[Role::Writer], &both[..1], "**").contains("no grant for observe statements"));
        assert!(missing(&[Role::Writer], &both, "other.example/**").contains("about registry.example"));
        assert!(needs.new_principal().ends_with("--kind push,observe --token-out NAME.token"));
    }

    #[test]
    fn what_is_advised_keeps_what_is_there_or_says_that_it_would_not() {
        let registry = "registry.example".parse().expect("a name");
        let kinds = [(StatementKind::TagPush, "push"), (StatementKind::TagObserved, "observe")];
        let needs =
            Needs { registry: &registry, roles: &[Role::Writer], kinds: &kinds, gives: &[Role::Writer, Role::Reader] };
        let of = |message: proto::Principal| {
            let change = principal_change::Change::Principal(message);
            let change = proto::PrincipalChange { name: "gateway".into(), change: Some(change) };
            let parsed = crate::ledger::principals::Change::parse(&change).expect("a principal");
            needs.advice(parsed.principal().expect("no revocation"))
        };
        let key = crate::ledger::note::Skey::from_seed("gateway.example".parse().expect("a name"), &[1; 32]).vkey();
        let grant = |pattern: &str, kinds: &[StatementKind]| proto::Grant {
            repositories: vec![pattern.to_owned()],
            kinds: kinds.iter().map(|kind| i32::from(*kind)).collect(),
        };
        let guarded = |grants: Vec<proto::Grant>| proto::Principal {
            roles: vec![Role::Writer.into()],
            grants,
            requires: vec![Credential::Token.into(), Credential::Certificate.into(), Credential::Signature.into()],
            token_sha256: vec![vec![7; 32]],
            certificate_names: vec!["gateway.example".into()],
            keys: vec![key.to_string()],
        };
        let said = of(guarded(vec![grant("registry.example/team/**", &[StatementKind::TagPush])]));
        for part in [
            "principal add gateway --replace --role writer,reader --repository \"registry.example/team/**\"",
            "--kind \"push,observe\" --require \"token\" --require \"certificate\" --require \"signature\"",
            "--certificate-name \"gateway.example\"",
            &format!("--public-key \"{key}\""),
            "--token-out gateway.new.token",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // More kinds here would be more kinds elsewhere too, and two grants can't be said.
        let elsewhere = grant("other.example/**", &[StatementKind::TagDelete]);
        for grants in
            [vec![elsewhere.clone()], vec![elsewhere, grant("registry.example/**", &[StatementKind::TagPush])]]
        {
            let said = of(guarded(grants));
            assert!(said.contains("principal show gateway") && said.contains("replaces everything"), "{said}");
            assert!(!said.contains("--role"), "{said}");
        }
    }
}
