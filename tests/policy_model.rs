//! Random policies, tags and sequences of changes, judged by the rules and by a naive evaluator that shares nothing with them: it
//! writes out alternatives, walks patterns letter by letter, and takes an expression for the tree it was made from.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use prost::Message as _;
use tagledger::ledger::names::{Digest, Registry, Repository, Tag, TagRef};
use tagledger::ledger::policy::{Change, Document, MAX_PATTERN_LENGTH, Policy, RuleText};
use tagledger::ledger::statement::Statement;
use tagledger::ledger::subject::{Subject, SubjectKey};
use tagledger::ledger::transition::{SubjectState, View, transition};
use tagledger::proto::statement::Kind;
use tagledger::proto::{self, Disposition, Outcome};

const REGISTRIES: [&str; 2] = ["r.example", "127.0.0.1:5000"];
const REPOSITORIES: [&str; 4] = ["app", "team/app", "team/a/b", "x"];
const TAGS: [&str; 7] = ["v1", "v2-rc", "latest", "canary-1", "prod-1", "a.b_c", "V1-Rc"];
const WORLDS: u64 = 400;
const CHANGES: usize = 40;

/// A small generator of numbers: the seed of a failure is printed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).expect("fits") % sides
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len())].clone()
    }

    fn some<T>(&mut self, odds: usize, make: impl Fn(&mut Self) -> T) -> Option<Vec<T>> {
        (self.roll(odds) == 0).then(|| (0..=self.roll(2)).map(|_| make(self)).collect())
    }
}

// Patterns.

fn pattern(dice: &mut Dice, near: &str) -> String {
    let components: Vec<String> = near.split('/').map(|component| component_like(dice, component)).collect();
    match dice.roll(6) {
        0 => "**".to_owned(),
        1 => format!("**/{}", components.last().expect("one")),
        2 => format!("{}/**", components[0]),
        _ => components.join("/"),
    }
}

fn component_like(dice: &mut Dice, near: &str) -> String {
    let mut text = String::new();
    for character in near.chars() {
        match dice.roll(12) {
            0 => text.push('*'),
            1 => text.push('?'),
            2 if text.matches('{').count() < 3 => text.push_str(&format!("{{{character},zz}}")),
            3 => text.push_str(&format!("[{character}q]")),
            4 => text.push_str("[!q]"),
            5 => {}
            _ if character.is_ascii_alphanumeric() => text.push(character),
            _ => text.extend(['\\', character]),
        }
    }
    if text.is_empty() { "*".to_owned() } else { text }
}

/// Every pattern without alternatives that it stands for.
fn written_out(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else { return vec![pattern.to_owned()] };
    let (inside, after) = rest.split_once('}').expect("it ends");
    let ends = written_out(after);
    inside.split(',').flat_map(|one| ends.iter().map(move |end| format!("{before}{one}{end}"))).collect()
}

fn glob(pattern: &str, name: &str) -> bool {
    written_out(pattern).iter().any(|plain| {
        // Two stars are more than one only where they are a whole component.
        let single = |component: &str| {
            let mut component = component.to_owned();
            while component != "**" && component.contains("**") {
                component = component.replace("**", "*");
            }
            component
        };
        let plain: Vec<String> = plain.split('/').map(single).collect();
        let (plain, name): (Vec<char>, Vec<char>) = (plain.join("/").chars().collect(), name.chars().collect());
        walk(&plain, &name)
    })
}

fn walk(pattern: &[char], name: &[char]) -> bool {
    match pattern {
        [] => name.is_empty(),
        ['*', '*'] => !name.is_empty(),
        ['*', '*', '/', rest @ ..] => {
            walk(rest, name) || (0..name.len()).any(|at| name[at] == '/' && walk(rest, &name[at + 1..]))
        }
        ['*', rest @ ..] => {
            let run = name.iter().take_while(|c| **c != '/').count();
            (0..=run).any(|taken| walk(rest, &name[taken..]))
        }
        ['?', rest @ ..] => name.first().is_some_and(|c| *c != '/') && walk(rest, &name[1..]),
        ['\\', sign, rest @ ..] => name.first() == Some(sign) && walk(rest, &name[1..]),
        ['[', set @ ..] => {
            let end = set.iter().position(|c| *c == ']').expect("it ends");
            let (members, is_negated) = match &set[..end] {
                ['!', members @ ..] => (members, true),
                members => (members, false),
            };
            name.first().is_some_and(|c| members.contains(c) != is_negated) && walk(&set[end + 1..], &name[1..])
        }
        [plain, rest @ ..] => name.first() == Some(plain) && walk(rest, &name[1..]),
    }
}

