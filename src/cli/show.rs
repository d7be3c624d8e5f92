//! Answers for people: what was found, then what that is worth.

use std::path::Path;

use super::policy::policy_of;
use super::table::{Rows, terminal_width, wrap};
use super::{Ending, Failure, Output, complain, json, principal, print};
use crate::client::{Receipt, Watched, visible};
use crate::ledger::answer::{Answer, Finding, History, HistoryVersion, Place, Question, State, Verdict, subject_words};
use crate::ledger::entry::Body;
use crate::ledger::evidence::{VerifiedEntries, VerifiedEntry};
use crate::ledger::names::{Digest, Registry, Repository};
use crate::ledger::statement::{Kind, Statement};
use crate::ledger::subject::{Subject, digest_of, tag_of};
use crate::ledger::time::rfc3339;
use crate::proto;

/// Shows an answer; says whether anything was found.
pub(super) fn answer(answer: &Answer, output: &Output) -> Result<Ending, Failure> {
    if output.json {
        print(&json::text(&json::answer(answer)))?;
    } else {
        print(&(found(answer) + &verdict(&answer.verdict())))?;
    }
    Ok(if is_absent(answer) { Ending::Absent } else { Ending::Answered })
}

/// Shows that two files, each with what was verified of it, do not contradict each other.
pub(super) fn agreement(files: [(&Path, String); 2], output: &Output) -> Result<Ending, Failure> {
    if output.json {
        let files = files.map(|(path, checked)| json::checked(&path.display().to_string(), &checked));
        print(&json::text(&json::agreement(files)))?;
    } else {
        let width = terminal_width();
        let mut text = "no contradiction: both hold, and nothing that both speak of differs\n\n".to_owned();
        for (path, checked) in files {
            text.push_str(&wrap(&format!("verified: {}: {checked}", path.display()), width, 2));
        }
        print(&text)?;
    }
    Ok(Ending::Answered)
}

/// Shows what became of a statement.
pub(super) fn receipt(receipt: &Receipt, output: &Output) -> Result<Ending, Failure> {
    let recorded = &receipt.recorded;
    if output.json {
        print(&json::text(&json::receipt(receipt)))?;
    } else {
        let mut head = String::new();
        if recorded.duplicate {
            head = "known: this event id was recorded before, and nothing new was\n".to_owned();
        } else if recorded.claimed_count > 1 {
            head = format!("recorded in {} entries, of which this is the first\n", recorded.claimed_count);
        }
        print(&(head + &found(&receipt.answer) + &verdict(&receipt.answer.verdict())))?;
    }
    if recorded.outcome != proto::Outcome::Denied {
        return Ok(Ending::Answered);
    }
    if let Some(Body::Record(record, _)) = receipt.answer.entries.get(recorded.index).map(|entry| &entry.body) {
        complain(&format!("DENIED: {}", why(record)));
    }
    Ok(Ending::Denied)
}

/// One entry as a line, for a log that grows.
pub(super) fn line(watched: &Watched) -> String {
    let Watched { index, entry, .. } = watched;
    let time = words(entry.body.recorded_at_us());
    match &entry.body {
        Body::Commitment(_) => format!("{index}  {time}  commitment\n"),
        Body::Record(record, statement) => {
            let digest = digest_of(statement).map_or(String::new(), |digest| format!("  {digest}"));
            let outcome = outcome_name(record.outcome());
            let why = why(record);
            let why = if why.is_empty() { why } else { format!("  {why}") };
            let about = about(statement);
            let by = by(record, statement);
            let line = format!("{index}  {time}  {} {outcome}  {about}{digest}  by {by}{why}", statement.verb());
            wrap(&line, terminal_width(), 4)
        }
    }
}

/// Without `OUTCOME_`.
pub(super) fn outcome_name(outcome: proto::Outcome) -> &'static str {
    outcome.as_str_name().trim_start_matches("OUTCOME_")
}

fn assurance_name(assurance: proto::Assurance) -> &'static str {
    assurance.as_str_name().trim_start_matches("ASSURANCE_")
}

/// As people write it.
pub(super) fn repository_words(registry: &Registry, repository: &Repository) -> String {
    format!("{registry}/{repository}")
}

