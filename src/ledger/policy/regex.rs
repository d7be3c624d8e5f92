//! Regular expressions in RE2's language, as far as names can tell.
//!
//! An expression is parsed here by the grammar of docs/SPEC.md, appendix B, bounded, and handed on to the `regex` crate in a
//! canonical form: what is accepted, and what it means, does not depend on the engine. As in RE2 it is looked for anywhere in a
//! name unless `^` and `$` say otherwise. Matching takes linear time, and the bound on the size bounds the constant.

use std::mem;

use super::MAX_NESTING;
use super::classes::{Set, escaped, folded, named, of, range, ranges};
use super::pattern::check_characters;

/// Most characters of one expression once its repetitions are written out.
const MAX_SIZE: usize = 1_000;
/// Most of them in a policy, whose worst then takes some milliseconds (docs/PERFORMANCE.md).
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
    let mut parser = Parser { rest: text, canonical: String::new(), depth: 0, folds: false, quotes: false };
    let size = parser.alternatives()?;
    if parser.rest.is_empty() {
        Ok(Regex { text: text.to_owned(), canonical: parser.canonical, size })
    } else {
        Err("has a ) that closes nothing; write \\)".to_owned())
    }
}

struct Parser<'a> {
    /// What is not read yet. ASCII.
    rest: &'a str,
    canonical: String,
    depth: usize,
    /// Letters mean both cases: after `(?i)`.
    folds: bool,
    /// Characters mean themselves: between `\Q` and `\E`.
    quotes: bool,
}

/// At least so often, and at most.
type Counts = (usize, Option<usize>);

