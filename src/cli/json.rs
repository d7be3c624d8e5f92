//! Answers for programs: the answer, the entries it rests on, and the verification, in one JSON document.
//!
//! Times come as RFC 3339 and in microseconds. States and versions name entries by index; each entry is there once, in full.

use serde_json::{Value, json};

use super::show::{outcome_name, repository_words};
use crate::client::Receipt;
use crate::ledger::answer::{Answer, Finding, History, Place, State, Verdict, subject_words};
use crate::ledger::entry::Body;
use crate::ledger::evidence::VerifiedEntry;
use crate::ledger::keys::{Chain, Keys as _};
use crate::ledger::names::Digest;
use crate::ledger::statement::{Disposition, Kind, Phase, Statement};
use crate::ledger::subject::{Subject, digest_of, named_by, place_of, tag_of};
use crate::ledger::time::rfc3339;
use crate::proto;

/// The document as it is printed.
pub(super) fn text(document: &Value) -> String {
    format!("{document:#}\n")
}

/// An answer with its verification.
pub(super) fn answer(answer: &Answer) -> Value {
    let verdict = answer.verdict();
    json!({
        "question": serde_json::to_value(&answer.question).expect("it has only strings as keys"),
        "as_of": answer.as_of_us.map(time),
        "answer": finding(&answer.finding),
        "entries": answer.entries.iter().map(|(index, verified)| entry(index, verified)).collect::<Vec<_>>(),
        "verification": verification(answer, &verdict),
    })
}

/// A receipt with its verification.
pub(super) fn receipt(receipt: &Receipt) -> Value {
    let recorded = &receipt.recorded;
    let mut document = answer(&receipt.answer);
    document["answer"] = json!({
        "index": recorded.index,
        "entry_count": recorded.claimed_count,
        "outcome": outcome_name(recorded.outcome),
        "duplicate": recorded.duplicate,
    });
    document
}

/// One entry, in full.
pub(super) fn entry(index: u64, verified: &VerifiedEntry) -> Value {
    let mut document = match &verified.body {
        Body::Commitment(commitment) => json!({
            "kind": "commitment",
            "map_root": hex::encode(&commitment.map_root),
            "map_size": commitment.map_size,
        }),
        Body::Record(record, statement) => json!({
            "kind": "record",
            "verb": statement.verb(),
            "outcome": outcome_name(record.outcome()),
            "rule": record.rule,
            "detail": record.detail,
            "principal": record.principal,
            "assurance": record.assurance().as_str_name().trim_start_matches("ASSURANCE_"),
            "producer_key": record.producer.as_ref().map(|producer| &producer.key_id),
            "statement": self::statement(statement),
            "subjects": subjects(record, statement),
        }),
    };
    document["index"] = index.into();
    document["recorded_at"] = time(verified.body.recorded_at_us());
    document["leaf_hash"] = hex::encode(verified.hash).into();
    document
}

pub(super) fn time(time_us: u64) -> Value {
    json!({ "time": rfc3339(time_us), "us": time_us })
}

fn finding(finding: &Finding) -> Value {
    match finding {
        Finding::State(found) => json!({ "states": [state(found)] }),
        Finding::States(list) => {
            json!({ "states": list.items.iter().map(state).collect::<Vec<_>>(), "is_cut": list.is_cut })
        }
        Finding::Changes(list) => {
            let change = |(from, to): &(State, State)| json!({ "from": state(from), "to": state(to) });
            json!({ "changes": list.items.iter().map(change).collect::<Vec<_>>(), "is_cut": list.is_cut })
        }
        Finding::History(found) => history(found),
        Finding::Principals(found) => super::principal::json(found, history(&found.history)),
        Finding::Entry(index) => json!({ "index": index }),
        Finding::Inclusion { index, tree_size, root, path } => json!({
            "index": index,
            "tree_size": tree_size,
            "root": hex::encode(root),
            "path": path.iter().map(hex::encode).collect::<Vec<_>>(),
        }),
    }
}

fn state(state: &State) -> Value {
    json!({
        "subject": subject(&state.subject),
        "digest": state.digest().map(Digest::as_str),
        "set_by": state.setting.as_ref().map(|setting| place(&setting.set_by)),
        "at": state.at.as_ref().map(place),
        "next": state.next.as_ref().map(place),
        "total": state.count,
    })
}

pub(super) fn place(place: &Place) -> Value {
    json!({ "index": place.index, "version": place.version, "recorded_at": time(place.recorded_at_us) })
}

fn history(history: &History) -> Value {
    let version = |version: &crate::ledger::answer::HistoryVersion| {
        let mut document = place(&version.place);
        document["after"] = json!({
            "digest": version.after.as_ref().map(|setting| setting.digest.as_str()),
            "set_by": version.after.as_ref().map(|setting| place(&setting.set_by)),
        });
        document
    };
    json!({
        "subject": subject(&history.subject),
        "versions": history.versions.iter().map(version).collect::<Vec<_>>(),
        "is_cut": history.is_cut,
        "total": history.count,
    })
}

