//! What a field of a statement may hold: exactly at the limit it is accepted, one beyond it is refused, and the refusal
//! names the field, the reason and the limit.
//!
//! A producer fixes a statement from these words alone, so they are tested as part of the format.

mod random;
mod statements;

use prost::Message as _;

use tagledger::ledger::names::{Digest, NameError, Registry, Repository, Tag};
use tagledger::ledger::statement::{MAX_STATEMENT_LENGTH, Statement, Violation};
use tagledger::ledger::time::{MAX_AHEAD_US, MAX_TIME_US};
use tagledger::proto;
use tagledger::proto::statement::Kind;

use random::Random;
use statements::{full, of_each_kind, sha256};

/// Free texts: path, fewest and most bytes.
const TEXTS: [(&str, usize, usize); 16] = [
    ("event_id", 0, 128),
    ("actor", 0, 256),
    ("source", 0, 256),
    ("ci_run", 0, 512),
    ("trace_id", 0, 64),
    ("attributes[0].key", 1, 64),
    ("attributes[1].key", 1, 64),
    ("attributes[1].value", 0, 1024),
    ("tag_push.media_type", 0, 256),
    ("deployment.environment", 1, 128),
    ("deployment.cluster", 0, 128),
    ("deployment.namespace", 0, 128),
    ("deployment.workload", 1, 128),
    ("deployment.container", 0, 128),
    ("attestation.predicate_type", 1, 256),
    ("attestation.signer", 0, 256),
];

const REGISTRIES: [&str; 5] = [
    "tag_push.registry",
    "tag_delete.registry",
    "manifest_delete.registry",
    "tag_observed.registry",
    "deployment.image.registry",
];

const REPOSITORIES: [&str; 5] = [
    "tag_push.repository",
    "tag_delete.repository",
    "manifest_delete.repository",
    "tag_observed.repository",
    "deployment.image.repository",
];

const TAGS: [&str; 4] = ["tag_push.tag", "tag_delete.tag", "tag_observed.tag", "deployment.image.tag"];

const DIGESTS: [&str; 6] = [
    "tag_push.digest",
    "manifest_delete.digest",
    "tag_observed.digest",
    "deployment.image.digest",
    "attestation.digest",
    "attestation.envelope_digest",
];

#[test]
fn free_texts_are_accepted_up_to_their_limit_in_bytes() {
    for (path, shortest, longest) in TEXTS {
        // The order of attributes is by key: the first begins low, the second high.
        let first = if path == "attributes[0].key" { "0" } else { "~" };
        let of_length = |length: usize| first.to_owned() + &"x".repeat(length - 1);
        accepted(path, &of_length(1));
        accepted(path, &of_length(longest));
        refused(path, &of_length(longest + 1), "TOO_LONG", &too_long(longest + 1, longest));
        // Bytes, not characters.
        accepted(path, &format!("{first}x{}", "é".repeat(longest / 2 - 1)));
        let longer = format!("{first}x{}", "é".repeat(longest / 2));
        refused(path, &longer, "TOO_LONG", &too_long(longest + 2, longest));
        match shortest {
            0 => accepted(path, ""),
            // Which also sorts it before the first.
            _ if path == "attributes[1].key" => {}
            _ => refused(path, "", "REQUIRED", "must not be empty"),
        }
    }
}

#[test]
fn free_texts_have_no_control_characters() {
    for (path, _, _) in TEXTS {
        let first = if path == "attributes[0].key" { "0" } else { "~" };
        for (control, name) in [
            ('\0', "U+0000"),
            ('\t', "U+0009"),
            ('\n', "U+000A"),
            ('\r', "U+000D"),
            ('\u{1b}', "U+001B"),
            ('\u{7f}', "U+007F"),
            ('\u{85}', "U+0085"),
            ('\u{9f}', "U+009F"),
        ] {
            for text in [format!("{first}{control}"), format!("{first}a{control}b")] {
                refused(path, &text, "CONTROL_CHARACTER", &format!("contains the control character {name}"));
            }
        }
        accepted(path, &format!("{first} \u{a0}é漢🦀"));
    }
}