fn is_absent(answer: &Answer) -> bool {
    match &answer.finding {
        Finding::State(state) => state.setting.is_none(),
        Finding::States(list) => list.items.is_empty(),
        Finding::History(history) => history.versions.is_empty(),
        Finding::Principals(found) => found.principals.is_empty(),
        Finding::Changes(_) | Finding::Entry(_) | Finding::Inclusion { .. } => false,
    }
}

fn found(answer: &Answer) -> String {
    match (&answer.question, &answer.finding) {
        (Question::PolicyAt { .. }, Finding::State(found)) => policy(found, answer),
        (_, Finding::State(found)) => state(found, answer),
        (Question::RunningAt { .. }, Finding::States(list)) => workloads(&list.items, answer),
        (Question::RepositoriesAt { .. }, Finding::States(list)) => repositories(&list.items, answer),
        (_, Finding::States(list)) => tags(&list.items, answer),
        (_, Finding::Changes(list)) => changes(&list.items, answer),
        (Question::Sightings { .. }, Finding::History(history)) => sightings(history, &answer.entries),
        (_, Finding::History(found)) => history(found, &answer.entries),
        (_, Finding::Principals(found)) => principal::table(found),
        (_, Finding::Entry(index)) => entry(*index, &answer.entries),
        (_, Finding::Inclusion { index, tree_size, root, path }) => {
            let mut rows = Rows::list();
            rows.field("entry", index);
            rows.field("leaf hash", answer.entries.get(*index).map_or(String::new(), |entry| hex::encode(entry.hash)));
            rows.field("tree size", tree_size);
            rows.field("root", hex::encode(root));
            for (position, hash) in path.iter().enumerate() {
                rows.add([if position == 0 { "path" } else { "" }.to_owned(), hex::encode(hash)]);
            }
            rows.text()
        }
    }
}

/// The paragraph after every answer.
pub(super) fn verdict(verdict: &Verdict) -> String {
    let width = terminal_width();
    let mut text = "\n".to_owned() + &wrap(&format!("verified: {}", verdict.checked), width, 2);
    for proven in &verdict.proven {
        text.push_str(&wrap(&format!("  proven: {proven}"), width, 4));
    }
    for unproven in &verdict.unproven {
        text.push_str(&wrap(&format!("  not proven: {unproven}"), width, 4));
    }
    text
}

fn state(state: &State, answer: &Answer) -> String {
    let mut rows = Rows::list();
    rows.field("tag", subject_words(&state.subject));
    rows.field("as of", as_of(answer));
    let place = |place: &Place| place_words(place, &answer.entries);
    match (&state.setting, &state.at, &state.next) {
        (Some(setting), ..) => rows.field("digest", &setting.digest),
        (None, Some(_), _) => rows.field("digest", "none: bound to nothing"),
        (None, None, Some(_)) => rows.field("digest", "none: not seen yet"),
        (None, None, None) => rows.field("digest", "none: never seen"),
    }
    if let Some(setting) = &state.setting {
        rows.field("set by", place(&setting.set_by));
    }
    if let Some(at) = state.at.filter(|at| state.setting.as_ref().is_none_or(|setting| setting.set_by != *at)) {
        rows.field("last entry", place(&at));
    }
    if let Some(next) = &state.next {
        rows.field("next entry", place(next));
    }
    rows.text()
}

fn policy(state: &State, answer: &Answer) -> String {
    let mut rows = Rows::list();
    rows.field("policy", state.digest().map_or("none was set: no rules", Digest::as_str));
    rows.field("as of", as_of(answer));
    if let Some(setting) = &state.setting {
        rows.field("set by", place_words(&setting.set_by, &answer.entries));
    }
    if let Some(next) = &state.next {
        rows.field("next entry", place_words(next, &answer.entries));
    }
    let Some(policy) = policy_of(answer) else { return rows.text() };
    rows.field("rules", policy.rules().len());
    // It has no other control characters than line breaks and tabs.
    let lines: String = policy
        .text()
        .lines()
        .map(|line| format!("  {}", line.replace('\t', "    ")).trim_end().to_owned() + "\n")
        .collect();
    rows.text() + if lines.is_empty() { "" } else { "\n" } + &lines
}

