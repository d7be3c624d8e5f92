//! What must hold for bytes from anywhere, decoder by decoder: no panic, no more time than they are worth, and one valid encoding
//! of everything, so that what decodes encodes to the same bytes.
//!
//! A target is a function of bytes that panics where that does not hold. `tools/fuzz/run` hands them to libFuzzer, for as long as
//! wished; `tests/hostile_bytes.rs`, a short while and without any tool, to a simple mutator over the same corpus.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::Duration;

use prost::Message;
use reqwest::header::{HeaderMap, HeaderValue, LINK};
use tagledger::api::grpc_timeout;
use tagledger::client::saved;
use tagledger::edge::distribution::{self, MAX_EVENTS, Reading};
use tagledger::edge::gateway;
use tagledger::edge::gateway::journal;
use tagledger::edge::registry::listing;
use tagledger::edge::registry::token::{Challenge, granted};
use tagledger::edge::scanner::kept_again;
use tagledger::ledger::answer::Claimed;
use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{Body, SignedEntry, index_and_time};
use tagledger::ledger::evidence::verify;
use tagledger::ledger::keys::Chain;
use tagledger::ledger::merkle::tile::{TilePath, push_bundled, split_bundle};
use tagledger::ledger::names::{Digest, Registry, Repository, Tag, TagRef, parse_repository};
use tagledger::ledger::note::{Skey, Vkey, open_note};
use tagledger::ledger::policy::Policy;
use tagledger::ledger::policy::import::{Format, Place, import};
use tagledger::ledger::replay::state;
use tagledger::ledger::statement::Statement;
use tagledger::ledger::tlog_proof;
use tagledger::proto;

/// A decoder of outside bytes.
pub(crate) type Target = fn(&[u8]);

/// All of them, by the names of their folders in `corpus`.
pub(crate) const TARGETS: [(&str, Target); 21] = [
    ("audit_state", audit_state),
    ("checkpoint", checkpoint),
    ("configuration", configuration),
    ("deadline", deadline),
    ("entry", entry),
    ("evidence", evidence),
    ("gateway_request", gateway_request),
    ("journal", journal_text),
    ("messages", messages),
    ("names", names),
    ("note", note),
    ("policy", policy),
    ("policy_import", policy_import),
    ("registry", registry),
    ("scanner_state", scanner_state),
    ("statement", statement),
    ("succession", succession),
    ("tampering", tampering),
    ("tile", tile),
    ("tlog_proof", tlog_proof_text),
    ("webhook", webhook),
];

/// The key of the test vectors, whose seed is public.
fn skey() -> Skey {
    Skey::from_seed("ledger.example/vectors".parse().expect("an origin"), &[1; 32])
}

static VKEY: LazyLock<Vkey> = LazyLock::new(|| skey().vkey());

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// What decodes encodes to the same bytes, but for what protobuf leaves open, which is sorted out by the first encoding.
fn same<T: Message + Default + PartialEq>(data: &[u8]) {
    let Ok(message) = T::decode(data) else { return };
    let encoded = message.encode_to_vec();
    // A negative enum is the worst: five bytes that are read as one of ten.
    assert!(encoded.len() <= 2 * data.len(), "an encoding grows from {} to {} bytes", data.len(), encoded.len());
    assert!(T::decode(&*encoded).is_ok_and(|again| again == message), "a message survives");
}

/// The file that an audit goes on from.
pub(crate) fn audit_state(data: &[u8]) {
    if let Ok(loaded) = state::load(data, &*VKEY) {
        let mut saved = Vec::new();
        state::save(&loaded.replay, &loaded.note, &mut saved).expect("memory can be written");
        assert!(saved == data, "a state has one encoding");
    }
    let _ = state::header(data);
}

/// A signed checkpoint.
pub(crate) fn checkpoint(data: &[u8]) {
    let Some(text) = text(data) else { return };
    // As it came, and as it would be if the ledger had signed it.
    let _ = Checkpoint::open(text, &*VKEY);
    if !text.ends_with('\n') {
        return;
    }
    let signed = skey().sign_note(text);
    let Ok(checkpoint) = Checkpoint::open(&signed, &*VKEY) else { return };
    let body = open_note(&checkpoint.sign(&skey()), &VKEY).expect("just signed").to_owned();
    assert_eq!(body, text, "a checkpoint has one text");
}

