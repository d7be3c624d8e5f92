//! `policy.json`: texts of policies with what they decide, and texts that are none.

use std::convert::Infallible;

use serde_json::{Value, json};

use tagledger::ledger::names::{Tag, TagRef};
use tagledger::ledger::policy::{Change, Policy};

use crate::values::{list, read, text};

const HEX: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A name, the text, and decisions: tag, change, and the tags that carried the digest before.
type Case<'a> = (&'a str, String, Vec<(String, Change, &'a [&'a str])>);

/// The file.
pub(crate) fn policy() -> Value {
    let policies = cases().into_iter().map(|(name, text, decisions)| {
        let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let decisions = decisions.into_iter().map(|(tag, change, carried)| {
            let (rule, lacks_promotion) = decide(&policy, &tag, change, carried);
            json!({ "tag": tag, "change": change.word(), "carried": carried, "rule": rule, "lacks_promotion": lacks_promotion })
        });
        json!({ "name": name, "text": text, "digest": policy.digest().as_str(), "decisions": decisions.collect::<Vec<_>>() })
    });
    let refused = refused().into_iter().map(|(name, text)| json!({ "name": name, "text": text }));
    json!({ "policies": policies.collect::<Vec<_>>(), "refused": refused.collect::<Vec<_>>() })
}

fn decide(policy: &Policy, tag: &str, change: Change, carried: &[&str]) -> (Option<String>, bool) {
    let tag: TagRef = tag.parse().expect("a reference");
    let carried = || Ok::<_, Infallible>(carried.iter().map(|tag| tag.parse::<Tag>().expect("a tag")).collect());
    let Ok(found) = policy.forbids(&tag, change, carried);
    (found.map(|found| found.rule.id().to_owned()), found.is_some_and(|found| found.lacks_promotion))
}

fn rule(id: &str, rest: &str) -> String {
    format!("[[rule]]\nid = '{id}'\n{rest}\n")
}