// Expressions.

/// What it is about a character that puts it into a class.
type Is = fn(&char) -> bool;

#[derive(Debug, Clone)]
enum Tree {
    One(char),
    Any,
    Set(bool, Vec<char>),
    Class(bool, &'static str, Is),
    Begin,
    End,
    /// A border of a word, or none.
    Border(bool),
    Group(Vec<Vec<Tree>>),
    /// Letters mean both cases in it, or only their own.
    Folds(bool, Vec<Vec<Tree>>),
    Times(Box<Tree>, usize, Option<usize>),
}

fn tree(dice: &mut Dice, depth: usize) -> Tree {
    let letters: Vec<char> = "v1a-.rcpod2VR_".chars().collect();
    let classes: [(&str, Is); 5] = [
        ("alpha", char::is_ascii_alphabetic),
        ("lower", char::is_ascii_lowercase),
        ("upper", char::is_ascii_uppercase),
        ("punct", char::is_ascii_punctuation),
        ("digit", char::is_ascii_digit),
    ];
    match dice.roll(if depth == 0 { 9 } else { 14 }) {
        0 => Tree::Any,
        1 => Tree::Set(dice.roll(3) == 0, (0..=dice.roll(3)).map(|_| dice.pick(&letters)).collect()),
        2 => dice.pick(&[Tree::Begin, Tree::End, Tree::Border(true), Tree::Border(false)]),
        3 => {
            let (name, is) = dice.pick(&classes);
            Tree::Class(dice.roll(3) == 0, name, is)
        }
        4..9 => Tree::One(dice.pick(&letters)),
        9..11 => Tree::Group((0..=dice.roll(2)).map(|_| branch(dice, depth - 1)).collect()),
        11 => Tree::Folds(dice.roll(3) != 0, (0..=dice.roll(2)).map(|_| branch(dice, depth - 1)).collect()),
        _ => {
            let least = dice.roll(3);
            let most = dice.pick(&[None, Some(least), Some(least + 2)]);
            Tree::Times(Box::new(Tree::Group(vec![branch(dice, depth - 1)])), least, most)
        }
    }
}

fn branch(dice: &mut Dice, depth: usize) -> Vec<Tree> {
    (0..dice.roll(4)).map(|_| tree(dice, depth)).collect()
}

/// One of the ways to write it.
fn text_of(tree: &Tree, dice: &mut Dice) -> String {
    let character = |c: char, dice: &mut Dice| match dice.roll(8) {
        0 => format!("\\x{:02X}", u32::from(c)),
        1 => format!("\\x{{{:x}}}", u32::from(c)),
        2 => format!("\\{:03o}", u32::from(c)),
        _ if c.is_ascii_alphanumeric() => c.to_string(),
        _ => format!("\\{c}"),
    };
    match tree {
        Tree::One(c) if dice.roll(8) == 0 => format!("\\Q{c}\\E"),
        Tree::One(c) => character(*c, dice),
        Tree::Any => ".".to_owned(),
        Tree::Set(is_negated, set) => {
            let members: String = set.iter().map(|c| character(*c, dice)).collect();
            format!("[{}{members}]", if *is_negated { "^" } else { "" })
        }
        Tree::Class(is_negated, name, _) => dice
            .pick(&["[^[:name:]]", "[[:^name:]]"])
            .replacen('^', if *is_negated { "^" } else { "" }, 1)
            .replace("name", name),
        Tree::Begin => dice.pick(&["^", "\\A"]).to_owned(),
        Tree::End => dice.pick(&["$", "\\z"]).to_owned(),
        Tree::Border(is_border) => if *is_border { "\\b" } else { "\\B" }.to_owned(),
        Tree::Group(branches) => {
            let begin = dice.pick(&["(?:", "(", "(?P<name>", "(?<a_1>", "(?s-mU:", "(?:(?m)"]);
            format!("{begin}{})", branches_of(branches, dice))
        }
        Tree::Folds(folds, branches) => {
            let begin = dice.pick(&["(?i:", "((?i)", "(?:(?sU)(?mi-s)"]);
            let begin = if *folds { begin.to_owned() } else { begin.replace("mi-s", "-mi").replace("?i", "?-i") };
            format!("{begin}{})", branches_of(branches, dice))
        }
        Tree::Times(inside, least, most) => {
            let most = most.map_or(String::new(), |most| most.to_string());
            format!("{}{{{least},{most}}}", text_of(inside, dice))
        }
    }
}

fn branches_of(branches: &[Vec<Tree>], dice: &mut Dice) -> String {
    let mut text = |branch: &Vec<Tree>| branch.iter().map(|part| text_of(part, dice)).collect();
    branches.iter().map(&mut text).collect::<Vec<String>>().join("|")
}

/// Where a match that begins in one of these places may end.
fn ends(tree: &Tree, folds: bool, name: &[char], from: &BTreeSet<usize>) -> BTreeSet<usize> {
    let one = |fits: &dyn Fn(char) -> bool, is_negated: bool| {
        let has = |c: char| fits(c) || folds && (fits(c.to_ascii_lowercase()) || fits(c.to_ascii_uppercase()));
        from.iter().filter(|at| name.get(**at).is_some_and(|c| has(*c) != is_negated)).map(|at| at + 1).collect()
    };
    let is_word =
        |at: Option<usize>| at.and_then(|at| name.get(at)).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_');
    let any_of = |branches: &[Vec<Tree>], folds: bool| {
        let through =
            |branch: &Vec<Tree>| branch.iter().fold(from.clone(), |from, part| ends(part, folds, name, &from));
        branches.iter().flat_map(through).collect()
    };
    match tree {
        Tree::One(c) => one(&|other| other == *c, false),
        Tree::Any => one(&|_| true, false),
        Tree::Set(is_negated, set) => one(&|c| set.contains(&c), *is_negated),
        Tree::Class(is_negated, _, is) => one(&|c| is(&c), *is_negated),
        Tree::Begin => from.iter().copied().filter(|at| *at == 0).collect(),
        Tree::End => from.iter().copied().filter(|at| *at == name.len()).collect(),
        Tree::Border(is_border) => {
            let borders = |at: usize| is_word(at.checked_sub(1)) != is_word(Some(at));
            from.iter().copied().filter(|at| borders(*at) == *is_border).collect()
        }
        Tree::Group(branches) => any_of(branches, folds),
        Tree::Folds(folds, branches) => any_of(branches, *folds),
        Tree::Times(inside, least, most) => {
            let mut at = from.clone();
            (0..*least).for_each(|_| at = ends(inside, folds, name, &at));
            let mut all = at.clone();
            for _ in 0..most.map_or(name.len() + 1, |most| most - least) {
                at = ends(inside, folds, name, &at);
                all.extend(&at);
            }
            all
        }
    }
}

// Rules.

/// A rule as it is written, and the trees of its expressions by their texts.
struct Written {
    text: RuleText,
    trees: HashMap<String, Tree>,
}

fn rule(dice: &mut Dice, number: usize) -> Written {
    let mut trees = HashMap::new();
    let mut text = RuleText { id: format!("rule-{number}"), ..RuleText::default() };
    let of = |names: &'static [&'static str]| {
        move |dice: &mut Dice| {
            let near = dice.pick(names);
            pattern(dice, near)
        }
    };
    text.registries = dice.some(4, of(&REGISTRIES));
    text.registries_excluding = dice.some(8, of(&REGISTRIES));
    text.repositories = dice.some(2, of(&REPOSITORIES));
    text.repositories_excluding = dice.some(5, of(&REPOSITORIES));
    text.tags = dice.some(2, of(&TAGS));
    text.tags_excluding = dice.some(5, of(&TAGS));
    let mut expressions = |odds: usize, dice: &mut Dice| {
        let made = dice.some(odds, |dice| {
            loop {
                let tree = Tree::Group(vec![vec![tree(dice, 2)], branch(dice, 2)]);
                let text = text_of(&tree, dice);
                if text.len() <= MAX_PATTERN_LENGTH {
                    break (text, tree);
                }
            }
        })?;
        let texts = made.iter().map(|(text, _)| text.clone()).collect();
        trees.extend(made);
        Some(texts)
    };
    text.repositories_regex = expressions(6, dice);
    text.repositories_excluding_regex = expressions(12, dice);
    text.tags_regex = expressions(4, dice);
    text.tags_excluding_regex = expressions(9, dice);
    let changes = |dice: &mut Dice| {
        Some((0..=dice.roll(3)).map(|_| dice.pick(&["create", "overwrite", "recreate", "delete"]).to_owned()).collect())
    };
    match dice.roll(6) {
        0 => text.allow = changes(dice),
        1 => text.promoted_from = Some(vec![pattern(dice, "canary-1")]),
        2 => {}
        _ => text.forbid = changes(dice),
    }
    Written { text, trees }
}