/// The configuration files of the three services.
pub(crate) fn configuration(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let _ = toml::from_str::<tagledger::server::config::Config>(text);
    let _ = toml::from_str::<tagledger::server::gateway::Settings>(text);
    let _ = toml::from_str::<tagledger::server::scan::Settings>(text);
}

/// How long a caller waits.
pub(crate) fn deadline(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Some(timeout) = grpc_timeout(text) else { return };
    assert!((2..=9).contains(&text.len()), "eight digits and a unit: {text:?}");
    assert!(timeout <= Duration::from_secs(99_999_999 * 3600), "{timeout:?}");
}

/// An entry of the log.
pub(crate) fn entry(data: &[u8]) {
    let skimmed = index_and_time(data);
    let Ok(entry) = SignedEntry::decode(data) else { return };
    assert_eq!(skimmed, Ok((entry.body.index(), entry.body.recorded_at_us())), "both readings agree");
    let body = match &entry.body {
        Body::Record(record, _) => proto::entry::Body::Record(record.encode_to_vec()),
        Body::Commitment(commitment) => proto::entry::Body::Commitment(commitment.encode_to_vec()),
    };
    let signature = proto::Entry::decode(data).expect("it was decoded").signature;
    let again = proto::Entry { body: Some(body), signature };
    assert!(again.encode_to_vec() == data, "an entry has one encoding");
    let _ = entry.verify(&VKEY);
}

/// An evidence file.
pub(crate) fn evidence(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(claimed) = saved::from_text(text) else { return };
    let _ = claimed.check(&*VKEY);
    for shown in claimed.keys.iter().chain(&claimed.pages) {
        let _ = Chain::follow(shown, &VKEY);
    }
    let canonical = saved::to_text(&claimed);
    let again = saved::from_text(&canonical).expect("what is written can be read");
    assert_eq!(saved::to_text(&again), canonical, "a file survives");
}

/// A request to the gateway: the method, a blank, path and parameters.
pub(crate) fn gateway_request(data: &[u8]) {
    let Some((method, target)) = text(data).and_then(|text| text.split_once(' ')) else { return };
    let registry = "registry.example".parse().expect("a registry");
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let Ok(method) = method.parse() else { return };
    let Some(understood) = gateway::understood(&method, path, query, &registry) else { return };
    let climbs = understood.split(['/', '?']).any(|part| part == "." || part == "..");
    assert!(!climbs && !understood.contains("//") && !understood.contains('%'), "{understood:?}");
    let (path, query) = understood.split_once('?').map_or((&*understood, None), |(path, query)| (path, Some(query)));
    let again = gateway::understood(&method, path, query, &registry);
    assert_eq!(again.as_deref(), Some(&*understood), "what is forwarded has one spelling");
}

/// What a gateway finds of the one before.
pub(crate) fn journal_text(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let open = journal::read(text);
    assert!(open.len() <= text.lines().count(), "no more is open than lines say");
    for (id, left) in &open {
        assert!(!id.contains([' ', '\n']) && left.statement.len() < text.len(), "{id:?}");
        let _ = Statement::parse(&left.statement);
    }
}

