//! Regular expressions: the part of RE2's language that every engine understands alike.
//!
//! An expression is parsed here by the grammar of docs/SPEC.md, appendix B, bounded, and handed on to the `regex` crate in a
//! canonical form: what is accepted, and what it means, does not depend on the engine. As in RE2 it is looked for anywhere in a
//! name unless `^` and `$` say otherwise. Matching takes linear time, and the bound on the size bounds the constant.

use std::iter::Peekable;
use std::str::Chars;

use super::MAX_NESTING;
use super::pattern::check_characters;

/// Most characters of one expression once its repetitions are written out.
const MAX_SIZE: usize = 1_000;
/// Most of them in a policy, whose worst then takes below a millisecond (docs/PERFORMANCE.md).
pub const MAX_POLICY_SIZE: usize = 2_000;
/// Most repetitions that an expression may ask for, as in RE2.
const MAX_REPETITIONS: usize = 1_000;

/// An expression that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Regex {
    pub(super) text: String,
    /// As the `regex` crate takes it.
    pub(super) canonical: String,
    /// Its length once repetitions are written out.
    pub(super) size: usize,
}

/// Parses an expression, or says what is wrong with it.
pub(super) fn regex(text: &str) -> Result<Regex, String> {
    check_characters(text)?;
    let mut parser = Parser { characters: text.chars().peekable(), canonical: String::new(), depth: 0 };
    let size = parser.alternatives()?;
    match parser.characters.next() {
        None => Ok(Regex { text: text.to_owned(), canonical: parser.canonical, size }),
        Some(_) => Err("has a ) that closes nothing; write \\)".to_owned()),
    }
}

struct Parser<'a> {
    characters: Peekable<Chars<'a>>,
    canonical: String,
    depth: usize,
}

/// ASCII characters, one bit each.
type Set = u128;

