//! Notifications of Distribution, the reference registry (Docker's `registry`, GitLab's bundled one), read into statements.
//!
//! Pure: an envelope's bytes in, one [`Reading`] per event out. The same event gives the same statement, byte for byte, so
//! that the ledger can tell a retry by its event id. Who may speak, and what becomes of the readings, is left to
//! [`super::webhook`].
//!
//! | event | reading |
//! |---|---|
//! | `push` with a tag | `TagPush`, HAPPENED |
//! | `push` without one: a blob, or a manifest by digest | ignored: binds nothing |
//! | `pull`; `mount` | ignored |
//! | `delete` with a tag | `TagDelete`, HAPPENED |
//! | `delete` with a digest only | `ManifestDelete`, HAPPENED |
//! | `delete` with neither: a whole repository | not understood: no statement says that |
//!
//! A deletion by digest is announced as one `delete` of the digest, then one of each tag that pointed at it, all with the
//! same `request.id`. They are recorded as they come: the first unbinds the tags, the others find them unbound, and the
//! attribute `request.id` shows that they belong together. The deletion of a blob looks like that of a manifest; it becomes
//! a `ManifestDelete` to which no tag is bound, and so changes nothing.
//!
//! v1 (2.x) and v2 (3.x) of the format have the same fields: the number went up when manifests of schema 1 were removed.
//! Envelopes may hold several events, not necessarily related (`notifications/event.go` of the project).
//!
//! An announcement is a claim: Distribution sends `push` before it writes the tag, and concurrent pushes are announced in
//! another order than they take effect. [`super::confirm`] asks the registry.

use prost::Message as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ledger::names::Registry;
use crate::ledger::statement::Statement;
use crate::proto;

/// Media types of an envelope, 2.x and 3.x.
pub const MEDIA_TYPES: [&str; 2] =
    ["application/vnd.docker.distribution.events.v1+json", "application/vnd.docker.distribution.events.v2+json"];

/// What Go writes for a time that was never set.
const GO_ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// What one event comes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// Something to record.
    Claim {
        /// Valid by [`Statement::parse`].
        statement: Box<proto::Statement>,
        /// The event, as JSON, should the ledger refuse it all the same.
        event: String,
    },
    /// Understood, and nothing to the ledger.
    Ignored(Ignored),
    /// Not understood.
    Refused {
        /// The event, as JSON.
        event: String,
        /// Why, in words.
        reason: String,
    },
}

/// Why an event is nothing to the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// Somebody read.
    Pull,
    /// A blob, or a manifest by digest: no tag moves.
    PushWithoutTag,
    /// A blob was shared between repositories.
    Mount,
}

impl Ignored {
    /// A word for counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::PushWithoutTag => "push_without_tag",
            Self::Mount => "mount",
        }
    }
}

/// Most events of an envelope. A registry sends one at a time, or a few; more are kept aside unread.
pub const MAX_EVENTS: usize = 10_000;

/// Why a body is no envelope.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON, or not of the form.
    #[error("not an envelope of Distribution events: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Too much at once.
    #[error("an envelope of {0} events; at most {MAX_EVENTS} are read")]
    TooManyEvents(usize),
}

/// Reads an envelope from a source whose registry is known as `registry`; events cannot say that reliably.
///
/// Nesting that is read is bounded by `serde_json` (128 levels), length by the caller.
pub fn read_envelope(registry: &Registry, body: &[u8]) -> Result<Vec<Reading>, EnvelopeError> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        // Unparsed, and not copied: millions of small events would take a hundred times the room of the body.
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }
    let envelope: Envelope<'_> = serde_json::from_slice(body)?;
    if envelope.events.len() > MAX_EVENTS {
        return Err(EnvelopeError::TooManyEvents(envelope.events.len()));
    }
    Ok(envelope.events.iter().map(|event| read_event(registry, event.get())).collect())
}

