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
    /// The roles to give it, for the command that does.
    pub advice: &'static str,
}

/// What it has not.
#[derive(Debug, thiserror::Error)]
pub enum RightsError {
    /// The ledger does not even let it ask.
    #[error("{0}; give it the role reader too, or check the token that is shown")]
    Refused(String),
    /// Nobody has such a token or key.
    #[error("what is shown to the ledger is nobody's; as an admin, run: {advice}")]
    Nobody {
        /// A command.
        advice: String,
    },
    /// It may not.
    #[error("principal {principal:?} {lacks}; as an admin, run: {advice}")]
    Lacks {
        /// Its name.
        principal: String,
        /// What is missing, in words.
        lacks: String,
        /// A command.
        advice: String,
    },
}

impl OverGrpc {
    /// Asks the ledger. One that can't be asked now is said in the log, and no error.
    pub async fn check_rights(&self, needs: &Needs<'_>) -> Result<(), RightsError> {
        let answer = match self.ask(Question::Principals { at_us: 0 }).await {
            Ok(answer) => answer,
            Err(PortError::Invalid(reason)) => return Err(RightsError::Refused(reason)),
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
            return Err(RightsError::Nobody { advice: needs.advice("NAME") });
        };
        let lacks = |lacks: String| {
            let name = principal.name();
            Err(RightsError::Lacks { principal: name.to_owned(), lacks, advice: needs.advice(name) })
        };
        let must_show = |credential, is_shown: bool| principal.must_show(credential) && !is_shown;
        if must_show(Credential::Token, token.is_some()) {
            return lacks("has to show a token, and token_file is not set".to_owned());
        }
        if must_show(Credential::Signature, key.is_some()) {
            return lacks("has to sign what it states, and sign_key is not set".to_owned());
        }
        if must_show(Credential::Certificate, self.shown.credentials.identity.is_some()) {
            return lacks("has to show a certificate, and certificate and key are not set".to_owned());
        }
        match needs.missing(principal) {
            Some(missing) => lacks(missing),
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

    fn advice(&self, name: &str) -> String {
        let kinds: Vec<&str> = self.kinds.iter().map(|(_, word)| *word).collect();
        format!(
            "tagledger principal add {name} --replace {} --repository \"{}/**\" --kind {} --token-out {name}.token",
            self.advice,
            self.registry,
            kinds.join(",")
        )
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
        let needs = Needs { registry: &registry, roles: &[Role::Writer], kinds: &kinds, advice: "--role writer" };
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
        assert!(needs.advice("gateway").ends_with("--kind push,observe --token-out gateway.token"));
    }
}