impl Written {
    fn is_about(&self, tag: &TagRef) -> bool {
        let any = |list: &Option<Vec<String>>, fits: &dyn Fn(&str) -> bool| list.iter().flatten().any(|one| fits(one));
        let means = |name: &str, lists: [&Option<Vec<String>>; 4]| {
            let by_glob = |one: &str| glob(one, name);
            let by_regex = |one: &str| {
                let name: Vec<char> = name.chars().collect();
                !ends(&self.trees[one], false, &name, &(0..=name.len()).collect()).is_empty()
            };
            let [globs, regexes, without_globs, without_regexes] = lists;
            let all = globs.is_none() && regexes.is_none();
            (all || any(globs, &by_glob) || any(regexes, &by_regex))
                && !any(without_globs, &by_glob)
                && !any(without_regexes, &by_regex)
        };
        let text = &self.text;
        means(tag.registry.as_str(), [&text.registries, &None, &text.registries_excluding, &None])
            && means(
                tag.repository.as_str(),
                [
                    &text.repositories,
                    &text.repositories_regex,
                    &text.repositories_excluding,
                    &text.repositories_excluding_regex,
                ],
            )
            && means(tag.tag.as_str(), [&text.tags, &text.tags_regex, &text.tags_excluding, &text.tags_excluding_regex])
    }
}