/// Every message of the services, in their order, and what travels in those.
const MESSAGES: [Target; 48] = [
    same::<proto::AppendRequest>,
    same::<proto::AppendResponse>,
    same::<proto::AppendBatchRequest>,
    same::<proto::AppendBatchResponse>,
    same::<proto::AppendStreamRequest>,
    same::<proto::AppendStreamResponse>,
    same::<proto::GetLedgerRequest>,
    same::<proto::GetLedgerResponse>,
    same::<proto::GetKeysRequest>,
    same::<proto::GetKeysResponse>,
    same::<proto::GetCheckpointRequest>,
    same::<proto::GetCheckpointResponse>,
    same::<proto::GetEntryRequest>,
    same::<proto::GetEntryResponse>,
    same::<proto::ListEntriesRequest>,
    same::<proto::ListEntriesResponse>,
    same::<proto::GetInclusionProofRequest>,
    same::<proto::GetInclusionProofResponse>,
    same::<proto::GetConsistencyProofRequest>,
    same::<proto::GetConsistencyProofResponse>,
    same::<proto::GetMultiProofRequest>,
    same::<proto::GetMultiProofResponse>,
    same::<proto::WatchRequest>,
    same::<proto::WatchResponse>,
    same::<proto::ResolveTagRequest>,
    same::<proto::ResolveTagResponse>,
    same::<proto::ListTagHistoryRequest>,
    same::<proto::ListTagHistoryResponse>,
    same::<proto::ListTagsRequest>,
    same::<proto::ListTagsResponse>,
    same::<proto::ListRepositoriesRequest>,
    same::<proto::ListRepositoriesResponse>,
    same::<proto::ListDigestSightingsRequest>,
    same::<proto::ListDigestSightingsResponse>,
    same::<proto::ListRunningRequest>,
    same::<proto::ListRunningResponse>,
    same::<proto::DiffRepositoryRequest>,
    same::<proto::DiffRepositoryResponse>,
    same::<proto::DiffEnvironmentRequest>,
    same::<proto::DiffEnvironmentResponse>,
    same::<proto::GetPolicyRequest>,
    same::<proto::GetPolicyResponse>,
    same::<proto::ListPrincipalChangesRequest>,
    same::<proto::ListPrincipalChangesResponse>,
    same::<proto::ProveSubjectRequest>,
    same::<proto::ProveSubjectResponse>,
    same::<proto::Statement>,
    same::<proto::Evidence>,
];

/// Every message that a server or a client takes off the wire: the first byte says which.
pub(crate) fn messages(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    MESSAGES[usize::from(*which) % MESSAGES.len()](data);
    if let Ok(evidence) = proto::Evidence::decode(data) {
        let _ = verify(&evidence, &*VKEY);
    }
}

/// Names of registries, repositories, tags and digests, and references made of them.
pub(crate) fn names(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(registry) = text.parse::<Registry>() {
        assert_eq!(registry.as_str(), text, "a registry has one name");
    }
    if let Ok(tag) = text.parse::<Tag>() {
        assert_eq!(tag.as_str(), text, "a tag has one name");
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.as_str(), text, "a digest has one spelling");
    }
    if let Ok(reference) = text.parse::<TagRef>() {
        assert_eq!(reference.to_string().parse(), Ok(reference.clone()), "a reference survives");
        assert_eq!(reference.to_string(), text, "a reference has one spelling");
    }
    if let Ok((registry, repository)) = parse_repository(text) {
        assert_eq!(Repository::parse(&registry, repository.as_str()), Ok(repository), "a repository survives");
    }
}

/// Signed notes and the keys around them.
pub(crate) fn note(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Ok(vkey) = text.parse::<Vkey>() {
        assert_eq!(vkey.to_string(), text.trim_end_matches('\n'), "a key has one text, whatever lines end its file");
    }
    if let Ok(skey) = Skey::from_text(text) {
        assert_eq!(skey.to_text().trim_end(), text.trim_end(), "a key has one text");
    }
    if let Ok(body) = open_note(text, &VKEY) {
        assert!(text.starts_with(body), "the text of a note is its beginning");
    }
}

/// A policy.
pub(crate) fn policy(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(policy) = Policy::parse(text) else { return };
    assert_eq!(policy.text(), text, "a policy is its text");
    assert!(policy.rules().len() <= 1000, "{} rules", policy.rules().len());
}