impl Parser<'_> {
    /// `a|b`, up to the end or a `)`. Returns the size.
    fn alternatives(&mut self) -> Result<usize, String> {
        let mut size = 1;
        loop {
            while let Some(&next) = self.characters.peek() {
                if matches!(next, '|' | ')') {
                    break;
                }
                size += self.piece()?;
                if size > MAX_SIZE {
                    return Err(format!("has more than {MAX_SIZE} characters once its repetitions are written out"));
                }
            }
            if self.characters.next_if_eq(&'|').is_none() {
                return Ok(size);
            }
            self.canonical.push('|');
            size += 1;
        }
    }

    /// Something that matches a character, a group or an end, and how often. Returns the size.
    fn piece(&mut self) -> Result<usize, String> {
        // What is repeated is a group, also where it was none: `^*` is not taken by every engine.
        self.canonical.push_str("(?:");
        let size = self.atom()?;
        self.canonical.push(')');
        let (least, most) = match self.characters.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.characters.next();
                self.counts()?
            }
            _ => return Ok(size),
        };
        self.characters.next();
        // Whether as little or as much as possible is taken makes no difference to whether there is a match.
        self.characters.next_if_eq(&'?');
        if matches!(self.characters.peek(), Some('*' | '+' | '?' | '{')) {
            return Err("repeats a repetition; put the first one into a group".to_owned());
        }
        self.canonical.push_str(&match (least, most) {
            (0, None) => "*".to_owned(),
            (1, None) => "+".to_owned(),
            (least, None) => format!("{{{least},}}"),
            (least, Some(most)) => format!("{{{least},{most}}}"),
        });
        Ok(size * most.unwrap_or(least + 1).max(1))
    }

    /// `n}`, `n,}` or `n,m}`, up to the brace.
    fn counts(&mut self) -> Result<(usize, Option<usize>), String> {
        let least = self.count()?;
        let most = match self.characters.next_if_eq(&',') {
            None => Some(least),
            Some(_) if self.characters.peek() == Some(&'}') => None,
            Some(_) => Some(self.count()?),
        };
        match self.characters.peek() {
            Some('}') if most.is_none_or(|most| least <= most) => Ok((least, most)),
            Some('}') => Err(format!("asks for at least {least} and at most {}", most.unwrap_or_default())),
            _ => Err("has a { that begins no repetition; write {2,3}, or \\{ for the sign".to_owned()),
        }
    }

    fn count(&mut self) -> Result<usize, String> {
        let mut digits = String::new();
        while let Some(digit) = self.characters.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        let is_canonical = digits == "0" || !digits.starts_with('0');
        match digits.parse() {
            Ok(count) if count <= MAX_REPETITIONS && is_canonical => Ok(count),
            Ok(_) => {
                Err(format!("repeats {digits} times; at most {MAX_REPETITIONS} are allowed, without leading zeros"))
            }
            Err(_) if digits.is_empty() => {
                Err("has a { that begins no repetition; write {2,3}, or \\{ for the sign".to_owned())
            }
            Err(_) => Err(format!("repeats {digits} times; at most {MAX_REPETITIONS} are allowed")),
        }
    }

    fn atom(&mut self) -> Result<usize, String> {
        let set = match self.characters.next() {
            Some('(') => return self.group(),
            Some(end @ ('^' | '$')) => {
                self.canonical.push(end);
                return Ok(1);
            }
            Some('.') => Set::MAX,
            Some('[') => self.set()?,
            Some('\\') => self.escape()?,
            Some(sign @ ('*' | '+' | '?' | '{')) => {
                return Err(format!("has a {sign} that repeats nothing; write \\{sign}"));
            }
            Some(sign @ (']' | '}')) => return Err(format!("has a {sign} that closes nothing; write \\{sign}")),
            Some(plain) => of(plain),
            None => return Err("breaks off".to_owned()),
        };
        self.put(set);
        Ok(1)
    }

    fn group(&mut self) -> Result<usize, String> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(format!("has groups nested more than {MAX_NESTING} deep"));
        }
        if self.characters.next_if_eq(&'?').is_some() && self.characters.next_if_eq(&':').is_none() {
            return Err("has a group with an option; only ( and (?: are allowed".to_owned());
        }
        let size = self.alternatives()?;
        if self.characters.next().is_none() {
            return Err("has a group that does not end".to_owned());
        }
        self.depth -= 1;
        Ok(size)
    }

    /// After `\`.
    fn escape(&mut self) -> Result<Set, String> {
        let digits = range('0', '9');
        let words = digits | range('a', 'z') | range('A', 'Z') | of('_');
        match self.characters.next() {
            Some('d') => Ok(digits),
            Some('D') => Ok(!digits),
            Some('w') => Ok(words),
            Some('W') => Ok(!words),
            Some(sign) if sign.is_ascii_punctuation() => Ok(of(sign)),
            Some(other) => Err(format!("has \\{other}; only \\d, \\D, \\w, \\W and escaped signs are allowed")),
            None => Err("ends in a \\".to_owned()),
        }
    }

    /// After `[`, through the `]`.
    fn set(&mut self) -> Result<Set, String> {
        let is_negated = self.characters.next_if_eq(&'^').is_some();
        let mut set = 0;
        while self.characters.peek() != Some(&']') || set == 0 {
            let first = self.member()?;
            let mut ahead = self.characters.clone();
            if (ahead.next(), ahead.next().is_some_and(|next| next != ']')) != (Some('-'), true) {
                set |= first;
                continue;
            }
            self.characters.next();
            let last = self.member()?;
            if first.count_ones() != 1 || last.count_ones() != 1 {
                return Err("has a range that does not go from one character to one other".to_owned());
            }
            if last < first {
                return Err("has a range that falls".to_owned());
            }
            set |= (last - first) | last;
        }
        self.characters.next();
        Ok(if is_negated { !set } else { set })
    }

    fn member(&mut self) -> Result<Set, String> {
        match self.characters.next() {
            None => Err("has a set that does not end".to_owned()),
            Some('\\') => self.escape(),
            Some(sign @ ('[' | ']')) => Err(format!("has a {sign} in a set; write \\{sign}")),
            Some(plain) => Ok(of(plain)),
        }
    }

    /// A set as ranges. One that holds nothing matches nothing.
    fn put(&mut self, set: Set) {
        self.canonical.push('[');
        let mut at = 0u8;
        if set == 0 {
            self.canonical.push_str("^\\x00-\\x7f");
        }
        while at < 128 {
            let run = u8::try_from((set >> at).trailing_ones()).expect("at most 128");
            if run > 0 {
                self.canonical.push_str(&format!("\\x{at:02x}-\\x{:02x}", at + run - 1));
            }
            at += run.max(1);
        }
        self.canonical.push(']');
    }
}

fn of(character: char) -> Set {
    1 << u32::from(character)
}

