//! Policies from what registries export about their own: JSON in, rules out.
//!
//! Each registry has a file of its own, which says where its export comes from and what its settings mean there. What an
//! export says and a policy can't is refused, or noted where leaving it out forbids nothing that was forbidden. The names of
//! repositories are those under which the ledger will see them.

mod acr;
mod dockerhub;
mod ecr;
mod gitlab;
mod google;
mod harbor;
mod nexus;
mod quay;

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

use super::document::{Document, RuleText};
use super::{MAX_ID_LENGTH, Policy, PolicyError};
use crate::ledger::names::{Registry, Repository};

/// Whose export it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Azure Container Registry.
    Acr,
    /// Docker Hub.
    DockerHub,
    /// Amazon Elastic Container Registry.
    Ecr,
    /// The registry of a GitLab project.
    GitLab,
    /// Google Artifact Registry.
    Google,
    /// A Harbor project; STACKIT's registry is one.
    Harbor,
    /// Nexus Repository.
    Nexus,
    /// Quay.
    Quay,
}

/// What an export does not say about itself.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The registry's name in the ledger.
    pub registry: Option<Registry>,
    /// The project, organisation or repository that was asked for the export.
    pub under: Option<Repository>,
}

/// Rules, and what was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The policy. Its text is [`Document::to_text`].
    pub document: Document,
    /// Sentences without a full stop.
    pub notes: Vec<String>,
}

/// Why an export is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Not JSON, or not of the form that this registry gives.
    #[error("not {expected}: {problem}")]
    Form {
        /// What it should be.
        expected: &'static str,
        /// What is wrong, and where.
        problem: String,
    },
    /// It says what a policy can't.
    #[error("{0}")]
    Beyond(String),
    /// It does not say where it is from.
    #[error("{0}")]
    Place(&'static str),
    /// Its rules make no policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Reads an export.
pub fn import(format: Format, json: &str, place: &Place) -> Result<Imported, ImportError> {
    let read = match format {
        Format::Acr => acr::import,
        Format::DockerHub => dockerhub::import,
        Format::Ecr => ecr::import,
        Format::GitLab => gitlab::import,
        Format::Google => google::import,
        Format::Harbor => harbor::import,
        Format::Nexus => nexus::import,
        Format::Quay => quay::import,
    };
    let imported = read(json, place)?;
    Policy::parse(&imported.document.to_text())?;
    Ok(imported)
}

impl Place {
    fn registry(&self, missing: &'static str) -> Result<String, ImportError> {
        self.registry.as_ref().map(ToString::to_string).ok_or(ImportError::Place(missing))
    }

    fn under(&self, missing: &'static str) -> Result<&str, ImportError> {
        self.under.as_ref().map(Repository::as_str).ok_or(ImportError::Place(missing))
    }
}

impl Imported {
    fn new(rules: Vec<RuleText>, notes: Vec<String>) -> Self {
        Self { document: Document { exempt_referrers: None, rule: rules }, notes }
    }
}

/// A rule that is about everything in some repositories.
fn rule(id: String, registry: &str, repositories: &[String]) -> RuleText {
    let id = shortened(id);
    let (registries, repositories) = (Some(vec![registry.to_owned()]), Some(repositories.to_vec()));
    RuleText { id, registries, repositories, ..RuleText::default() }
}

/// The same rules, of which those that say the same about other repositories are one: a policy has room for thousands of names, and for
/// a few hundred rules. It is called as its first, and by how many there are more.
fn grouped(rules: Vec<RuleText>) -> Vec<RuleText> {
    let mut groups: Vec<(RuleText, usize)> = Vec::new();
    for rule in rules {
        let says_the_same = |(group, _): &&mut (RuleText, usize)| {
            let (id, repositories) = (group.id.clone(), group.repositories.clone());
            *group == RuleText { id, repositories, ..rule.clone() }
        };
        match groups.iter_mut().find(says_the_same) {
            Some((group, more)) => {
                group.repositories.get_or_insert_default().extend(rule.repositories.unwrap_or_default());
                *more += 1;
            }
            None => groups.push((rule, 0)),
        }
    }
    let named = |(rule, more): (RuleText, usize)| match more {
        0 => rule,
        more => RuleText { id: shortened(format!("{}+{more}", rule.id)), ..rule },
    };
    groups.into_iter().map(named).collect()
}

/// An id that no other has, and that is none too long: names may be longer than ids.
fn shortened(id: String) -> String {
    if id.len() <= MAX_ID_LENGTH {
        return id;
    }
    let mark = hex::encode(&Sha256::digest(&id)[..8]);
    let kept: String = id.chars().filter(char::is_ascii).take(MAX_ID_LENGTH - mark.len() - 1).collect();
    format!("{kept}~{mark}")
}

fn words(changes: &[&str]) -> Option<Vec<String>> {
    Some(changes.iter().map(|&change| change.to_owned()).collect())
}

fn parse<T: DeserializeOwned>(json: &str, expected: &'static str) -> Result<T, ImportError> {
    serde_json::from_str(json).map_err(|error| ImportError::Form { expected, problem: error.to_string() })
}

#[cfg(test)]
mod tests;