/// What registries export of their rules: the first byte says whose.
pub(crate) fn policy_import(data: &[u8]) {
    let Some((which, json)) = data.split_first() else { return };
    let Some(json) = text(json) else { return };
    let format = match which % 8 {
        0 => Format::Acr,
        1 => Format::DockerHub,
        2 => Format::Ecr,
        3 => Format::GitLab,
        4 => Format::Google,
        5 => Format::Harbor,
        6 => Format::Nexus,
        _ => Format::Quay,
    };
    let registry: Registry = "registry.example".parse().expect("a registry");
    let under = Repository::parse(&registry, "team").ok();
    for place in [Place::default(), Place { registry: Some(registry), under }] {
        if let Ok(imported) = import(format, json, &place) {
            let parsed = Policy::parse(&imported.document.to_text());
            assert!(parsed.is_ok(), "what is imported is a policy: {parsed:?}");
        }
    }
}

/// What a registry answers a scanner, a gateway and whoever confirms; the first byte says with what.
pub(crate) fn registry(data: &[u8]) {
    let Some((which, data)) = data.split_first() else { return };
    match which % 4 {
        0 => {
            let (mut names, mut length) = (BTreeSet::new(), 0);
            let _ = listing::add(&mut names, &mut length, data);
            assert!(names.iter().all(|name| name.len() <= listing::MAX_NAME_LENGTH), "a name is short");
            assert!(length <= data.len(), "{length} bytes of names in {}", data.len());
        }
        1 => {
            let url: reqwest::Url = "http://registry.example:5000/v2/a/tags/list?n=5".parse().expect("a URL");
            let Ok(link) = HeaderValue::from_bytes(data) else { return };
            let headers = HeaderMap::from_iter([(LINK, link)]);
            if let Ok(Some(next)) = listing::next_page(&url, &headers) {
                assert_eq!(next.origin(), url.origin(), "a list goes on where it began");
                assert!(next.username().is_empty() && next.password().is_none(), "{next}");
            }
        }
        2 => {
            let Some(challenge) = text(data).and_then(Challenge::parse) else { return };
            let parts = [Some(&challenge.realm), challenge.service.as_ref(), challenge.scope.as_ref()];
            let length: usize = parts.into_iter().flatten().map(String::len).sum();
            assert!(length < data.len(), "{challenge:?}");
        }
        _ => {
            let Some((header, life)) = granted(data) else { return };
            assert!(header.as_bytes().starts_with(b"Bearer ") && header.is_sensitive());
            assert!((60..=86_400).contains(&life.as_secs()), "{life:?}");
        }
    }
}

/// What a scanner remembers.
pub(crate) fn scanner_state(data: &[u8]) {
    let registry = "registry.example".parse().expect("a registry");
    let Some(kept) = kept_again(data, &registry) else { return };
    assert_eq!(kept_again(&kept, &registry).as_deref(), Some(&*kept), "a state survives");
}

/// A statement, as producers send it.
pub(crate) fn statement(data: &[u8]) {
    let Ok(_) = Statement::parse(data) else { return };
    let message = proto::Statement::decode(data).expect("it was parsed");
    assert!(message.encode_to_vec() == data, "a statement has one encoding");
}