#[test]
fn registries_outside_the_grammar_are_refused() {
    // 63 + 1 + 63 + 1 + 63 + 1 + 63 = 255
    let label = "a".repeat(63);
    let longest = [label.as_str(); 4].join(".");
    for path in REGISTRIES {
        accepted(path, "a");
        accepted(path, &longest);
        accepted(path, "r.example:1");
        accepted(path, "r.example:65535");
        accepted(path, "192.0.2.1:5000");
        accepted(path, "[2001:db8::1]");
        refused(path, "", "REQUIRED", "must not be empty");
        refused(path, &format!("{longest}a"), "TOO_LONG", &too_long(256, 255));
        for outside in [
            "a\0",
            "\n",
            "a b",
            "a/b",
            "a_b",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.",
            "é.example",
            "https://a",
            "a:",
            "a:0",
            "a:065",
            "a:+1",
            "a:65536",
            "a:99999999999999999999999",
            "a:1:2",
            "user@a",
            "[::1",
            "::1",
            "[]",
            "[a]",
            "[::1]x",
            "[::1]:",
            "[::1%eth0]",
            "[[::1]]",
            &"a".repeat(64),
        ] {
            refused(path, outside, "INVALID_FORMAT", "is not a registry: a host name, an IPv4");
        }
        for (other, canonical) in [
            ("R.Example", "r.example"),
            ("index.docker.io", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("Docker.IO", "docker.io"),
            ("r.example:443", "r.example"),
            ("index.docker.io:443", "docker.io"),
            ("[::1]:443", "[::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("[0:0:0:0:0:0:0:1]:5000", "[::1]:5000"),
            ("[2001:0db8::0001]", "[2001:db8::1]"),
        ] {
            not_canonical(path, other, canonical);
        }
    }
}

#[test]
fn repositories_outside_the_grammar_are_refused() {
    let longest = format!("a/{}", "b".repeat(253));
    for path in REPOSITORIES {
        for inside in ["a/b", "a/b/c/d", "a/b.c", "a/b_c", "a/b__c", "a/b---c", "0/1", longest.as_str()] {
            accepted(path, inside);
        }
        refused(path, "", "REQUIRED", "must not be empty");
        refused(path, &format!("{longest}b"), "TOO_LONG", &too_long(256, 255));
        for outside in [
            "a/b\0", "\n", "a b/c", "/a", "a/", "a//b", "-a/b", "a-/b", "a/.b", "a/b.", "a..b/c", "a___b/c", "a._b/c",
            "a/b:v1", "a@b/c", "é/a", "A b/c", "../a", "a/..",
        ] {
            refused(path, outside, "INVALID_FORMAT", "is not a repository: components of a-z and 0-9");
        }
        not_canonical(path, "Team/App", "team/app");
    }
}

#[test]
fn official_images_of_docker_hub_are_written_out() {
    let on_hub = |repository: &str| {
        let mut statement = full(statements::push());
        set(&mut statement, "tag_push.registry", "docker.io");
        set(&mut statement, "tag_push.repository", repository);
        violations(&statement)
    };
    let written_out =
        Violation::new("tag_push.repository", "NOT_CANONICAL", "is not canonical; write \"library/nginx\"");
    assert_eq!(on_hub("library/nginx"), vec![]);
    assert_eq!(on_hub("nginx"), vec![written_out.clone()]);
    // The whole way at once, not lower case first and the rest the next time.
    assert_eq!(on_hub("Nginx"), vec![written_out]);
    // Elsewhere a repository may have one component.
    accepted("tag_push.repository", "nginx");
    // What has no canonical form within the limit is too long.
    let longest = "n".repeat(255);
    assert_eq!(on_hub(&longest), vec![Violation::new("tag_push.repository", "TOO_LONG", too_long(263, 255))]);
    assert_eq!(on_hub(&"n".repeat(247))[0].reason, "NOT_CANONICAL");
    assert_eq!(on_hub(&format!("library/{}", "n".repeat(247))), vec![]);
}

#[test]
fn tags_outside_the_grammar_are_refused() {
    for path in TAGS {
        for inside in ["a", "A", "0", "_", "v1.0", "a-b_c.d", "a..b", &"a".repeat(128)] {
            accepted(path, inside);
        }
        // A deployment may leave the tag out.
        if path == "deployment.image.tag" {
            accepted(path, "");
        } else {
            refused(path, "", "REQUIRED", "must not be empty");
        }
        refused(path, &"a".repeat(129), "TOO_LONG", &too_long(129, 128));
        for outside in ["\0", "a\0", "a\n", ".a", "-a", "a b", "a:b", "a/b", "a@b", "a+b", "é"] {
            refused(path, outside, "INVALID_FORMAT", "is not a tag: a letter, digit or '_'");
        }
    }
}

#[test]
fn digests_of_the_wrong_length_algorithm_or_spelling_are_refused() {
    let hex = "0123456789abcdef".repeat(4);
    for path in DIGESTS {
        accepted(path, &format!("sha256:{hex}"));
        accepted(path, &format!("sha512:{hex}{hex}"));
        // An observation without a digest saw that the tag was absent.
        if path == "tag_observed.digest" {
            accepted(path, "");
        } else {
            refused(path, "", "REQUIRED", "must not be empty");
        }
        let length = |algorithm: &str, expected: usize, found: usize| {
            format!("a {algorithm} digest has {expected} hexadecimal digits, this one has {found}")
        };
        for found in [0, 1, 63, 65, 127, 128] {
            let text = format!("sha256:{}", "a".repeat(found));
            refused(path, &text, "DIGEST_LENGTH", &length("sha256", 64, found));
        }
        for found in [0, 64, 127] {
            let text = format!("sha512:{}", "a".repeat(found));
            refused(path, &text, "DIGEST_LENGTH", &length("sha512", 128, found));
        }
        refused(path, &format!("sha512:{}", "a".repeat(129)), "TOO_LONG", &too_long(136, 135));
        for algorithm in ["md5", "sha1", "sha384", "blake3", "sha256+b64", " sha256", "sha256 "] {
            let words = format!("digest algorithm {algorithm:?} is not supported; use sha256 or sha512");
            refused(path, &format!("{algorithm}:{hex}"), "DIGEST_ALGORITHM", &words);
        }
        refused(path, &format!(":{hex}"), "DIGEST_ALGORITHM", "digest algorithm \"\" is not supported");
        for outside in [
            hex.clone(),
            "sha256".to_owned(),
            format!("sha256-{hex}"),
            format!("sha256:{}g", &hex[1..]),
            format!("sha256:{}\0", &hex[1..]),
            format!("sha256:{}\n", &hex[1..]),
            format!("sha256: {}", &hex[1..]),
            // 64 characters, and 64 bytes, that are no digits.
            format!("sha256:{}é", &hex[1..]),
            format!("sha256:{}é", &hex[2..]),
        ] {
            refused(path, &outside, "INVALID_FORMAT", "is not a digest: sha256: and 64, or sha512: and 128");
        }
        let canonical = format!("sha256:{hex}");
        not_canonical(path, &format!("sha256:{}", hex.to_uppercase()), &canonical);
        not_canonical(path, &format!("SHA256:{hex}"), &canonical);
        // The wrong length in upper case is the wrong length; lower case would not mend it.
        refused(path, "SHA256:AB", "DIGEST_LENGTH", &length("sha256", 64, 2));
        refused(path, "sha256:AB", "DIGEST_LENGTH", &length("sha256", 64, 2));
    }
}

#[test]
fn policies_are_rules_in_toml_within_their_limits() {
    let path = "policy_change.policy";
    let longest = format!("#{}", "é".repeat(29_999)) + "\n";
    assert_eq!(longest.len(), 60_000);
    let rule = "[[rule]]\nid = 'r'\n";
    for text in ["", "# none\n", "rule = []", rule, &format!("{rule}tags = ['a',\n\t\"b\"]\n"), longest.as_str()] {
        accepted(path, text);
    }
    let words = "the text of the policy is 60001 bytes long; at most 60000 are allowed";
    refused(path, &(longest + "\n"), "TOO_LONG", words);
    for (control, name) in [('\0', "U+0000"), ('\r', "U+000D"), ('\u{1b}', "U+001B"), ('\u{9f}', "U+009F")] {
        let words = format!("the text of the policy contains the control character {name}");
        refused(path, &format!("# {control}\n"), "CONTROL_CHARACTER", &words);
    }
    let no_policy = "the text is not that of a policy: line ";
    for (text, words) in [
        ("immutable", "1: "),
        ("\nrule = 1", "2: invalid type"),
        ("[[rule]]\nid = 'r'\nmutable = []", "3: unknown field"),
        ("rule = [{id = 'r'}]", "1: inline tables"),
        ("[[rule]]\nid = \"\\e\"", "2: the escape \\e"),
    ] {
        refused(path, text, "INVALID_FORMAT", &format!("{no_policy}{words}"));
    }
    let is_refused = |more: &str, reason: &str, words: &str| refused(path, &format!("{rule}{more}"), reason, words);
    is_refused("tags = ['[a']", "INVALID_PATTERN", "rule \"r\": tags has \"[a\": a set does not end");
    is_refused(
        "tags_regex = ['(a']",
        "INVALID_PATTERN",
        "rule \"r\": tags_regex has \"(a\": has a group that does not end",
    );
    is_refused("tags = []", "INVALID_RULE", "rule \"r\": tags is empty; leave it out to mean all");
    is_refused("forbid = ['push']", "INVALID_RULE", "rule \"r\": forbid has \"push\"; it may have create, overwrite");
    is_refused("forbid = ['delete']\nallow = ['create']", "INVALID_RULE", "rule \"r\": has more than one of forbid");
    is_refused(rule, "DUPLICATE_ID", "rule \"r\" is there twice");
    refused(path, "[[rule]]\nid = ''", "INVALID_ID", "the id \"\" of a rule is not 1 to 128 printable");
    refused(path, "[[rule]]\nid = 'a b'", "INVALID_ID", "the id \"a b\" of a rule is not");
    let many: String = (0..1001).map(|number| format!("[[rule]]\nid='{number}'\n")).collect();
    refused(path, &many, "TOO_MANY", "1001 rules; at most 1000 are allowed");
    let large: String =
        (0..3).map(|number| format!("[[rule]]\nid='{number}'\ntags_regex=['{number}{{990}}']\n")).collect();
    refused(path, &large, "TOO_MANY", "the different regular expressions have 2973 characters in all");
}

#[test]
fn what_was_seen_otherwise_was_seen_before_and_neither_lies_in_the_far_future() {
    let seen = |last_seen_us: u64, first_seen_us: u64| {
        let mut statement = statement_with("tag_observed");
        match statement.kind.as_mut().expect("set") {
            Kind::TagObserved(seen) => (seen.last_seen_us, seen.first_seen_us) = (last_seen_us, first_seen_us),
            other => panic!("{other:?}"),
        }
        let fields: Vec<_> = violations(&statement).into_iter().map(|found| (found.field, found.reason)).collect();
        fields
    };
    let last = ("tag_observed.last_seen_us".to_owned(), "OUT_OF_ORDER");
    let end = tagledger::ledger::time::MAX_TIME_US;
    for (last_seen_us, first_seen_us) in [(0, 0), (0, 1), (1, 1), (1, 2), (end, end)] {
        assert_eq!(seen(last_seen_us, first_seen_us), [], "{last_seen_us} {first_seen_us}");
    }
    for (last_seen_us, first_seen_us) in [(2, 1), (1, 0)] {
        assert_eq!(seen(last_seen_us, first_seen_us), std::slice::from_ref(&last));
    }
    assert_eq!(seen(0, end + 1), [("tag_observed.first_seen_us".to_owned(), "TOO_FAR_AHEAD")]);
    let mut statement = statement_with("tag_observed");
    statement.occurred_at_us = 0;
    if let Some(Kind::TagObserved(seen)) = statement.kind.as_mut() {
        (seen.last_seen_us, seen.first_seen_us) = (1, 1_000_000 + 86_400_000_001);
    }
    let statement = Statement::parse(&statement.encode_to_vec()).expect("well formed");
    let refused = statement.check_time(1_000_000).expect_err("more than a day ahead");
    assert_eq!((refused.field.as_str(), refused.reason), ("tag_observed.first_seen_us", "TOO_FAR_AHEAD"));
    assert_eq!(statement.check_time(1_000_001), Ok(()));
}

#[test]
fn enums_without_or_with_an_unknown_value_are_refused() {
    let set_enum = |path: &str, value: i32| {
        let mut statement = statement_with(path);
        match statement.kind.as_mut().expect("set") {
            Kind::TagPush(push) => push.disposition = value,
            Kind::TagDelete(delete) => (delete.disposition, delete.settles) = (value, 0),
            Kind::ManifestDelete(delete) => (delete.disposition, delete.settles) = (value, 0),
            Kind::Deployment(deployment) => deployment.phase = value,
            Kind::Attestation(attestation) => attestation.result = value,
            Kind::TagObserved(_) | Kind::PolicyChange(_) | Kind::PrincipalChange(_) | Kind::KeyChange(_) => {
                unreachable!("has no enum")
            }
        }
        violations(&statement)
    };
    for (path, allowed) in [
        ("tag_push.disposition", "1 (REQUESTED), 2 (HAPPENED), 3 (REFUSED) or 4 (INTENDED)"),
        ("tag_delete.disposition", "1 (REQUESTED), 2 (HAPPENED), 3 (REFUSED) or 4 (INTENDED)"),
        ("manifest_delete.disposition", "1 (REQUESTED), 2 (HAPPENED), 3 (REFUSED) or 4 (INTENDED)"),
        ("deployment.phase", "1 to 3"),
        ("attestation.result", "1 to 3"),
    ] {
        let last = if path.ends_with("disposition") { 4 } else { 3 };
        for value in 1..=last {
            assert_eq!(set_enum(path, value), vec![], "{path} {value}");
        }
        let words = |value: i32| format!("is {value}; it must be {allowed}");
        assert_eq!(set_enum(path, 0), vec![Violation::new(path, "REQUIRED", words(0))]);
        for value in [last + 1, 5, 100, -1, i32::MAX, i32::MIN] {
            assert_eq!(set_enum(path, value), vec![Violation::new(path, "UNKNOWN_VALUE", words(value))]);
        }
    }
}

#[test]
fn times_before_1970_or_beyond_the_year_9999_are_refused() {
    let at = |time_us: i64| {
        let mut statement = full(statements::push());
        statement.occurred_at_us = time_us;
        violations(&statement)
    };
    let last = i64::try_from(MAX_TIME_US).expect("fits");
    assert_eq!(last, 253_402_300_799_999_999);
    for time_us in [0, 1, last] {
        assert_eq!(at(time_us), vec![]);
    }
    for time_us in [-1, i64::MIN] {
        let words = format!("is {time_us}; times before 1970 are refused");
        assert_eq!(at(time_us), vec![Violation::new("occurred_at_us", "BEFORE_1970", words)]);
    }
    for time_us in [last + 1, i64::MAX] {
        let words = format!("is {time_us}; at most {last} (the end of the year 9999) is allowed");
        assert_eq!(at(time_us), vec![Violation::new("occurred_at_us", "TOO_FAR_AHEAD", words)]);
    }
}

#[test]
fn times_more_than_a_day_ahead_of_the_ledger_are_refused() {
    let now_us = 1_767_225_600_000_000;
    let check = |time_us: u64, now_us: u64| {
        let mut statement = full(statements::push());
        statement.occurred_at_us = i64::try_from(time_us).expect("fits");
        Statement::parse(&statement.encode_to_vec()).expect("valid by itself").check_time(now_us)
    };
    assert_eq!(MAX_AHEAD_US, 24 * 60 * 60 * 1_000_000);
    let limit = now_us + MAX_AHEAD_US;
    for time_us in [0, 1, now_us, limit] {
        assert_eq!(check(time_us, now_us), Ok(()));
    }
    let beyond = limit + 1;
    let words = format!("is {beyond}, more than a day ahead of the ledger's clock; at most {limit} is allowed");
    assert_eq!(check(beyond, now_us), Err(Violation::new("occurred_at_us", "TOO_FAR_AHEAD", words)));
    assert_eq!(check(MAX_TIME_US, u64::MAX), Ok(()), "a clock at its end does not overflow");
    assert!(check(MAX_TIME_US, 0).is_err());
}

#[test]
fn attributes_are_sorted_each_once_and_at_most_32() {
    let with = |keys: &[&str]| {
        let mut statement = full(statements::push());
        statement.attributes =
            keys.iter().map(|key| proto::Attribute { key: (*key).into(), value: "v".into() }).collect();
        violations(&statement)
    };
    let unsorted = vec![Violation::new("attributes", "NOT_CANONICAL", "must be sorted by key, each key once")];
    assert_eq!(with(&[]), vec![]);
    assert_eq!(with(&["A", "B", "a", "aa", "b", "é"]), vec![], "in byte order");
    assert_eq!(with(&["b", "a"]), unsorted);
    assert_eq!(with(&["a", "b", "a"]), unsorted);
    assert_eq!(with(&["a", "a"]), unsorted);
    assert_eq!(with(&["a", "B"]), unsorted);
    let keys: Vec<String> = (0..33).map(|number| format!("key{number:02}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    assert_eq!(with(&keys[..32]), vec![]);
    assert_eq!(with(&keys), vec![Violation::new("attributes", "TOO_MANY", "are 33; at most 32 are allowed")]);
}

#[test]
fn a_statement_has_16384_bytes_at_most() {
    let of_length = |length: usize| {
        let mut statement = full(statements::push());
        statement.attributes =
            (0..17).map(|number| proto::Attribute { key: format!("key{number:02}"), value: "v".repeat(930) }).collect();
        let missing = length - statement.encoded_len();
        assert!((1..=1024 - 930).contains(&missing), "the last attribute takes up {missing}");
        statement.attributes[16].value += &"v".repeat(missing);
        statement.encode_to_vec()
    };
    let longest = of_length(MAX_STATEMENT_LENGTH);
    assert_eq!(longest.len(), 16_384);
    assert!(Statement::parse(&longest).is_ok());
    let refused = |bytes: &[u8]| Statement::parse(bytes).expect_err("refused");
    let words = |length: usize, limit| vec![Violation::new("statement", "TOO_LONG", too_long(length, limit))];
    assert_eq!(refused(&of_length(MAX_STATEMENT_LENGTH + 1)), words(16_385, 16_384));
    // Not even looked at.
    assert_eq!(refused(&vec![0xff; 10_000_000]), words(10_000_000, 64_000));
    assert_eq!(refused(&[]), vec![Violation::new("statement", "REQUIRED", "must not be empty")]);
}

#[test]
fn a_statement_without_its_kind_or_a_deployment_without_its_image_is_refused() {
    let mut statement = full(statements::push());
    statement.kind = None;
    let words = "must be one of the kinds of statement";
    assert_eq!(violations(&statement), vec![Violation::new("kind", "REQUIRED", words)]);
    let mut statement = full(statements::deployment());
    if let Some(Kind::Deployment(deployment)) = &mut statement.kind {
        deployment.image = None;
    }
    let words = "must say which image runs";
    assert_eq!(violations(&statement), vec![Violation::new("deployment.image", "REQUIRED", words)]);
}

#[test]
fn everything_that_is_wrong_is_reported_at_once() {
    let empty = |kind: Kind| violations(&proto::Statement { kind: Some(kind), ..Default::default() });
    let fields = |violations: Vec<Violation>| violations.into_iter().map(|v| v.field).collect::<Vec<_>>();
    assert_eq!(
        fields(empty(Kind::TagPush(proto::TagPush::default()))),
        ["tag_push.registry", "tag_push.repository", "tag_push.tag", "tag_push.digest", "tag_push.disposition"]
    );
    assert_eq!(
        fields(empty(Kind::TagDelete(proto::TagDelete::default()))),
        ["tag_delete.registry", "tag_delete.repository", "tag_delete.tag", "tag_delete.disposition"]
    );
    assert_eq!(
        fields(empty(Kind::ManifestDelete(proto::ManifestDelete::default()))),
        [
            "manifest_delete.registry",
            "manifest_delete.repository",
            "manifest_delete.digest",
            "manifest_delete.disposition"
        ]
    );
    assert_eq!(
        fields(empty(Kind::TagObserved(proto::TagObserved::default()))),
        ["tag_observed.registry", "tag_observed.repository", "tag_observed.tag"]
    );
    let image = Some(proto::Image::default());
    assert_eq!(
        fields(empty(Kind::Deployment(proto::Deployment { image, ..Default::default() }))),
        [
            "deployment.environment",
            "deployment.workload",
            "deployment.phase",
            "deployment.image.registry",
            "deployment.image.repository",
            "deployment.image.digest"
        ]
    );
    assert_eq!(
        fields(empty(Kind::Attestation(proto::Attestation::default()))),
        ["attestation.digest", "attestation.predicate_type", "attestation.envelope_digest", "attestation.result"]
    );
    let mut statement = full(statements::push());
    set(&mut statement, "tag_push.registry", "R.example");
    set(&mut statement, "tag_push.tag", ".v1");
    set(&mut statement, "tag_push.digest", &sha256('a')[..60]);
    set(&mut statement, "actor", "a\0");
    set(&mut statement, "ci_run", &"x".repeat(513));
    set(&mut statement, "attributes[0].key", "zzz");
    statement.occurred_at_us = -1;
    let reasons: Vec<(String, &str)> = violations(&statement).into_iter().map(|v| (v.field, v.reason)).collect();
    let expected = [
        ("tag_push.registry", "NOT_CANONICAL"),
        ("tag_push.tag", "INVALID_FORMAT"),
        ("tag_push.digest", "DIGEST_LENGTH"),
        ("actor", "CONTROL_CHARACTER"),
        ("ci_run", "TOO_LONG"),
        ("occurred_at_us", "BEFORE_1970"),
        ("attributes", "NOT_CANONICAL"),
    ];
    assert_eq!(reasons, expected.map(|(field, reason)| (field.to_owned(), reason)));
}

#[test]
fn other_peoples_text_is_cut_before_it_is_shown() {
    let outside = "!".repeat(200);
    for path in ["tag_push.registry", "tag_push.repository"] {
        let found = violations_with(path, &outside);
        assert!(found[0].message.contains(&format!("{}…", "!".repeat(79))), "{}", found[0].message);
        assert!(!found[0].message.contains(&"!".repeat(80)), "{}", found[0].message);
    }
    // Nor does it reach a terminal unescaped.
    let found = violations_with("tag_push.tag", "\u{1b}[31m");
    assert!(!found[0].message.contains('\u{1b}'), "{}", found[0].message);
}

#[test]
fn a_name_is_taken_as_it_is_or_refused_and_the_canonical_form_that_is_offered_is_taken() {
    let hex = "0123456789abcdef".repeat(4);
    let long = "n".repeat(247);
    let pieces = [
        "docker.io",
        "index.docker.io",
        "Registry-1.docker.io",
        "r",
        "R",
        ".",
        ".example",
        "[::1]",
        "[0:0::1]",
        "[2001:DB8::1]",
        "[::ffff:192.0.2.1]",
        ":443",
        ":5000",
        ":0",
        ":",
        "/",
        "library/",
        "nginx",
        "Nginx",
        "_",
        "__",
        "-",
        "sha256:",
        "SHA256:",
        "sha512:",
        &hex,
        "AB",
        "é",
        "\0",
        " ",
        &long,
        "aaaaaaaa",
    ];
    let mut random = Random::new();
    let mut offered = 0;
    for _ in 0..50_000 {
        let mut piece = || pieces[usize::try_from(random.below(32)).expect("small")];
        let (registry, mut text) = (piece(), piece().to_owned());
        for _ in 0..random.below(4) {
            text += pieces[usize::try_from(random.below(32)).expect("small")];
        }
        let registry = registry.parse().unwrap_or_else(|_| "docker.io".parse::<Registry>().expect("canonical"));
        let parsers: [&Parser; 4] = [
            &|text| text.parse().map(|name: Registry| name.to_string()),
            &|text| Repository::parse(&registry, text).map(|name| name.to_string()),
            &|text| text.parse().map(|name: Tag| name.to_string()),
            &|text| text.parse().map(|name: Digest| name.to_string()),
        ];
        for parse in parsers {
            match parse(&text) {
                Ok(name) => assert_eq!(name, text),
                Err(NameError::NotCanonical(form)) => {
                    assert_eq!(parse(&form).as_ref(), Ok(&form), "offered for {text:?} on {registry}");
                    offered += 1;
                }
                Err(_) => {}
            }
        }
    }
    assert!(offered > 1000, "canonical forms were offered: {offered}");
}

/// Parses a name and writes it again.
type Parser<'a> = dyn Fn(&str) -> Result<String, NameError> + 'a;

/// Sets a field in a statement of the kind that has it, and parses that.
fn violations_with(path: &str, value: &str) -> Vec<Violation> {
    let mut statement = statement_with(path);
    set(&mut statement, path, value);
    violations(&statement)
}

fn accepted(path: &str, value: &str) {
    assert_eq!(violations_with(path, value), vec![], "{path} = {value:?}");
}

/// One violation, of this field, with this reason, and a message that contains these words.
fn refused(path: &str, value: &str, reason: &str, words: &str) {
    let found = violations_with(path, value);
    assert_eq!(found.len(), 1, "{path} = {value:?}: {found:?}");
    assert_eq!((found[0].field.as_str(), found[0].reason), (path, reason), "{path} = {value:?}: {found:?}");
    assert!(found[0].message.contains(words), "{path} = {value:?}: {found:?} should say {words:?}");
    assert_eq!(found[0].to_string(), format!("{path} {}", found[0].message));
}

/// Refused with the canonical form, which is then accepted.
fn not_canonical(path: &str, value: &str, canonical: &str) {
    refused(path, value, "NOT_CANONICAL", &format!("is not canonical; write {canonical:?}"));
    let mut statement = statement_with(path);
    // A short name on Docker Hub has yet another canonical form.
    set(&mut statement, &path.replace(".registry", ".repository"), "team/app");
    set(&mut statement, path, canonical);
    assert_eq!(violations(&statement), vec![], "{path} = {canonical:?}");
}

fn too_long(found: usize, limit: usize) -> String {
    format!("is {found} bytes long; at most {limit} are allowed")
}

fn violations(statement: &proto::Statement) -> Vec<Violation> {
    Statement::parse(&statement.encode_to_vec()).err().unwrap_or_default()
}

/// A valid statement of the kind that a path begins with; a push for the fields that all have.
fn statement_with(path: &str) -> proto::Statement {
    let kind = path.split('.').next().expect("not empty");
    let mut statements = of_each_kind();
    let position = statements.iter().position(|(name, _)| *name == kind).unwrap_or(0);
    let mut statement = statements.swap_remove(position).1;
    // Plain enough that any repository may be written.
    for place in ["tag_push", "tag_delete", "manifest_delete", "tag_observed", "deployment.image"] {
        if path.starts_with(place) {
            set(&mut statement, &format!("{place}.registry"), "registry.example");
        }
    }
    statement
}

fn set(statement: &mut proto::Statement, path: &str, value: &str) {
    let field = match path {
        "event_id" => &mut statement.event_id,
        "actor" => &mut statement.actor,
        "source" => &mut statement.source,
        "ci_run" => &mut statement.ci_run,
        "trace_id" => &mut statement.trace_id,
        "attributes[0].key" => &mut statement.attributes[0].key,
        "attributes[1].key" => &mut statement.attributes[1].key,
        "attributes[1].value" => &mut statement.attributes[1].value,
        _ => field_of_kind(statement.kind.as_mut().expect("set"), path),
    };
    *field = value.to_owned();
}

fn field_of_kind<'a>(kind: &'a mut Kind, path: &str) -> &'a mut String {
    let (_, field) = path.split_once('.').expect("a path into a kind");
    match (kind, field) {
        (Kind::TagPush(m), "registry") => &mut m.registry,
        (Kind::TagPush(m), "repository") => &mut m.repository,
        (Kind::TagPush(m), "tag") => &mut m.tag,
        (Kind::TagPush(m), "digest") => &mut m.digest,
        (Kind::TagPush(m), "media_type") => &mut m.media_type,
        (Kind::TagDelete(m), "registry") => &mut m.registry,
        (Kind::TagDelete(m), "repository") => &mut m.repository,
        (Kind::TagDelete(m), "tag") => &mut m.tag,
        (Kind::ManifestDelete(m), "registry") => &mut m.registry,
        (Kind::ManifestDelete(m), "repository") => &mut m.repository,
        (Kind::ManifestDelete(m), "digest") => &mut m.digest,
        (Kind::TagObserved(m), "registry") => &mut m.registry,
        (Kind::TagObserved(m), "repository") => &mut m.repository,
        (Kind::TagObserved(m), "tag") => &mut m.tag,
        (Kind::TagObserved(m), "digest") => &mut m.digest,
        (Kind::Deployment(m), "environment") => &mut m.environment,
        (Kind::Deployment(m), "cluster") => &mut m.cluster,
        (Kind::Deployment(m), "namespace") => &mut m.namespace,
        (Kind::Deployment(m), "workload") => &mut m.workload,
        (Kind::Deployment(m), "container") => &mut m.container,
        (Kind::Deployment(m), "image.registry") => &mut m.image.as_mut().expect("set").registry,
        (Kind::Deployment(m), "image.repository") => &mut m.image.as_mut().expect("set").repository,
        (Kind::Deployment(m), "image.tag") => &mut m.image.as_mut().expect("set").tag,
        (Kind::Deployment(m), "image.digest") => &mut m.image.as_mut().expect("set").digest,
        (Kind::Attestation(m), "digest") => &mut m.digest,
        (Kind::Attestation(m), "predicate_type") => &mut m.predicate_type,
        (Kind::Attestation(m), "envelope_digest") => &mut m.envelope_digest,
        (Kind::Attestation(m), "signer") => &mut m.signer,
        (Kind::PolicyChange(m), "policy") => &mut m.policy,
        _ => panic!("no statement has the field {path}"),
    }
}