/// What tags were bound to, newest last; `None`: they were deleted.
type Past = BTreeMap<TagRef, Vec<Option<char>>>;

/// The rule that forbids to bind a tag to `to`, or to delete it.
fn forbids<'a>(rules: &'a [Written], past: &Past, tag: &TagRef, to: Option<char>) -> Option<&'a str> {
    let history = past.get(tag).map_or(&[][..], Vec::as_slice);
    let now = history.last().copied().flatten();
    let last = history.iter().rev().find_map(|state| *state);
    let change = match (now, to) {
        (Some(_), None) => "delete",
        (Some(_), Some(_)) => "overwrite",
        (None, _) if last.is_none() || last == to => "create",
        (None, _) => "recreate",
    };
    for rule in rules.iter().filter(|rule| rule.is_about(tag)) {
        let has = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| list.iter().any(|one| one == change));
        let text = &rule.text;
        if let Some(sources) = &text.promoted_from {
            let carried = past.iter().any(|(other, history)| {
                (&other.registry, &other.repository) == (&tag.registry, &tag.repository)
                    && history.contains(&to)
                    && sources.iter().any(|source| glob(source, other.tag.as_str()))
            });
            if change != "delete" && !carried {
                return Some(&text.id);
            }
        } else if has(&text.allow) {
            return None;
        } else if has(&text.forbid) || (text.forbid.is_none() && text.allow.is_none() && change != "create") {
            return Some(&text.id);
        }
    }
    None
}

#[derive(Default)]
struct World {
    subjects: HashMap<SubjectKey, SubjectState>,
    carried: BTreeSet<(TagRef, Digest)>,
}

impl View for World {
    type Error = Infallible;

    fn subject(&self, key: &SubjectKey) -> Result<SubjectState, Infallible> {
        Ok(self.subjects.get(key).cloned().unwrap_or_default())
    }

    fn tags_bound_to(&self, _: &Registry, _: &Repository, _: &Digest) -> Result<Vec<Tag>, Infallible> {
        Ok(Vec::new())
    }