fn tags(states: &[State], answer: &Answer) -> String {
    if states.is_empty() {
        return format!("no tags as of {}\n", as_of(answer));
    }
    let mut rows = Rows::new(&["TAG", "DIGEST", "SET BY", "SINCE", "LAST ENTRY"]);
    for state in states {
        let Subject::Tag(name) = &state.subject else { continue };
        rows.add([name.tag.to_string(), digest_or_dash(state.digest())].into_iter().chain(since(state)));
    }
    rows.text()
}

fn repositories(states: &[State], answer: &Answer) -> String {
    if states.is_empty() {
        return format!("no repositories as of {}\n", as_of(answer));
    }
    let mut rows = Rows::new(&["REPOSITORY", "TAGS SEEN", "NEWEST TAG BY", "RECORDED"]);
    for state in states {
        let Subject::TagsOf(registry, repository) = &state.subject else { continue };
        let Some(at) = &state.at else { continue };
        rows.add([
            repository_words(registry, repository),
            (at.version + 1).to_string(),
            format!("entry {}", at.index),
            words(at.recorded_at_us),
        ]);
    }
    rows.text()
}

fn workloads(states: &[State], answer: &Answer) -> String {
    if states.is_empty() {
        return format!("nothing ran as of {}\n", as_of(answer));
    }
    let mut rows = Rows::new(&["WORKLOAD", "IMAGE", "DIGEST", "SET BY", "SINCE", "LAST ENTRY"]);
    for state in states {
        let setter = state.setting.as_ref().map(|setting| setting.set_by.index);
        let image = setter.and_then(|index| answer.entries.get(index)).map_or("-".to_owned(), image_of);
        let names = [subject_words(&state.subject), image, digest_or_dash(state.digest())];
        rows.add(names.into_iter().chain(since(state)));
    }
    rows.text()
}

/// Set by which entry, since when, last touched by which.
fn since(state: &State) -> [String; 3] {
    let entry = |place: &Place| format!("entry {}", place.index);
    let setter = state.setting.as_ref().map(|setting| setting.set_by);
    [
        setter.as_ref().map_or("-".to_owned(), entry),
        setter.map_or("-".to_owned(), |place| words(place.recorded_at_us)),
        state.at.as_ref().map_or("-".to_owned(), entry),
    ]
}

fn changes(changes: &[(State, State)], answer: &Answer) -> String {
    if changes.is_empty() {
        return "nothing changed\n".to_owned();
    }
    let name = if matches!(answer.question, Question::RepositoryDiff { .. }) { "TAG" } else { "WORKLOAD" };
    let mut rows = Rows::new(&[name, "FROM", "TO", "LAST ENTRY", "RECORDED"]);
    for (from, to) in changes {
        let name = match &from.subject {
            Subject::Tag(name) => name.tag.to_string(),
            subject => subject_words(subject),
        };
        let last = to
            .at
            .map_or(["-".to_owned(), "-".to_owned()], |at| [format!("entry {}", at.index), words(at.recorded_at_us)]);
        rows.add([name, digest_or_dash(from.digest()), digest_or_dash(to.digest())].into_iter().chain(last));
    }
    rows.text()
}

fn history(history: &History, entries: &VerifiedEntries) -> String {
    if history.versions.is_empty() {
        return format!("no entries about {}\n", subject_words(&history.subject));
    }
    let mut rows =
        Rows::new(&["ENTRY", "RECORDED", "WHAT", "OUTCOME", "DIGEST", "BOUND AFTER", "BY", "ASSURANCE", "WHY"]);
    for version in &history.versions {
        let Some((record, statement)) = record_of(version, entries) else { continue };
        let after = version.after.as_ref().map(|setting| &setting.digest);
        rows.add([
            version.place.index.to_string(),
            words(version.place.recorded_at_us),
            statement.verb().to_owned(),
            outcome_name(record.outcome()).to_owned(),
            digest_or_dash(digest_of(statement)),
            digest_or_dash(after),
            by(record, statement),
            assurance_name(record.assurance()).to_owned(),
            why_and_when(record, statement),
        ]);
    }
    rows.text()
}