fn cases() -> Vec<Case<'static>> {
    use Change::{Create, Delete, Overwrite, Recreate};
    let all =
        |tag: &str| [Create, Overwrite, Recreate, Delete].map(|change| (tag.to_owned(), change, &[][..])).to_vec();
    let over = |tags: &[&str]| tags.iter().map(|tag| ((*tag).to_owned(), Overwrite, &[][..])).collect::<Vec<_>>();
    let tags = |rest: &str, tags: &[&str]| {
        let names: Vec<String> = tags.iter().map(|tag| format!("r/app:{tag}")).collect();
        (rule("one", rest), over(&names.iter().map(String::as_str).collect::<Vec<_>>()))
    };
    let mut cases = vec![
        ("nothing is said", String::new(), all("r/app:v1")),
        ("a rule without anything", rule("all", ""), all("r/app:v1")),
        (
            "each change by itself",
            rule("c", "forbid = ['create']") + &rule("d", "forbid = ['delete']"),
            all("r/app:v1"),
        ),
        (
            "an exception before a rule",
            rule("alias", "tags = ['latest']\nallow = ['overwrite']") + &rule("all", ""),
            [all("r/app:latest"), all("r/app:v1")].concat(),
        ),
        (
            "an exception after a rule",
            rule("all", "") + &rule("alias", "tags = ['latest']\nallow = ['overwrite', 'create']"),
            all("r/app:latest"),
        ),
        (
            "names of every kind, with exclusions",
            rule(
                "one",
                "registries = ['r', 'r.example*']\nregistries_excluding = ['r.example:5000']\nrepositories = ['team/**', 'x']\n\
                 repositories_excluding = ['team/sandbox/**']\ntags = ['v*']\ntags_excluding = ['*-rc*']",
            ),
            over(&[
                "r/team/app:v1",
                "r/x:v1",
                "r.example/team/app:v1",
                "r.example:5000/team/app:v1",
                "r.example:5001/team/app:v1",
                "other/team/app:v1",
                "r/team:v1",
                "r/team/sandbox:v1",
                "r/team/sandbox/a:v1",
                "r/team/app:v1-rc1",
                "r/team/app:w1",
            ]),
        ),
        (
            "expressions beside patterns",
            rule(
                "one",
                "repositories = ['app']\nrepositories_regex = ['^t.*[0-9]$']\nrepositories_excluding_regex = ['9']",
            ),
            over(&["r/app:v1", "r/team/7:v1", "r/team/79:v1", "r/team/a:v1", "r/at7:v1"]),
        ),
        (
            "promotion",
            rule("canary", "tags = ['prod-*']\npromoted_from = ['canary-*', 'beta']")
                + &rule("kept", "forbid = ['delete']"),
            vec![
                ("r/app:prod-1".to_owned(), Create, &[][..]),
                ("r/app:prod-1".to_owned(), Create, &["canary-1"][..]),
                ("r/app:prod-1".to_owned(), Overwrite, &["beta", "x"][..]),
                ("r/app:prod-1".to_owned(), Recreate, &["canary", "prod-1"][..]),
                ("r/app:prod-1".to_owned(), Delete, &["canary-1"][..]),
                ("r/app:other".to_owned(), Create, &[][..]),
            ],
        ),
    ];
    let referrers: Vec<String> = [
        "sha256-HEX",
        "sha256-HEX.sig",
        "sha512-HEX.sbom",
        "sha256-HEX.asc",
        "sha256-a.sig",
        "xsha256-HEX",
        "sha384-HEX",
    ]
    .map(|tag| format!("r/app:{}", tag.replace("HEX", HEX)))
    .to_vec();
    let asked = over(&referrers.iter().map(String::as_str).collect::<Vec<_>>());
    cases.push(("referrer tags are exempt", rule("all", ""), asked.clone()));
    cases.push(("referrer tags are not exempt", format!("exempt_referrers = false\n{}", rule("all", "")), asked));
    for (name, rest, names) in [
        (
            "stars and signs in tags",
            r"tags = ['v*.?', '[a-c]x[!y]', '{p,q{1,2}}-z', 'l\.*']",
            &["v1.0", "v.", "bx0", "bxy", "p-z", "q2-z", "q-z", "l.x", "lax"][..],
        ),
        ("empty alternatives", "tags = ['{a,}b', '{}c']", &["ab", "b", "c"]),
        ("an expression is found anywhere", "tags_regex = ['1.0']", &["v1.0", "110", "10"]),
        (
            "an expression tied to the ends",
            "tags_regex = ['^v[0-9]+$', '^x|y$']",
            &["v1", "v1a", "av1", "x1", "1y", "1x"],
        ),
        (
            "repetitions",
            "tags_regex = ['^a{2}b{1,2}c{1,}d?e*$', '^(ab){0}x$']",
            &["aabc", "aabbccde", "abc", "aabbbc", "x", "abx"],
        ),
        ("groups", "tags_regex = ['^(a|b|)(?:c|d)$', '^((x|y)*z)+$']", &["ac", "d", "abc", "xyzz", "zx"]),
        (
            "sets",
            r"tags_regex = ['^[\w.]+[^a-z]$', '^x[a-]b[-c]$', '^y[+--]d$']",
            &["v.1", "v.a", "x-b-", "xab-", "xbb-", "y-d"],
        ),
        ("classes", r"tags_regex = ['^\d\D\w\W$']", &["1a_.", "1a__", "aa_.", "11_-"]),
        ("ends in the middle", "tags_regex = ['a^b', 'a$b', '^^a$$', 'c$?d']", &["ab", "a", "cd"]),
        ("lazy repetitions", "tags_regex = ['^a+?b{1,2}?$']", &["ab", "aabb", "aabbb"]),
        (
            "what takes long elsewhere",
            "tags_regex = ['^(a*)*(a|aa)+b$']",
            &["aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac", "aab"],
        ),
        ("an empty branch matches all", "tags_regex = ['x||y']", &["z"]),
        (
            "both cases, to the end of a group",
            "tags_regex = ['^(?i)v[a-c][^x]$', '^w(?:x|(?i)y|z)w$']",
            &["VBy", "vAY", "VBX", "wxw", "wYw", "wZw", "wXw", "wzW"],
        ),
        ("both cases, in a group", "tags_regex = ['^a(?i:b|(?-i)c)d$']", &["aBd", "acd", "aCd", "aBD"]),
        (
            "classes in both cases",
            r"tags_regex = ['^(?i)[[:upper:]][[:^lower:]]\x61\Qb.\E[X-a]$']",
            &["a1ABz", "a1AB.z", "Z-aB._", "aaaB._", "a1abxz"],
        ),
        (
            "flags that make no difference",
            "tags_regex = ['^(?msU)a.+?(?-s:b)$', '^(?)c(?i-i:d)$']",
            &["axb", "cd", "cD"],
        ),
        (
            "named groups",
            r"tags_regex = ['^v(?P<n>\d)(?<n_2>[.]\d)?$', '^(?P<2>w)(?P<2>w)$']",
            &["v1.2", "v1", "vx", "ww"],
        ),
        (
            "borders of words",
            r"tags_regex = ['\brc\b', '^a\B.\Bb$', '^y(?:\b|-)+x$']",
            &["v1-rc.1", "v1-rc1", "v1_rc", "rc", "a1b", "a-b", "y--x", "yx"],
        ),
        ("ends of the name", r"tags_regex = ['\Av\z', 'w\z', 'x\A']", &["v", "vv", "vw", "x"]),
        (
            "numbers of characters",
            r"tags_regex = ['^\x41\x{0042}\103\x2d\0561$', '^[\x61-\143]\608$']",
            &["ABC-.1", "abc-.1", "c08", "d08"],
        ),
        (
            "characters that no name has",
            r"tags_regex = ['^\n$', '[\a\f\r\t\v\s\0\177]', '^x[^\x00-\x20\n]\S$']",
            &["n", "t", "0", "xyz", "x"],
        ),
        (
            "quotes",
            r"tags_regex = ['^\Qa.b\E$', '^\Qc_d\E+$', '^\Q\E\Qe\\E?f$', 'g\Q.-']",
            &["a.b", "axb", "c_ddd", "c_dc_d", "ef", "f", "g.-", "g-."],
        ),
        (
            "classes of POSIX",
            "tags_regex = ['^1[[:alpha:]_]+$', '^2[^[:alnum:]]$', '^3[[:^word:]a]$', '^4[[:punct:]]$', '^5[[:xdigit:]-]+$', \
             '^6[[:space:][:cntrl:][:blank:]]', '^7[[:graph:]][[:print:]][[:ascii:]]$', '^8[[:lower:]][[:upper:]][[:digit:]]$']",
            &[
                "1aZ_", "1a1", "2_", "2a", "3.", "3a", "3_", "4-", "4_", "4a", "5fF0-9", "5g", "60", "7abc", "8aB1",
                "8Ab1",
            ],
        ),
        (
            "braces that begin no repetition",
            "tags_excluding_regex = ['a{,2}', 'b{01}', 'c{x}', '^{d}', 'e]', 'f}', '{', '}', ']']",
            &["a", "aa", "b", "c", "d", "e", "f"],
        ),
        (
            "signs in sets",
            r"tags_regex = ['^1[]a]+$', '^2[^]a]$', '^3[[b]+$', '^4[:alpha:]+$', '^5[\d-z]+$', '^6[a-c-e]+$', '^7[[:a]$', '^8[\w-.]+$']",
            &["1a", "2b", "2a", "3b", "4lap", "4z", "51-z", "5y", "6b-e", "6d", "7a", "7b", "8a-.", "8a_"],
        ),
    ] {
        let (text, decisions) = tags(rest, names);
        cases.push((name, text, decisions));
    }
    let large = format!("tags = ['{}']", of_size(1000));
    let matching = format!("r/app:{}t", "x".repeat(48));
    cases.push(("a pattern as large as may be", rule("one", &large), over(&[&matching, "r/app:x"])));
    cases.push((
        "patterns as large together as may be",
        (0..60).map(|n| rule(&n.to_string(), &large)).collect(),
        over(&[&matching, "r/app:x"]),
    ));
    cases.push((
        "what counts in the size of an expression",
        rule("a", r"tags_regex = ['^(?i)(?P<a>\b[[:alpha:]]\x{41}\Q)*\E{2}){142}(?:){3}{']"),
        over(&["r/app:a"]),
    ));
    cases.push((
        "expressions as large together as may be, one of them twice",
        rule("a", "tags_regex = ['^a{998}']") + &rule("b", "repositories_regex = ['a{999}']\ntags_regex = ['^a{998}']"),
        over(&["r/app:a"]),
    ));
    for (name, rest, names) in [
        (
            "components in alternatives",
            "repositories = ['{a,b/**/c}/**', '**/{x,y/**/**/z}']",
            &["r/a:t", "r/a/b:t", "r/b/c/d:t", "r/b/q/c/d:t", "r/q/x:t", "r/y/z:t", "r/y/q/z:t", "r/y/qz:t"][..],
        ),
        (
            "stars in a row",
            "repositories = ['**/**/a*{*,?}*', 'b**c/**']",
            &["r/ab:t", "r/x/y/a:t", "r/x/a/b:t", "r/bxc/d:t"],
        ),
        ("a set with a slash", "repositories = ['a[!x]b', 'c[+-0]d']", &["r/a/b:t", "r/axb:t", "r/c/d:t", "r/c0d:t"]),
        ("an alternative of nothing but alternatives", "tags = ['{a,{}}b']", &["ab", "b"]),
    ] {
        let names: Vec<String> = names
            .iter()
            .map(|tag| if tag.contains(':') { (*tag).to_owned() } else { format!("r/app:{tag}") })
            .collect();
        cases.push((name, rule("one", rest), over(&names.iter().map(String::as_str).collect::<Vec<_>>())));
    }
    cases
}