    fn tags_ever_bound_to(&self, at: &Registry, within: &Repository, to: &Digest) -> Result<Vec<Tag>, Infallible> {
        let is_here =
            |(name, digest): &&(TagRef, Digest)| (&name.registry, &name.repository, digest) == (at, within, to);
        Ok(self.carried.iter().filter(is_here).map(|(name, _)| name.tag.clone()).collect())
    }
}

#[test]
fn random_policies_decide_as_a_naive_evaluator_does() {
    let mut seen: BTreeMap<&'static str, usize> = BTreeMap::new();
    for seed in 1..=WORLDS {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let rules: Vec<Written> = (0..=dice.roll(6)).map(|number| rule(&mut dice, number)).collect();
        let text =
            Document { exempt_referrers: None, rule: rules.iter().map(|rule| rule.text.clone()).collect() }.to_text();
        let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
        let (mut world, mut past) = (World::default(), Past::new());
        for index in 0..u64::try_from(CHANGES).expect("few") {
            let name = format!("{}/{}:{}", dice.pick(&REGISTRIES), dice.pick(&REPOSITORIES), dice.pick(&TAGS));
            let tag: TagRef = name.parse().expect("a reference");
            let to = dice.pick(&[Some('a'), Some('b'), Some('c'), None]);
            let told = dice.roll(3) == 0;
            let disposition = if told { Disposition::Happened } else { Disposition::Requested };
            let now = past.get(&tag).and_then(|history| history.last().copied().flatten());
            let (rule, expected) = match forbids(&rules, &past, &tag, to) {
                _ if now == to => ("", Outcome::Unchanged),
                None => ("", Outcome::Applied),
                Some(rule) => (rule, if told { Outcome::Violation } else { Outcome::Denied }),
            };
            let Ok(steps) = transition(&world, &policy, "ci", &statement(&tag, to, disposition), index);
            assert_eq!(
                (steps[0].outcome, &*steps[0].rule),
                (expected, rule),
                "seed {seed}, {name} to {to:?}\n{past:?}\n{text}"
            );
            *seen.entry(expected.as_str_name()).or_default() += 1;
            if matches!(expected, Outcome::Applied | Outcome::Violation) {
                past.entry(tag).or_default().push(to);
            }
            for touch in &steps[0].touches {
                if let (Subject::Tag(name), Some(digest)) = (&touch.subject, touch.after.digest()) {
                    world.carried.insert((name.clone(), digest.clone()));
                }
                let state =
                    SubjectState { count: touch.version + 1, binding: touch.after.clone(), hold: touch.hold.clone() };
                world.subjects.insert(touch.subject.key(), state);
            }
        }
    }
    assert!(seen.len() == 4 && seen.values().all(|count| *count > 500), "each outcome is met often: {seen:?}");
}

fn statement(tag: &TagRef, to: Option<char>, disposition: Disposition) -> Statement {
    let (registry, repository, tag) = (tag.registry.to_string(), tag.repository.to_string(), tag.tag.to_string());
    let disposition = disposition.into();
    let kind = match to {
        None => Kind::TagDelete(proto::TagDelete { registry, repository, tag, disposition, settles: 0 }),
        Some(digit) => {
            let (digest, media_type) = (format!("sha256:{}", digit.to_string().repeat(64)), String::new());
            Kind::TagPush(proto::TagPush { registry, repository, tag, digest, media_type, disposition, settles: 0 })
        }
    };
    let bytes = proto::Statement { kind: Some(kind), ..proto::Statement::default() }.encode_to_vec();
    Statement::parse(&bytes).expect("valid")
}