impl Parser<'_> {
    /// `a|b`, up to the end or a `)`. Returns the size.
    fn alternatives(&mut self) -> Result<usize, String> {
        let mut size = 1;
        while !self.rest.is_empty() && (self.quotes || !self.rest.starts_with(')')) {
            if !self.quotes && self.take("|") {
                self.canonical.push('|');
                size += 1;
            } else {
                size += self.piece()?;
            }
            if size > MAX_SIZE {
                return Err(format!("has more than {MAX_SIZE} characters once its repetitions are written out"));
            }
        }
        Ok(size)
    }

    /// Something that matches a character, a group or a place, and how often. Returns the size.
    fn piece(&mut self) -> Result<usize, String> {
        // What is repeated is a group, also where it was none: `^*` is not taken by every engine.
        self.canonical.push_str("(?:");
        let size = self.atom()?;
        self.canonical.push(')');
        if size == 0 {
            return Ok(0);
        }
        let Some((least, most)) = self.repetition()? else { return Ok(size) };
        // Whether as little or as much as possible is taken makes no difference to whether there is a match.
        self.take("?");
        if self.repetition()?.is_some() {
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

    /// `*`, `+`, `?` or `{n,m}`. A `{` that begins nothing of the kind is a character like any other.
    fn repetition(&mut self) -> Result<Option<Counts>, String> {
        if self.quotes {
            return Ok(None);
        }
        let counts = match self.rest.chars().next() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => return self.counts(),
            _ => return Ok(None),
        };
        self.next();
        Ok(Some(counts))
    }

    /// `{n}`, `{n,}` or `{n,m}`.
    fn counts(&mut self) -> Result<Option<Counts>, String> {
        let Some((inside, rest)) = self.rest[1..].split_once('}') else { return Ok(None) };
        let (least, most) = match inside.split_once(',') {
            None => (inside, Some(inside)),
            Some((least, "")) => (least, None),
            Some((least, most)) => (least, Some(most)),
        };
        let is_number = |digits: &str| {
            digits.bytes().all(|digit| digit.is_ascii_digit())
                && !digits.is_empty()
                && (digits == "0" || !digits.starts_with('0'))
        };
        if !is_number(least) || !most.is_none_or(is_number) {
            return Ok(None);
        }
        let count = |digits: &str| match digits.parse() {
            Ok(count) if count <= MAX_REPETITIONS => Ok(count),
            _ => Err(format!("repeats {digits} times; at most {MAX_REPETITIONS} are allowed")),
        };
        let (least, most) = (count(least)?, most.map(count).transpose()?);
        if let Some(most) = most.filter(|most| *most < least) {
            return Err(format!("asks for at least {least} and at most {most}"));
        }
        self.rest = rest;
        Ok(Some((least, most)))
    }

    /// Returns the size; 0 for what only says how the rest is to be read, and can't be repeated.
    fn atom(&mut self) -> Result<usize, String> {
        let sign = self.rest.bytes().next().unwrap_or_default();
        if self.repetition()?.is_some() {
            return Err(format!("has a {0} that repeats nothing; write \\{0}", char::from(sign)));
        }
        if self.quotes {
            self.next();
            self.put(self.fold(of(sign)));
            self.quotes = !self.take("\\E");
            return Ok(1);
        }
        if let Some(class) = self.class() {
            self.put(class);
            return Ok(1);
        }
        for (written, canonical) in [("^", "^"), ("\\A", "^"), ("$", "$"), ("\\z", "$"), ("\\b", "\\b"), ("\\B", "\\B")]
        {
            if self.take(written) {
                self.canonical.push_str(canonical);
                return Ok(1);
            }
        }
        if self.take("(") {
            return self.group();
        }
        if self.take("\\Q") {
            self.quotes = !self.take("\\E");
            return Ok(0);
        }
        let set = if self.take(".") {
            Set::MAX
        } else if self.take("[") {
            self.set()?
        } else {
            let character = self.character()?;
            self.fold(of(character))
        };
        self.put(set);
        Ok(1)
    }

    /// After `(`.
    fn group(&mut self) -> Result<usize, String> {
        let mut folds = self.folds;
        if self.take("?") {
            if self.take("P<") || self.take("<") {
                self.name()?;
            } else {
                folds = self.flags()?;
                if self.take(")") {
                    self.folds = folds;
                    return Ok(0);
                }
                self.take(":");
            }
        }
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(format!("has groups nested more than {MAX_NESTING} deep"));
        }
        let outside = mem::replace(&mut self.folds, folds);
        let size = self.alternatives()?;
        if !self.take(")") {
            return Err("has a group that does not end".to_owned());
        }
        self.folds = outside;
        self.depth -= 1;
        Ok(size)
    }

    /// After `(?P<`. What a group is called makes no difference to what it matches.
    fn name(&mut self) -> Result<(), String> {
        let is_word = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        match self.rest.split_once('>') {
            Some((name, rest)) if is_word(name) => {
                self.rest = rest;
                Ok(())
            }
            _ if self.rest.starts_with(['=', '!']) => {
                Err("looks behind, which RE2 can't; say what comes before in the expression itself".to_owned())
            }
            _ => Err("has a group whose name is not one; write (?P<name>...) with letters, digits and _".to_owned()),
        }
    }

    /// After `(?`, up to the `:` or `)`. Returns whether letters mean both cases.
    fn flags(&mut self) -> Result<bool, String> {
        if self.rest.starts_with(['=', '!']) {
            return Err("looks ahead, which RE2 can't; say what comes next in the expression itself".to_owned());
        }
        let end = self.rest.find([':', ')']);
        let (flags, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let (on, off) = flags.split_once('-').map_or((flags, None), |(on, off)| (on, Some(off)));
        // Names have no line breaks, which `m` and `s` are about; `U` is about how much is taken.
        let are_known = |flags: &str| flags.chars().all(|flag| "imsU".contains(flag));
        if end.is_none() || off == Some("") || !are_known(on) || !off.is_none_or(are_known) {
            return Err("has a group with an option that RE2 does not know; write (?i), (?i:...) or (?:...)".to_owned());
        }
        self.rest = rest;
        Ok((self.folds || on.contains('i')) && off.is_none_or(|off| !off.contains('i')))
    }

    /// After `[`, through the `]`.
    fn set(&mut self) -> Result<Set, String> {
        let is_negated = self.take("^");
        let mut set = 0;
        let mut is_first = true;
        while is_first || !self.take("]") {
            is_first = false;
            if let Some(class) = self.named_class()?.or_else(|| self.class()) {
                set |= class;
                continue;
            }
            if self.rest.is_empty() {
                return Err("has a set that does not end".to_owned());
            }
            let first = self.character()?;
            let is_range = self.rest.starts_with('-') && self.rest.len() > 1 && !self.rest.starts_with("-]");
            let last = if is_range && self.take("-") { self.character()? } else { first };
            if last < first {
                return Err("has a range that falls".to_owned());
            }
            set |= self.fold(range(first, last));
        }
        Ok(if is_negated { !set } else { set })
    }

    /// `[:alpha:]` in a set. Without a `:]`, wherever that is, its `[` is a character like any other.
    fn named_class(&mut self) -> Result<Option<Set>, String> {
        let Some((name, rest)) = self.rest.strip_prefix("[:").and_then(|after| after.split_once(":]")) else {
            return Ok(None);
        };
        let (name, is_negated) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
        let Some(class) = named(name).map(|class| self.fold(class)) else {
            return Err(format!("has a class [:{name}:], which RE2 does not know"));
        };
        self.rest = rest;
        Ok(Some(if is_negated { !class } else { class }))
    }

    /// `\d` and its like.
    fn class(&mut self) -> Option<Set> {
        let letter = self.rest.strip_prefix('\\')?.chars().next()?;
        let class = escaped(letter.to_ascii_lowercase())?;
        self.rest = &self.rest[2..];
        Some(if letter.is_ascii_uppercase() { !class } else { class })
    }

    /// A character as it is, or escaped.
    fn character(&mut self) -> Result<u8, String> {
        let escape = self.rest;
        let code = match self.next() {
            None => return Err("breaks off".to_owned()),
            Some('\\') => match self.next() {
                Some('a') => Some(0x07),
                Some('f') => Some(0x0c),
                Some('n') => Some(0x0a),
                Some('r') => Some(0x0d),
                Some('t') => Some(0x09),
                Some('v') => Some(0x0b),
                Some('x') => self.hexadecimal(),
                Some('0'..='7') => self.octal(&escape[1..]),
                Some('p' | 'P') => {
                    return Err(
                        "has \\p, a class of Unicode; names are ASCII: write [A-Za-z] or [[:alpha:]]".to_owned()
                    );
                }
                Some(sign) if sign.is_ascii_punctuation() => Some(u32::from(sign)),
                Some(_) => None,
                None => return Err("ends in a \\".to_owned()),
            },
            Some(plain) => Some(u32::from(plain)),
        };
        let escape = &escape[..escape.len() - self.rest.len()];
        match code.map(u8::try_from) {
            Some(Ok(character)) if character.is_ascii() => Ok(character),
            Some(_) => Err(format!("has {escape}, a character beyond ASCII, which no name has")),
            None => Err(format!("has {escape}, which has no meaning here; a \\ escapes signs")),
        }
    }

    /// After `\x`: two digits, or any number in braces.
    fn hexadecimal(&mut self) -> Option<u32> {
        let (digits, rest) = match self.rest.strip_prefix('{') {
            Some(braced) => braced.split_once('}')?,
            None => self.rest.split_at_checked(2)?,
        };
        let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        self.rest = if is_number { rest } else { return None };
        // What is too large for 32 bits is no character either.
        Some(u32::from_str_radix(digits, 16).unwrap_or(u32::MAX))
    }

    /// Up to three digits, the first of which was taken already. One alone, but for 0, would be a reference.
    fn octal(&mut self, digits: &str) -> Option<u32> {
        let length = digits.bytes().take(3).take_while(|digit| matches!(digit, b'0'..=b'7')).count();
        self.rest = self.rest.get(length - 1..)?;
        u32::from_str_radix(&digits[..length], 8).ok().filter(|_| length > 1 || digits.starts_with('0'))
    }

    fn fold(&self, set: Set) -> Set {
        if self.folds { folded(set) } else { set }
    }

    fn put(&mut self, set: Set) {
        self.canonical.push_str(&ranges(set));
    }

    fn take(&mut self, text: &str) -> bool {
        let after = self.rest.strip_prefix(text);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }
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
    fn letters_mean_both_cases_where_a_flag_says_so() {
        assert!(finds("^(?i)v1-rc$", "V1-rC") && !finds("^v1-rc$", "V1-rc"));
        assert!(finds("^a(?i)b|c$", "aB") && finds("^a(?i)b|c$", "C") && !finds("^a(?i)b|c$", "AB"));
        assert!(finds("^(a(?i)b)c$", "aBc") && !finds("^(a(?i)b)c$", "aBC"), "to the end of the group");
        assert!(finds("^(?i:a)b$", "Ab") && !finds("^(?i:a)b$", "AB"));
        assert!(finds("^(?i)a(?-i)b$", "Ab") && !finds("^(?i)a(?-i)b$", "AB"));
        assert!(finds("^(?i)a(?-i:b)c$", "AbC") && !finds("^(?i)a(?-i:b)c$", "ABC"));
        assert!(!finds("^(?i-i)a$", "A") && finds("^(?i)a(?)b$", "AB"));
        assert!(finds("^(?i)[b-d]$", "C") && !finds("^(?i)[^b-d]$", "C") && finds("^(?i)[^b-d]$", "E"));
        assert!(finds(r"^(?i)\Qa.b\E\x63$", "A.BC") && !finds(r"^(?i)\Qa.b\E$", "AxB"));
        assert!(finds("^(?i)[Z-a]$", "z") && finds("^(?i)[Z-a]$", "A") && finds("^(?i)[Z-a]$", "_"));
        assert!(finds("^(?i)[[:upper:]]$", "a") && !finds("^(?i)[[:^upper:]]$", "a"), "folded before it is negated");
        assert!(finds("^(?msU)a.*?$", "abc") && finds("^(?s-m:a.c)$", "abc"), "the others make no difference");
    }

    #[test]
    fn groups_may_have_names() {
        assert!(finds(r"^v(?P<major>\d+)(?<minor_2>[.]\d+)?$", "v1.20"));
        assert!(finds("^(?P<1>a)(?P<1>b)$", "ab"), "as in RE2, also the same name twice");
    }

    #[test]
    fn borders_of_words_are_those_of_ascii() {
        assert!(finds(r"\brc\b", "v1-rc.1") && !finds(r"\brc\b", "v1-rc1") && !finds(r"\brc\b", "v1_rc"));
        assert!(finds(r"\Brc\B", "xrc_") && !finds(r"\Brc\B", "-rc_"));
        assert!(finds(r"^\b1\b$", "1") && finds(r"a\b\b-", "a-") && !finds(r"a\b\B", "a-"));
        assert!(finds(r"\Aa\z", "a") && !finds(r"\Aa\z", "ab") && !finds(r"\Aa\z", "ba"));
        assert!(finds(r"^(\b|x)+a$", "xa") && finds(r"(?:-\b)*a", "a"));
    }

    #[test]
    fn characters_have_many_spellings() {
        assert!(finds(r"^\x41\x{0041}\101\x2d\056$", "AAA-."));
        assert!(finds(r"^[\x41-\103]\60$", "B0") && finds(r"^\608$", "08") && !finds(r"^\08$", "8"));
        assert!(!finds(r"[\a\f\n\r\t\v\0\x7f]", "afnrtv0x7"), "no name has one of these");
        assert!(finds(r"^[^\x00-\x1f]+$", "a"));
        assert!(
            finds(r"^\Qa.b*\E$", "a.b*") && finds(r"^\Qab\E+$", "abb") && finds(r"x|\Q)(?i)\d[|\", r"=)(?i)\d[|\=")
        );
        assert!(finds(r"^\Q\E\Q\\E1$", r"\1") && finds(r"^[^\s]\S$", "ab") && !finds(r"\s", "a-b"));
    }

    #[test]
    fn signs_that_begin_or_close_nothing_are_themselves() {
        assert!(finds("^a]}$", "a]}") && finds("^{a}$", "{a}") && finds("^a{b$", "a{b") && finds("^a{$", "a{"));
        for expression in ["a{,2}", "a{01}", "a{1,2,3}", "a{1,x}", "a{}", "a{-1}", "a{1"] {
            assert!(finds(&format!("^{expression}$"), expression), "{expression}");
        }
        assert!(finds("^a*{,2}{2}$", "aa{,2}}"));
    }

    #[test]
    fn sets_are_written_as_in_re2() {
        assert!(finds("^[]a]+$", "a]") && finds("^[^]a]$", "b") && !finds("^[^]a]$", "]"));
        assert!(finds("^[[a]+$", "a[") && finds("^[a[:]+$", "[:a") && finds("^[:alpha:]+$", "lap:h"));
        assert!(finds(r"^[\d-z]+$", "1-z") && !finds(r"^[\d-z]+$", "y") && finds("^[a-c-e]+$", "b-e"));
        assert!(finds("^[+-[:digit:]$", "Z") && !finds("^[+-[:digit:]$", "h"), "a range to [");
        assert!(finds("^[[:alpha:]_[:^alnum:]]+$", "a_-") && !finds("^[[:alpha:]_[:^alnum:]]+$", "1"));
        let all = "09AFGZafgz!/:@[_`{~";
        for (class, members) in [
            ("alnum", "09AFGZafgz"),
            ("alpha", "AFGZafgz"),
            ("ascii", all),
            ("blank", ""),
            ("cntrl", ""),
            ("digit", "09"),
            ("graph", all),
            ("lower", "afgz"),
            ("print", all),
            ("punct", "!/:@[_`{~"),
            ("space", ""),
            ("upper", "AFGZ"),
            ("word", "09AFGZafgz_"),
            ("xdigit", "09AFaf"),
        ] {
            for character in all.chars() {
                let name = character.to_string();
                assert_eq!(finds(&format!("[[:{class}:]]"), &name), members.contains(character), "{class} {name}");
                assert_ne!(finds(&format!("[[:^{class}:]]"), &name), members.contains(character), "{class} {name}");
            }
        }
    }

    #[test]
    fn what_re2_does_not_have_or_no_name_could_tell_is_refused() {
        for (expression, why) in [
            ("a**", "repeats a repetition"),
            ("a+?{2}", "repeats a repetition"),
            ("*a", "repeats nothing"),
            ("a|{2}", "a { that repeats nothing"),
            ("a(?i)*", "repeats nothing"),
            (r"a\Q\E*", "repeats nothing"),
            ("a{2,1}", "at least 2"),
            ("a{1001}", "at most 1000"),
            ("a{99999999999999999999}", "at most 1000"),
            ("a)", "closes nothing"),
            ("(a", "does not end"),
            (r"(\Qa)", "does not end"),
            ("[a", "does not end"),
            ("[]", "does not end"),
            ("[a-", "does not end"),
            ("[[:alpha:]", "does not end"),
            ("[z-a]", "falls"),
            (r"[a-\d]", r"has \d"),
            (r"[\b]", r"has \b"),
            (r"[\Qa\E]", r"has \Q"),
            ("[[:letter:]]", "[:letter:]"),
            ("[[:a]x[b:]", "RE2 does not know"),
            ("(?x)a", "option"),
            ("(?i", "option"),
            ("(?-)a", "option"),
            ("(?i-)a", "option"),
            ("(?i-s-m)a", "option"),
            ("(?P=n)", "option"),
            ("(?>a)", "option"),
            ("(?=a)", "looks ahead"),
            ("(?!a)", "looks ahead"),
            ("(?<=a)b", "looks behind"),
            ("(?<!a)b", "looks behind"),
            ("(?P<n", "name"),
            ("(?P<>a)", "name"),
            ("(?P<a-b>a)", "name"),
            (r"\pL", "Unicode"),
            (r"[\p{Greek}]", "Unicode"),
            (r"(a)\1", r"has \1"),
            (r"\8", r"has \8"),
            (r"\C", r"has \C"),
            (r"\Z", r"has \Z"),
            (r"\E", r"has \E"),
            (r"\x4", r"has \x"),
            (r"\x{}", r"has \x"),
            (r"\x{100}", r"\x{100}, a character beyond ASCII"),
            (r"\x{fffffffff}", "beyond ASCII"),
            (r"\200", r"\200, a character beyond ASCII"),
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
        assert_eq!(regex(r"(?i)a\Qb)\E\b{2}[[:alpha:]]\x41").map(|regex| regex.size), Ok(8));
        for expression in ["(a{100}){100}", "((a{0,50}){0,50}){0,50}", "(|){1000}", "a{999}b"] {
            assert!(regex(expression).expect_err(expression).contains("more than 1000 characters"), "{expression}");
        }
        let nested = |depth: usize| "(".repeat(depth) + "a" + &")".repeat(depth);
        assert!(regex(&nested(MAX_NESTING)).is_ok());
        assert!(regex(&nested(MAX_NESTING + 1)).expect_err("too deep").contains("nested"));
    }
}