fn subject(subject: &Subject) -> Value {
    let mut document = json!({
        "kind": subject.kind().as_str_name().trim_start_matches("SUBJECT_KIND_"),
        "name": subject_words(subject),
    });
    if let Subject::Workload(workload) = subject {
        document["environment"] = workload.environment.as_str().into();
        document["cluster"] = workload.cluster.as_str().into();
        document["namespace"] = workload.namespace.as_str().into();
        document["workload"] = workload.workload.as_str().into();
        document["container"] = workload.container.as_str().into();
    }
    document
}

fn subjects(record: &proto::Record, statement: &Statement) -> Vec<Value> {
    let named = |reference: &proto::Subject| {
        let mut document = subject(&named_by(statement, reference)?);
        document["version"] = reference.version.into();
        Some(document)
    };
    record.subjects.iter().filter_map(named).collect()
}

fn statement(statement: &Statement) -> Value {
    let message = &statement.message;
    let (disposition, phase) = match &statement.kind {
        Kind::TagPush { disposition, .. }
        | Kind::TagDelete { disposition, .. }
        | Kind::ManifestDelete { disposition, .. } => (Some(disposition), None),
        Kind::Deployment { phase, .. } => (None, Some(phase)),
        Kind::TagObserved { .. }
        | Kind::Attestation { .. }
        | Kind::PolicyChange { .. }
        | Kind::PrincipalChange { .. }
        | Kind::KeyChange { .. } => (None, None),
    };
    let principal = match &statement.kind {
        Kind::PrincipalChange { change } => Some(super::principal::change_json(change)),
        _ => None,
    };
    let seen = match &message.kind {
        Some(proto::statement::Kind::TagObserved(seen)) => Some(seen),
        _ => None,
    };
    let policy = if let Kind::PolicyChange { policy, .. } = &statement.kind { Some(policy.text()) } else { None };
    let mut document = json!({
        "repository": place_of(statement).map(|(registry, repository)| repository_words(registry, repository)),
        "tag": tag_of(statement).map(|tag| tag.tag.to_string()),
        "digest": digest_of(statement).map(Digest::as_str),
        "disposition": disposition.map(|disposition| match disposition {
            Disposition::Requested => "REQUESTED",
            Disposition::Happened => "HAPPENED",
            Disposition::Refused => "REFUSED",
            Disposition::Intended => "INTENDED",
        }),
        "phase": phase.map(|phase| match phase {
            Phase::Started => "STARTED",
            Phase::Stopped => "STOPPED",
            Phase::Observed => "OBSERVED",
        }),
        "policy": policy,
        "checks_entry": seen.and_then(|seen| seen.checks_entry.checked_sub(1)),
        "last_seen": seen.map(|seen| seen.last_seen_us).filter(|time_us| *time_us > 0).map(time),
        "first_seen": seen.map(|seen| seen.first_seen_us).filter(|time_us| *time_us > 0).map(time),
        "principal": principal,
        "event_id": message.event_id,
        "occurred_at": u64::try_from(message.occurred_at_us).ok().filter(|time_us| *time_us > 0).map(time),
        "actor": message.actor,
        "source": message.source,
        "ci_run": message.ci_run,
        "trace_id": message.trace_id,
        "attributes": message.attributes.iter().map(|a| (a.key.clone(), a.value.clone().into())).collect::<serde_json::Map<_, _>>(),
    });
    if let Kind::KeyChange { change } = &statement.kind {
        document["key_change"] =
            json!({ "vkey": change.vkey().to_string(), "replaces": change.replaces().to_string() });
    }
    document
}

/// A file that holds.
pub(super) fn checked(path: &str, checked: &str) -> Value {
    json!({ "file": path, "checked": checked })
}

/// Files that do not contradict each other.
pub(super) fn agreement(files: [Value; 2]) -> Value {
    json!({ "contradiction": null, "files": files })
}

/// The keys of a ledger, each with the first entry that it signs, and the entry that announced it.
pub(super) fn keys(keys: &Chain) -> Value {
    let first = json!({ "vkey": keys.first().to_string(), "from": 0, "announced_in": null });
    let later = keys
        .later()
        .iter()
        .map(|link| json!({ "vkey": link.vkey.to_string(), "from": link.from, "announced_in": link.announced_in() }));
    std::iter::once(first).chain(later).collect()
}

fn verification(answer: &Answer, verdict: &Verdict) -> Value {
    let (vkey, checkpoint) = (answer.entries.vkey(), answer.entries.checkpoint());
    let mut document = json!({
        "origin": vkey.origin().as_str(),
        "vkey": vkey.to_string(),
        "checkpoint": {
            "size": checkpoint.size,
            "root": hex::encode(checkpoint.root),
            "closed_at": answer.entries.closed_at_us().map(time),
            "note": answer.entries.note(),
        },
        "reach": answer.reach.map(|reach| json!({ "size": reach.size, "closed_at": time(reach.closed_at_us) })),
        "checked": verdict.checked,
        "proven": verdict.proven,
        "unproven": verdict.unproven,
    });
    if !answer.entries.keys().later().is_empty() {
        document["keys"] = keys(answer.entries.keys());
    }
    document
}