fn range(first: char, last: char) -> Set {
    (of(last) - of(first)) | of(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds(expression: &str, name: &str) -> bool {
        let canonical = regex(expression).unwrap_or_else(|problem| panic!("{expression}: {problem}")).canonical;
        let built = ::regex::bytes::RegexBuilder::new(&canonical).unicode(false).build().expect("canonical");
        built.is_match(name.as_bytes())
    }

    #[test]
    fn an_expression_is_looked_for_anywhere_unless_it_is_anchored() {
        assert!(finds("1", "v1.0"));
        assert!(!finds("^1", "v1.0"));
        assert!(!finds("1$", "v1.0"));
        assert!(finds("^v1|0$", "v2.0"));
        assert!(finds(r"^v?(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z-.]+))?$", "v1.20.3-rc.1"));
        assert!(!finds(r"^v?(\d+)\.(\d+)\.(\d+)(?:-([0-9A-Za-z-.]+))?$", "v1.20-rc.1"));
        assert!(finds("^v[0-9]+$?", "v1x"), "an end that may be left out says nothing");
    }

    #[test]
    fn every_construct_means_what_it_means_in_re2() {
        assert!(finds("^a.c$", "abc") && !finds("^a.c$", "ac"));
        assert!(finds(r"^a\.c$", "a.c") && !finds(r"^a\.c$", "abc"));
        assert!(finds("^[^a-c]$", "d") && !finds("^[^a-c]$", "b"));
        assert!(finds("^[a-]+$", "a-a") && finds("^[-a]+$", "-") && finds("^[+--]$", ","));
        assert!(finds(r"^[\w-]+$", "a_Z-9") && !finds(r"^[\w-]+$", "a.b"));
        assert!(finds(r"^\D\W$", "a.") && !finds(r"^\D\W$", "1."));
        assert!(finds("^a{2}$", "aa") && !finds("^a{2}$", "aaa"));
        assert!(finds("^a{2,}?$", "aaa") && finds("^a{0,2}$", "") && !finds("^a{0,2}$", "aaa"));
        assert!(finds("^(a|b|)c$", "c") && finds("^(?:a|b)c$", "bc"));
        assert!(finds("^(a*)*$", "aaaa"));
        assert!(!finds("[^\\w\\W]", "a"), "a set of nothing");
    }

    #[test]
    fn what_engines_take_in_different_ways_is_refused() {
        for (expression, why) in [
            ("a**", "repeats a repetition"),
            ("*a", "repeats nothing"),
            ("a{,2}", "begins no repetition"),
            ("a{b", "begins no repetition"),
            ("a{2,1}", "at least 2"),
            ("a{01}", "leading zeros"),
            ("a{1001}", "at most 1000"),
            ("a}", "closes nothing"),
            ("a]", "closes nothing"),
            ("a)", "closes nothing"),
            ("(a", "does not end"),
            ("[a", "does not end"),
            ("[]a]", "in a set"),
            ("[[:alpha:]]", "in a set"),
            ("[z-a]", "falls"),
            (r"[\d-z]", "range"),
            ("(?i)a", "option"),
            ("(?P<n>a)", "option"),
            ("(?!a)", "option"),
            (r"\bA", r"has \b"),
            (r"\pL", r"has \p"),
            (r"(a)\1", r"has \1"),
            ("a\\", "ends in"),
            ("é", "no name has"),
            ("a b", "no name has"),
            ("", "empty"),
        ] {
            let problem = regex(expression).expect_err(expression);
            assert!(problem.contains(why), "{expression}: {problem}");
        }
    }

    #[test]
    fn size_and_nesting_are_bounded() {
        assert_eq!(regex("abc").map(|regex| regex.size), Ok(4));
        assert_eq!(regex("a{10}").map(|regex| regex.size), Ok(11));
        assert_eq!(regex("(ab){3,}").map(|regex| regex.size), Ok(13));
        for expression in ["(a{100}){100}", "((a{0,50}){0,50}){0,50}", "(|){1000}", "a{999}b"] {
            assert!(regex(expression).expect_err(expression).contains("more than 1000 characters"), "{expression}");
        }
        let nested = |depth: usize| "(".repeat(depth) + "a" + &")".repeat(depth);
        assert!(regex(&nested(MAX_NESTING)).is_ok());
        assert!(regex(&nested(MAX_NESTING + 1)).expect_err("too deep").contains("nested"));
    }
}