/// `tools/micro/policy.rs` measures it in an optimised build, where 5 us are demanded; this one is not, and has twice as long. The best fifty in
/// a row count, so that what else the machine does does not.
#[test]
fn a_thousand_rules_are_not_gone_through_one_by_one() {
    type Rule = fn(usize) -> String;
    let shapes: [(&str, Rule); 6] = [
        ("teams", |n| format!("repositories=['team-{n}/**']")),
        ("repositories", |n| format!("repositories=['team-{n}/app']\ntags=['v*']")),
        ("patterns", |n| format!("repositories=['team-{n}/a*p']")),
        ("endings", |n| format!("repositories=['**/app-{n}']")),
        ("tags", |n| format!("tags=['v{n}.*']")),
        ("expressions", |n| format!("tags_regex=['^v{}[.]']", n % 250)),
    ];
    let name = |n: usize| match n % 2 {
        0 => format!("r/team-{n}/app:v{n}.1"),
        _ => format!("r/group/app-{n}:v{n}.1"),
    };
    let tags: Vec<TagRef> = (0..2000).map(|n| name(n).parse().expect("a reference")).collect();
    for (shape, rule) in shapes {
        let rules: String = (0..1000).map(|n| format!("[[rule]]\nid='{n}'\n{}\n", rule(n))).collect();
        let policy = Policy::parse(&rules).expect("a policy");
        let decide = |tag| policy.forbids(tag, Change::Overwrite, || Ok::<Vec<Tag>, Infallible>(Vec::new()));
        let Ok(_) = decide(&tags[0]);
        let (mut best, mut forbidden) = (Duration::MAX, 0);
        for fifty in tags.chunks(50) {
            let begun = Instant::now();
            for tag in fifty {
                let Ok(found) = decide(tag);
                forbidden += u32::from(found.is_some());
            }
            best = best.min(begun.elapsed() / 50);
        }
        println!("a thousand rules, {shape}: {best:?} a decision, {forbidden} of 2000 forbidden");
        assert!((100..=1000).contains(&forbidden), "{shape}: {forbidden}");
        assert!(best < Duration::from_micros(10), "{shape}: {best:?} a decision");
    }
}

/// The best eight in a row count, as above.
#[test]
fn the_dearest_policies_that_are_accepted_decide_in_time() {
    let rules = |lists: &mut dyn Iterator<Item = String>| {
        lists.enumerate().map(|(n, list)| format!("[[rule]]\nid = '{n}'\n{list}\n")).collect::<String>()
    };
    let waiting = (0..245).map(|n| format!("repositories = ['*a{}c']", "?".repeat(60 + n)));
    let deep = (0..110).map(|n| format!("repositories = ['**/a{}{}*c']", "**/?*a*/".repeat(50), "?".repeat(n % 90)));
    let alternatives =
        (0..60).map(|n| format!("repositories = ['{}*{{a,b}}{{a,b}}{{a,b}}{{a,b}}{{a,b}}*c*c{n}']", "?".repeat(15)));
    let expressions = (0..14).map(|n| format!("repositories_regex = ['a[ab]{{{}}}c']", 125 + n));
    let joined = (0..2).map(|n| format!("repositories_regex = ['(?:a|b)*a(?:[ab]c?){{{}}}d']", 245 + n));
    let borders = (0..2).map(|n| format!(r"repositories_regex = ['a(?:\b?[ab]?\B?){{{}}}d']", 248 + n));
    let mut dice = Dice(0x5eed);
    let names: Vec<TagRef> = (0..40)
        .map(|_| {
            let name: String = (0..255).map(|_| dice.pick(&['a', 'b'])).collect();
            format!("r/{name}:v").parse().expect("a reference")
        })
        .collect();
    for (shape, text) in [
        ("signs that wait", rules(&mut { waiting })),
        ("components", rules(&mut { deep })),
        ("alternatives", rules(&mut { alternatives })),
        ("expressions", rules(&mut { expressions })),
        ("groups", rules(&mut { joined })),
        ("borders of words", rules(&mut { borders })),
    ] {
        let policy = Policy::parse(&text).unwrap_or_else(|error| panic!("{shape}: {error}"));
        let decide = |tag| policy.forbids(tag, Change::Overwrite, || Ok::<Vec<Tag>, Infallible>(Vec::new()));
        let Ok(_) = decide(&names[0]);
        let mut each = Duration::MAX;
        for eight in names.chunks(8) {
            let begun = Instant::now();
            for name in eight {
                let Ok(found) = decide(name);
                assert!(found.is_none(), "{shape}: {name}");
            }
            each = each.min(begun.elapsed() / 8);
        }
        println!("{shape}, {} bytes: {each:?} a decision", text.len());
        assert!(each < Duration::from_millis(20), "{shape}: {each:?} a decision");
    }
}