fn sightings(history: &History, entries: &VerifiedEntries) -> String {
    if history.versions.is_empty() {
        return format!("no entries name {}\n", subject_words(&history.subject));
    }
    let mut rows = Rows::new(&["ENTRY", "RECORDED", "WHAT", "OUTCOME", "ABOUT", "BY", "ASSURANCE", "WHY"]);
    for version in &history.versions {
        let Some((record, statement)) = record_of(version, entries) else { continue };
        rows.add([
            version.place.index.to_string(),
            words(version.place.recorded_at_us),
            statement.verb().to_owned(),
            outcome_name(record.outcome()).to_owned(),
            about(statement),
            by(record, statement),
            assurance_name(record.assurance()).to_owned(),
            why(record),
        ]);
    }
    rows.text()
}

fn entry(index: u64, entries: &VerifiedEntries) -> String {
    let Some(entry) = entries.get(index) else { return String::new() };
    let mut rows = Rows::list();
    rows.field("entry", index);
    rows.field("recorded", words(entry.body.recorded_at_us()));
    rows.field("leaf hash", hex::encode(entry.hash));
    match &entry.body {
        Body::Commitment(commitment) => {
            rows.field("what", "commitment: closes a batch");
            rows.field("map root", hex::encode(&commitment.map_root));
            rows.field("map size", commitment.map_size);
        }
        Body::Record(record, statement) => add_record(&mut rows, record, statement),
    }
    rows.text()
}

/// The intent of which a statement says what became.
fn settled_by(statement: &Statement) -> Option<u64> {
    match &statement.kind {
        Kind::TagPush { settles, .. } | Kind::TagDelete { settles, .. } | Kind::ManifestDelete { settles, .. } => {
            *settles
        }
        _ => None,
    }
}

fn add_record(rows: &mut Rows, record: &proto::Record, statement: &Statement) {
    let message = &statement.message;
    rows.field("what", format!("{} {}", statement.verb(), about(statement)));
    rows.field("outcome", outcome_name(record.outcome()));
    rows.field("rule", &record.rule);
    rows.field("why", &record.detail);
    rows.field("digest", digest_of(statement).map_or("", Digest::as_str));
    rows.field("image", image_in(statement).unwrap_or_default());
    if let Kind::PolicyChange { policy, .. } = &statement.kind {
        let lines = if policy.text().trim().is_empty() { "no rules" } else { policy.text() };
        for (position, line) in lines.lines().enumerate() {
            rows.add([if position == 0 { "policy" } else { "" }.to_owned(), line.to_owned()]);
        }
    }
    rows.field("settles", settled_by(statement).map(|intent| format!("entry {intent}")).unwrap_or_default());
    if let Kind::PrincipalChange { change } = &statement.kind {
        principal::change_rows(rows, change);
    }
    if let Kind::KeyChange { change } = &statement.kind {
        rows.field("new key", change.vkey());
        rows.field("replaces", change.replaces());
    }
    rows.field("principal", &record.principal);
    rows.field("assurance", assurance_name(record.assurance()));
    rows.field("signed by", record.producer.as_ref().map_or("", |producer| &producer.key_id));
    rows.field("actor", &message.actor);
    rows.field("source", &message.source);
    rows.field("ci run", &message.ci_run);
    rows.field("trace", &message.trace_id);
    rows.field("event id", &message.event_id);
    if let Some(time_us) = u64::try_from(message.occurred_at_us).ok().filter(|time_us| *time_us > 0) {
        rows.field("occurred", format!("{} by the producer's clock", words(time_us)));
    }
    if let Some(proto::statement::Kind::TagObserved(seen)) = &message.kind {
        rows.field("checks", seen.checks_entry.checked_sub(1).map_or(String::new(), |index| format!("entry {index}")));
        rows.field("came about", interval(seen).unwrap_or_default());
    }
    for attribute in &message.attributes {
        rows.field("attribute", format!("{}={}", attribute.key, attribute.value));
    }
}

/// Between which looks something came to be as it was seen.
fn interval(seen: &proto::TagObserved) -> Option<String> {
    match (seen.last_seen_us, seen.first_seen_us) {
        (_, 0) => None,
        (0, first) => Some(format!("before {} by the producer's clock", words(first))),
        (last, first) => Some(format!("between {} and {} by the producer's clock", words(last), words(first))),
    }
}

fn record_of<'a>(version: &HistoryVersion, entries: &'a VerifiedEntries) -> Option<(&'a proto::Record, &'a Statement)> {
    match &entries.get(version.place.index)?.body {
        Body::Record(record, statement) => Some((record, statement)),
        Body::Commitment(_) => None,
    }
}