/// A pattern that has at least 1,000 characters once its alternatives are written out.
fn of_size(size: usize) -> String {
    let branches: Vec<String> = ('a'..='t').map(String::from).collect();
    format!("{}{{{}{}}}", "x".repeat(48), branches.join(","), "x".repeat(size - 1000))
}

fn refused() -> Vec<(&'static str, String)> {
    let one = |rest: &str| rule("one", rest);
    let regex = |expression: &str| one(&format!("tags_regex = ['{expression}']"));
    let glob = |pattern: &str| one(&format!("tags = ['{pattern}']"));
    let nested = |depth: usize, open: &str, close: &str| format!("{}a{}", open.repeat(depth), close.repeat(depth));
    vec![
        ("not TOML", "rule".into()),
        ("a key that nobody knows", "immutable = ['r/app:v*']".into()),
        ("a rule with a key that nobody knows", one("tag = ['v1']")),
        ("a rule that is no array", "[rule]\nid = 'a'\n".into()),
        ("rules that are numbers", "rule = [1]".into()),
        ("an exemption that is a text", "exempt_referrers = 'no'".into()),
        ("no id", "[[rule]]\ntags = ['a']\n".into()),
        ("an empty id", rule("", "")),
        ("an id with a space", rule("a b", "")),
        ("an id that is a number", "[[rule]]\nid = 1\n".into()),
        ("an id of 129 characters", rule(&"a".repeat(129), "")),
        ("an id twice", rule("a", "") + &rule("a", "tags = ['b']")),
        ("an empty list", one("tags = []")),
        ("a list that is a text", one("tags = 'v*'")),
        ("a list with a number", one("tags = ['a', 1]")),
        ("nothing forbidden", one("forbid = []")),
        ("a change that nobody knows", one("forbid = ['push']")),
        ("forbidden and allowed", one("forbid = ['delete']\nallow = ['create']")),
        ("promoted and forbidden", one("promoted_from = ['a']\nforbid = ['delete']")),
        ("an inline table", "rule = [{id = 'a'}]".into()),
        ("an inline table over two lines", "rule = [{id = 'a',\n}]".into()),
        ("an escape of TOML 1.1", "[[rule]]\nid = \"\\e\"\n".into()),
        ("another escape of TOML 1.1", "[[rule]]\nid = \"\\x41\"\n".into()),
        ("an empty pattern", glob("")),
        ("a pattern of 513 bytes", glob(&"a".repeat(513))),
        ("a pattern with a space", glob("a b")),
        ("a pattern with a letter beyond ASCII", glob("é")),
        ("a set that does not end", glob("[a")),
        ("an empty set", glob("[]")),
        ("a range that falls", glob("[b-a]")),
        ("alternatives that do not end", glob("{a,b")),
        ("a brace that ends nothing", glob("a}")),
        ("alternatives too deep", glob(&nested(17, "{", "}"))),
        ("a backslash before nothing", glob("a\\")),
        ("a backslash before a letter", glob("\\v1")),
        ("an expression that repeats nothing", regex("*a")),
        ("a repetition repeated", regex("a+*")),
        ("a lazy repetition repeated", regex("a{2}?{3}")),
        ("a flag repeated", regex("a(?i)*")),
        ("an empty quote repeated", regex(r"a\Q\E*")),
        ("counts that repeat nothing", regex("a|{2}")),
        ("a repetition that falls", regex("a{3,2}")),
        ("a repetition above 1,000", regex("a{1001}")),
        ("a repetition far above 1,000", regex("a{1,99999999999999999999}")),
        ("a group that does not end", regex("(a")),
        ("a group whose end is quoted", regex(r"(\Qa)")),
        ("a group that does not begin", regex("a)")),
        ("a look ahead", regex("a(?=b)")),
        ("a look ahead for what is not there", regex("a(?!b)")),
        ("a look behind", regex("(?<=a)b")),
        ("an option that RE2 does not know", regex("(?x)a")),
        ("an option that does not end", regex("(?i")),
        ("options that take nothing back", regex("(?i-)a")),
        ("options that take back twice", regex("(?i-s-m)a")),
        ("an atomic group", regex("(?>a)")),
        ("a group with an empty name", regex("(?P<>b)")),
        ("a group whose name has a sign", regex("(?P<a-b>c)")),
        ("a group whose name does not end", regex("(?P<a")),
        ("a reference", regex(r"(a)\1")),
        ("a reference by name", regex("(?P<a>b)(?P=a)")),
        ("an escape that RE2 does not know", regex(r"a\Z")),
        ("the end of a quote that does not begin", regex(r"a\E")),
        ("a byte", regex(r"\C")),
        ("a class of Unicode", regex(r"\pL")),
        ("a class of Unicode in a set", regex(r"[\P{Greek}a]")),
        ("a hexadecimal number of one digit", regex(r"\x4")),
        ("a hexadecimal number without digits", regex(r"\x{}")),
        ("a hexadecimal number beyond ASCII", regex(r"\x80")),
        ("a hexadecimal number far beyond ASCII", regex(r"\x{fffffffff}")),
        ("an octal number beyond ASCII", regex(r"\200")),
        ("a class that POSIX does not know", regex("[[:letter:]]")),
        ("a class of POSIX that begins by mistake", regex("[[:a]x[b:]")),
        ("a class of POSIX in another case", regex("[[:Alpha:]]")),
        ("a set in an expression that does not end", regex("[a")),
        ("a bracket that is the only one in a set", regex("[]")),
        ("a border of a word in a set", regex(r"[\b]")),
        ("a quote in a set", regex(r"[\Qa\E]")),
        ("a range of an expression that falls", regex("[b-a]")),
        ("a range to a class", regex(r"[a-\d]")),
        ("a backslash at the end of an expression", regex(r"a\")),
        ("an expression with a space", regex("a b")),
        ("groups too deep", regex(&nested(17, "(", ")"))),
        ("an expression too large", regex("(a{100}){10}")),
        ("an expression too large by its repetition once and more", regex("(a{499})+")),
        ("an expression too large by its last branch", regex("a{999}|")),
        ("an expression with one character too many", regex(r"^(?i)(?P<a>\b[[:alpha:]]\x{41}\Q)*\E{2}){142}(?:){3}{}")),
        ("nothing, too often", regex("((){1000}){1000}")),
        ("expressions too large together", one("tags_regex = ['a{999}', 'b{999}', 'c']")),
        (
            "expressions of tags and repositories too large together",
            one("tags_regex = ['a{999}', 'b']\nrepositories_regex = ['a{999}']"),
        ),
        ("a pattern too large", glob(&of_size(1001))),
        ("a pattern too large by far", glob(&"{a,b}".repeat(100))),
        (
            "patterns too large together",
            (0..60).map(|n| rule(&n.to_string(), &format!("tags = ['{}']", of_size(1000)))).collect::<String>()
                + &rule("more", "promoted_from = ['a']"),
        ),
        ("1,001 rules", (0..1001).map(|n| rule(&n.to_string(), "")).collect()),
    ]
}

#[test]
fn the_policies_decide_as_they_are_said_to_and_the_others_are_refused() {
    let file = read("policy.json");
    for case in list(&file["policies"]) {
        let policy = Policy::parse(text(&case["text"])).expect("a policy");
        for decision in list(&case["decisions"]) {
            let change = Change::ALL.into_iter().find(|change| decision["change"] == change.word()).expect("a change");
            let carried: Vec<&str> = list(&decision["carried"]).iter().map(text).collect();
            let (rule, lacks_promotion) = decide(&policy, text(&decision["tag"]), change, &carried);
            assert_eq!(
                (json!(rule), json!(lacks_promotion)),
                (decision["rule"].clone(), decision["lacks_promotion"].clone()),
                "{}: {decision}",
                case["name"]
            );
        }
    }
    for case in list(&file["refused"]) {
        assert!(Policy::parse(text(&case["text"])).is_err(), "{}", case["name"]);
    }
}