fn read_event(registry: &Registry, json: &str) -> Reading {
    let event = || json.to_owned();
    let parsed = serde_json::from_str::<Event>(json).map_err(|error| format!("not an event: {error}"));
    match parsed.and_then(|event| event.read(registry)) {
        Ok(Read::Claim(statement)) => Reading::Claim { statement, event: event() },
        Ok(Read::Ignored(why)) => Reading::Ignored(why),
        Err(reason) => Reading::Refused { event: event(), reason },
    }
}

/// The fields the ledger reads. Everything else (sizes, references, URLs) is left out: the digest stands for it.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(default)]
    id: String,
    #[serde(default)]
    timestamp: String,
    action: String,
    target: Target,
    #[serde(default)]
    request: Option<Request>,
    #[serde(default)]
    actor: Option<Actor>,
    #[serde(default)]
    source: Option<Source>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Target {
    media_type: String,
    digest: String,
    repository: String,
    tag: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Request {
    id: String,
    addr: String,
    host: String,
    method: String,
    useragent: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actor {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Source {
    addr: String,
    #[serde(rename = "instanceID")]
    instance_id: String,
}

/// What an understood event comes to.
enum Read {
    Claim(Box<proto::Statement>),
    Ignored(Ignored),
}

impl Event {
    fn read(self, registry: &Registry) -> Result<Read, String> {
        let has_tag = !self.target.tag.is_empty();
        match self.action.as_str() {
            "pull" => return Ok(Read::Ignored(Ignored::Pull)),
            "push" if !has_tag => return Ok(Read::Ignored(Ignored::PushWithoutTag)),
            "mount" if !has_tag => return Ok(Read::Ignored(Ignored::Mount)),
            _ => {}
        }
        if self.id.is_empty() {
            return Err("it has no id, so a retry could not be told from a new event".to_owned());
        }
        let statement = self.into_statement(registry)?;
        Statement::parse(&statement.encode_to_vec())
            .map_err(|violations| violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        Ok(Read::Claim(Box::new(statement)))
    }

    fn into_statement(self, registry: &Registry) -> Result<proto::Statement, String> {
        let occurred_at_us = self.occurred_at_us()?;
        let source = self.source.unwrap_or_default();
        let source = [source.addr, source.instance_id].into_iter().filter(|part| !part.is_empty());
        Ok(proto::Statement {
            kind: Some(kind(registry, &self.action, self.target)?),
            event_id: self.id,
            occurred_at_us,
            actor: bounded(&self.actor.unwrap_or_default().name, 256),
            source: bounded(&source.collect::<Vec<_>>().join("/"), 256),
            attributes: attributes(&self.request.unwrap_or_default()),
            ..proto::Statement::default()
        })
    }

    /// RFC 3339 with nanoseconds and any offset, to microseconds since the epoch, cut; 0 where the event does not say.
    fn occurred_at_us(&self) -> Result<i64, String> {
        match self.timestamp.as_str() {
            "" | GO_ZERO_TIME => Ok(0),
            text => text
                .parse::<jiff::Timestamp>()
                .map(jiff::Timestamp::as_microsecond)
                .map_err(|e| format!("timestamp is not RFC 3339: {e}")),
        }
    }
}

fn kind(registry: &Registry, action: &str, target: Target) -> Result<proto::statement::Kind, String> {
    use proto::statement::Kind;
    let disposition = proto::Disposition::Happened.into();
    let registry = registry.to_string();
    let Target { media_type, digest, repository, tag } = target;
    match (action, digest.is_empty(), tag.is_empty()) {
        ("push", _, _) => {
            let media_type = bounded(&media_type, 256);
            Ok(Kind::TagPush(proto::TagPush { registry, repository, tag, digest, media_type, disposition, settles: 0 }))
        }
        ("delete", _, false) => {
            Ok(Kind::TagDelete(proto::TagDelete { registry, repository, tag, disposition, settles: 0 }))
        }
        ("delete", false, true) => {
            Ok(Kind::ManifestDelete(proto::ManifestDelete { registry, repository, digest, disposition, settles: 0 }))
        }
        ("delete", true, true) => {
            Err("it deletes neither a tag nor a digest but a whole repository; record what became of its tags"
                .to_owned())
        }
        (other, _, _) => Err(format!("action {:?} with a tag is not known", bounded(other, 80))),
    }
}

/// What else the event tells, sorted by key as the ledger demands. Empty values are left out.
fn attributes(request: &Request) -> Vec<proto::Attribute> {
    let pairs = [
        ("request.addr", &request.addr),
        ("request.host", &request.host),
        ("request.id", &request.id),
        ("request.method", &request.method),
        ("request.useragent", &request.useragent),
    ];
    let said = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    said.map(|(key, value)| proto::Attribute { key: key.to_owned(), value: bounded(value, 1024) }).collect()
}

/// Free text within the ledger's limits: control characters become U+FFFD, and what is too long is cut at a character.
///
/// Only for what is kept to be shown (actor, source, media type, attributes). Names, digests and ids are never altered:
/// what the ledger would refuse there is not understood.
fn bounded(text: &str, limit: usize) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect();
    let end = (0..=limit.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
    text.truncate(end.unwrap_or(0));
    text
}

#[cfg(test)]
mod tests {
    use proto::statement::Kind;
    use serde_json::json;

    use super::*;

    const PUSH_V1: &str = include_str!("../../tests/payloads/distribution/captured-manifest-push-tag-v1.json");
    const OVERWRITE_V1: &str = include_str!("../../tests/payloads/distribution/captured-manifest-overwrite-v1.json");
    const BLOB_PUSH: &str = include_str!("../../tests/payloads/distribution/captured-blob-push.json");
    const DELETE_TRIPLE: [&str; 3] = [
        include_str!("../../tests/payloads/distribution/captured-delete-by-digest-1of3-manifest.json"),
        include_str!("../../tests/payloads/distribution/captured-delete-by-digest-2of3-tag-v1.json"),
        include_str!("../../tests/payloads/distribution/captured-delete-by-digest-3of3-tag-prod.json"),
    ];

    fn registry() -> Registry {
        "127.0.0.1:5000".parse().expect("canonical")
    }

    fn read(body: &str) -> Vec<Reading> {
        read_envelope(&registry(), body.as_bytes()).expect("an envelope")
    }

    fn read_one(body: &str) -> Reading {
        let [reading] = <[Reading; 1]>::try_from(read(body)).expect("one event");
        reading
    }

    fn claim(body: &str) -> proto::Statement {
        match read_one(body) {
            Reading::Claim { statement, .. } => *statement,
            other => panic!("{other:?}"),
        }
    }

    /// The captured push with some fields replaced, by JSON pointer.
    fn changed(changes: &[(&str, serde_json::Value)]) -> String {
        let mut json: serde_json::Value = serde_json::from_str(PUSH_V1).expect("JSON");
        for (pointer, value) in changes {
            *json.pointer_mut(pointer).expect("a field of the capture") = value.clone();
        }
        json.to_string()
    }

    fn reason(body: &str) -> String {
        match read_one(body) {
            Reading::Refused { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    fn attribute<'a>(statement: &'a proto::Statement, key: &str) -> Option<&'a str> {
        statement.attributes.iter().find(|attribute| attribute.key == key).map(|attribute| attribute.value.as_str())
    }

    #[test]
    fn a_captured_push_is_a_tag_push_with_everything_it_tells() {
        let statement = claim(PUSH_V1);
        let digest = "sha256:00b81f952d40055cb8f30e7c9307832936287b66ca08fee15f26a0ac35619c6a".to_owned();
        let expected = proto::TagPush {
            registry: "127.0.0.1:5000".into(),
            repository: "team/app".into(),
            tag: "v1".into(),
            digest,
            media_type: "application/vnd.oci.image.manifest.v1+json".into(),
            disposition: proto::Disposition::Happened.into(),
            settles: 0,
        };
        assert_eq!(statement.kind, Some(Kind::TagPush(expected)));
        assert_eq!(statement.event_id, "891c57ce-ef88-4cf2-99dd-0365b3f5f582");
        // 2026-11-21T07:02:40.628262562Z, nanoseconds cut.
        assert_eq!(statement.occurred_at_us, 1_795_244_560_628_262);
        assert_eq!(statement.actor, "ci-bot");
        assert_eq!(statement.source, "vm:5000/1c40b40e-aa89-4e32-a827-5a697869e646");
        let attributes: Vec<_> = statement.attributes.iter().map(|a| (a.key.as_str(), a.value.as_str())).collect();
        assert_eq!(
            attributes,
            [
                ("request.addr", "127.0.0.1:46386"),
                ("request.host", "127.0.0.1:5000"),
                ("request.id", "9764347f-8e72-4d01-bb28-c4451d036754"),
                ("request.method", "PUT"),
                ("request.useragent", "skopeo/1.9.3"),
            ]
        );
    }

    #[test]
    fn an_overwrite_differs_only_in_what_was_pushed() {
        let Some(Kind::TagPush(push)) = claim(OVERWRITE_V1).kind else { panic!("not a push") };
        assert_eq!((push.repository.as_str(), push.tag.as_str()), ("team/app", "v1"));
        assert!(push.digest.starts_with("sha256:ce8b8121"));
    }

    #[test]
    fn a_retry_gives_the_same_bytes_whatever_the_order_of_its_fields() {
        let first = claim(PUSH_V1).encode_to_vec();
        assert_eq!(first, claim(PUSH_V1).encode_to_vec());
        assert_eq!(first, claim(&changed(&[])).encode_to_vec(), "compact, fields in another order");
    }

    #[test]
    fn the_deletion_by_digest_is_a_manifest_and_then_its_tags_tied_by_the_request() {
        let statements = DELETE_TRIPLE.map(claim);
        let [manifest, v1, prod] = &statements;
        let Some(Kind::ManifestDelete(manifest)) = &manifest.kind else { panic!("{manifest:?}") };
        assert!(manifest.digest.starts_with("sha256:ce8b8121"));
        assert_eq!(manifest.disposition, i32::from(proto::Disposition::Happened));
        for (statement, tag) in [(v1, "v1"), (prod, "prod")] {
            let Some(Kind::TagDelete(delete)) = &statement.kind else { panic!("{statement:?}") };
            assert_eq!((delete.repository.as_str(), delete.tag.as_str()), ("team/app", tag));
        }
        for statement in &statements {
            assert_eq!(attribute(statement, "request.id"), Some("a57e3efe-cf52-4f4b-a887-c43772c1ea84"));
        }
    }

    #[test]
    fn what_moves_no_tag_is_ignored() {
        assert_eq!(read_one(BLOB_PUSH), Reading::Ignored(Ignored::PushWithoutTag));
        assert_eq!(
            read_one(&changed(&[("/events/0/target/tag", json!(""))])),
            Reading::Ignored(Ignored::PushWithoutTag)
        );
        assert_eq!(read_one(&changed(&[("/events/0/action", json!("pull"))])), Reading::Ignored(Ignored::Pull));
        let mount = BLOB_PUSH.replace("\"push\"", "\"mount\"");
        assert_eq!(read_one(&mount), Reading::Ignored(Ignored::Mount));
    }

    #[test]
    fn events_of_one_envelope_are_read_each_for_itself_and_in_order() {
        let event = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON")["events"][0].clone();
        let bad = json!({"action": 7});
        let body = json!({"events": [event(PUSH_V1), bad, event(BLOB_PUSH), event(OVERWRITE_V1)]}).to_string();
        let readings = read(&body);
        assert!(
            matches!(
                readings.as_slice(),
                [Reading::Claim { .. }, Reading::Refused { .. }, Reading::Ignored(_), Reading::Claim { .. }]
            ),
            "{readings:?}"
        );
        let Reading::Refused { event, .. } = &readings[1] else { panic!("{readings:?}") };
        assert_eq!(*event, bad.to_string());
    }

    #[test]
    fn what_is_not_understood_says_why() {
        for (pointer, value, expected) in [
            ("/events/0/id", json!(""), "it has no id"),
            ("/events/0/id", json!("x".repeat(129)), "event_id is 129 bytes long"),
            ("/events/0/timestamp", json!("yesterday"), "timestamp is not RFC 3339"),
            ("/events/0/timestamp", json!("1969-12-31T23:59:59Z"), "times before 1970"),
            ("/events/0/action", json!("rename"), "action \"rename\""),
            ("/events/0/target/digest", json!("sha256:00"), "tag_push.digest a sha256 digest has 64"),
            ("/events/0/target/digest", json!(""), "tag_push.digest must not be empty"),
            (
                "/events/0/target/repository",
                json!("Team/App"),
                "tag_push.repository is not canonical; write \"team/app\"",
            ),
            ("/events/0/target/tag", json!("v1:2"), "tag_push.tag \"v1:2\" is not a tag"),
            ("/events/0/target/tag", json!("v".repeat(129)), "tag_push.tag is 129 bytes long"),
            ("/events/0/target", json!([1]), "not an event"),
            ("/events/0", json!(null), "not an event"),
        ] {
            let reason = reason(&changed(&[(pointer, value.clone())]));
            assert!(reason.contains(expected), "{pointer} = {value}: {reason}");
        }
        let repository =
            changed(&[("/events/0/action", json!("delete")), ("/events/0/target", json!({"repository": "a"}))]);
        assert!(reason(&repository).contains("whole repository"));
    }

    #[test]
    fn free_text_is_cut_at_a_character_and_names_are_not() {
        let statement = claim(&changed(&[
            ("/events/0/actor/name", json!("é".repeat(200))),
            ("/events/0/request/useragent", json!(format!("a\u{0}\n{}", "ü".repeat(2000)))),
            ("/events/0/target/mediaType", json!("m".repeat(300))),
        ]));
        assert_eq!(statement.actor, "é".repeat(128));
        let useragent = attribute(&statement, "request.useragent").expect("kept");
        assert!(useragent.starts_with("a\u{fffd}\u{fffd}ü") && useragent.len() <= 1024 && useragent.len() > 1020);
        let Some(Kind::TagPush(push)) = statement.kind else { panic!("not a push") };
        assert_eq!(push.media_type.len(), 256);
    }

    #[test]
    fn what_an_event_does_not_say_is_not_invented() {
        let bare = json!({"events": [{"id": "1", "action": "delete", "timestamp": GO_ZERO_TIME, "actor": null,
            "target": {"repository": "team/app", "tag": "v1"}}]});
        let statement = claim(&bare.to_string());
        assert_eq!((statement.occurred_at_us, statement.actor.as_str(), statement.source.as_str()), (0, "", ""));
        assert!(statement.attributes.is_empty());
    }

    #[test]
    fn an_offset_is_the_same_time() {
        let here = claim(&changed(&[("/events/0/timestamp", json!("2026-11-20T23:02:40.628262562-08:00"))]));
        assert_eq!(here.occurred_at_us, claim(PUSH_V1).occurred_at_us);
    }

    #[test]
    fn no_truncation_and_no_other_json_is_an_envelope() {
        let body = PUSH_V1.trim_end().as_bytes();
        for length in 0..body.len() {
            assert!(read_envelope(&registry(), &body[..length]).is_err(), "{length}");
        }
        for text in ["", "null", "[]", "{}", "1", "{\"events\":null}", "{\"events\":{}}", "\u{feff}{\"events\":[]}"] {
            assert!(read_envelope(&registry(), text.as_bytes()).is_err(), "{text:?}");
        }
        // Nesting costs nothing: what is not read is skipped, and what is read is flat.
        let deep = format!("{{\"events\":[{}{}]}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(read(&deep)[..], [Reading::Refused { .. }]));
        assert!(read("{\"events\":[]}").is_empty());
    }
}