/// An entry of a history as a line of its own.
pub(super) fn change_line(place: Place, record: &proto::Record, statement: &Statement) -> String {
    let (index, time, verb) = (place.index, words(place.recorded_at_us), statement.verb());
    let (outcome, about, by) = (outcome_name(record.outcome()), about(statement), by(record, statement));
    format!("entry {index}  {time}  {verb} {outcome}  {about}  by {by}\n")
}

/// An entry in a few words: `entry 41, push APPLIED 2026-11-21T10:07:00Z by ci`.
fn place_words(place: &Place, entries: &VerifiedEntries) -> String {
    let Place { index, recorded_at_us, .. } = *place;
    let time = words(recorded_at_us);
    match entries.get(index).map(|entry| &entry.body) {
        Some(Body::Record(record, statement)) => {
            let (outcome, by) = (outcome_name(record.outcome()), by(record, statement));
            let why = why(record);
            let why = if why.is_empty() { why } else { format!(": {why}") };
            format!("entry {index}, {} {outcome} {time} by {by}{why}", statement.verb())
        }
        _ => format!("entry {index}, {time}"),
    }
}

/// What a statement is about.
fn about(statement: &Statement) -> String {
    match &statement.kind {
        Kind::ManifestDelete { registry, repository, digest, .. } => {
            format!("{}@{digest}", repository_words(registry, repository))
        }
        Kind::Deployment { workload, .. } => subject_words(&Subject::Workload(workload.clone())),
        Kind::Attestation { digest } => digest.to_string(),
        Kind::PolicyChange { .. } => subject_words(&Subject::Policy),
        Kind::KeyChange { change } => {
            format!("{} to {}", hex::encode(change.replaces().hash()), hex::encode(change.vkey().hash()))
        }
        Kind::PrincipalChange { change } => match change.principal() {
            Some(_) => change.name().to_owned(),
            None => format!("{} (revoked)", change.name()),
        },
        Kind::TagPush { .. } | Kind::TagDelete { .. } | Kind::TagObserved { .. } => {
            tag_of(statement).map_or(String::new(), |tag| tag.to_string())
        }
    }
}

/// Who was authenticated, and who they say it was.
fn by(record: &proto::Record, statement: &Statement) -> String {
    match statement.message.actor.as_str() {
        "" => visible(&record.principal),
        actor => visible(&format!("{} ({actor})", record.principal)),
    }
}

/// Why the outcome is what it is.
fn why(record: &proto::Record) -> String {
    visible(&match (record.rule.as_str(), record.detail.as_str()) {
        ("", detail) => detail.to_owned(),
        (rule, "") => format!("rule {rule}"),
        (rule, detail) => format!("{detail} (rule {rule})"),
    })
}

/// The same, and for what was seen of a tag when it came about.
fn why_and_when(record: &proto::Record, statement: &Statement) -> String {
    let interval = match &statement.message.kind {
        Some(proto::statement::Kind::TagObserved(seen)) => interval(seen),
        _ => None,
    };
    [why(record)].into_iter().filter(|why| !why.is_empty()).chain(interval).collect::<Vec<_>>().join("; ")
}

fn image_of(entry: &VerifiedEntry) -> String {
    match &entry.body {
        Body::Record(_, statement) => image_in(statement).unwrap_or_default(),
        Body::Commitment(_) => String::new(),
    }
}

/// The image of a deployment, as it was asked for.
fn image_in(statement: &Statement) -> Option<String> {
    let Kind::Deployment { registry, repository, tag, .. } = &statement.kind else { return None };
    let tag = tag.as_ref().map_or(String::new(), |tag| format!(":{tag}"));
    Some(repository_words(registry, repository) + &tag)
}

fn as_of(answer: &Answer) -> String {
    let time = answer.as_of_us.map_or(String::new(), words);
    if answer.question.until_us() == Some(0) { format!("now ({time})") } else { time }
}

fn digest_or_dash(digest: Option<&Digest>) -> String {
    digest.map_or("-".to_owned(), Digest::to_string)
}

/// A time to the second, or to the microsecond where it has any: what is shown can be asked with.
pub(super) fn words(time_us: u64) -> String {
    rfc3339(time_us).replace(".000000", "")
}