/// Honest answers of the vectors, and what each says.
static HONEST: LazyLock<Vec<(Claimed, String)>> = LazyLock::new(|| {
    let vectors = include_str!("../../tests/vectors/evidence.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).expect("JSON");
    let cases = vectors["cases"].as_array().expect("cases").iter();
    let is_file = |case: &&serde_json::Value| case["file"].as_str().is_some_and(|file| file.starts_with('{'));
    let valid = cases.filter(|case| case["valid"].as_bool() == Some(true)).filter(is_file);
    let honest = valid.map(|case| {
        let claimed = saved::from_text(case["file"].as_str().expect("a file")).expect("an evidence file");
        let says = format!("{:?}", claimed.check(&*VKEY).expect("it verifies").finding);
        (claimed, says)
    });
    honest.collect()
});

/// What ledgers of the vectors show of their keys, whom one trusts who is shown it, and whom then.
static HONEST_KEYS: LazyLock<Vec<(proto::Evidence, Vkey, Chain)>> = LazyLock::new(|| {
    let vectors = include_str!("../../tests/vectors/succession.json");
    let vectors: serde_json::Value = serde_json::from_str(vectors).expect("JSON");
    let cases = vectors["evidence"].as_array().expect("cases").iter();
    let valid = cases.filter(|case| case["valid"].as_bool() == Some(true));
    let shown = valid.flat_map(|case| {
        let trusted: Vkey = case["vkey"].as_str().expect("a key").parse().expect("a key");
        let claimed = saved::from_text(case["file"].as_str().expect("a file")).expect("an evidence file");
        let followed = |shown| {
            let chain = Chain::follow(&shown, &trusted).ok()?;
            Some((shown, trusted.clone(), chain))
        };
        claimed.keys.into_iter().filter_map(followed).collect::<Vec<_>>()
    });
    shown.collect()
});

/// What shows the keys of a ledger, changed on its way as `tampering` does: it leads to the same keys, or to none.
pub(crate) fn succession(data: &[u8]) {
    let [which, part, changes @ ..] = data else { return };
    let (honest, trusted, chain) = &HONEST_KEYS[usize::from(*which) % HONEST_KEYS.len()];
    let mut bytes = honest.encode_to_vec();
    change(&mut bytes, *part, changes);
    let Ok(changed) = proto::Evidence::decode(&*bytes) else { return };
    if let Ok(followed) = Chain::follow(&changed, trusted) {
        assert_eq!(followed, *chain, "changed evidence leads to other keys");
    }
}

/// Changes bytes from some part of them on: three bytes say where and how.
fn change(bytes: &mut [u8], part: u8, changes: &[u8]) {
    let from = usize::from(part) * bytes.len() / 256;
    for change in changes.chunks_exact(3) {
        let at = (from + usize::from(change[0]) * 256 + usize::from(change[1])) % bytes.len();
        bytes[at] ^= change[2];
    }
}

/// Evidence that somebody changed on its way, the checksum of its file with it: it says the same, or nothing. The first bytes
/// choose answer, page and part; the rest is three bytes for each change.
pub(crate) fn tampering(data: &[u8]) {
    let [which, page, part, changes @ ..] = data else { return };
    let (honest, says) = &HONEST[usize::from(*which) % HONEST.len()];
    let mut claimed = honest.clone();
    let count = claimed.pages.len();
    let page = &mut claimed.pages[usize::from(*page) % count];
    let mut bytes = page.encode_to_vec();
    change(&mut bytes, *part, changes);
    let Ok(changed) = proto::Evidence::decode(&*bytes) else { return };
    *page = changed;
    if let Ok(answer) = claimed.check(&*VKEY) {
        assert_eq!(format!("{:?}", answer.finding), *says, "changed evidence verifies, and says something else");
    }
}

/// The path of a tile, and a bundle of entries.
pub(crate) fn tile(data: &[u8]) {
    if let Some(entries) = split_bundle(data) {
        let mut again = Vec::new();
        entries.iter().for_each(|entry| push_bundled(&mut again, entry));
        assert!(again == data, "a bundle has one encoding");
    }
    let Some(text) = text(data) else { return };
    let Some(path) = TilePath::parse(text) else { return };
    assert_eq!(path.to_string(), text, "a tile has one path");
    for size in [0, 1, 255, 256, 70_000, u64::MAX >> 1, u64::MAX] {
        let _ = path.is_covered_by(size);
    }
}

/// A C2SP tlog-proof.
pub(crate) fn tlog_proof_text(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(evidence) = tlog_proof::from_text(text) else { return };
    assert_eq!(tlog_proof::to_text(&evidence).as_deref(), Some(text), "a proof has one text");
    let _ = verify(&evidence, &*VKEY);
}

/// What a registry posts.
pub(crate) fn webhook(data: &[u8]) {
    let registry = "registry.example".parse().expect("a registry");
    let Ok(readings) = distribution::read_envelope(&registry, data) else { return };
    assert!(readings.len() <= MAX_EVENTS, "{} events", readings.len());
    for reading in readings {
        if let Reading::Claim { statement, .. } = reading {
            let parsed = Statement::parse(&statement.encode_to_vec());
            assert!(parsed.is_ok(), "what is claimed is a statement: {parsed:?}");
        }
    }
}
