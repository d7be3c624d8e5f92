//! Patterns: `*`, `**`, `?`, `{a,b}` and sets, which match whole names component by component.
//!
//! A pattern is parsed here by the rules of docs/SPEC.md, appendix B, bounded once its alternatives are written out, and handed
//! to `machine`, in which all patterns of a kind are matched at once.

use std::sync::OnceLock;

use super::classes::{Set, of, range};
use super::machine::Machine;
use super::{MAX_NESTING, MAX_PATTERN_LENGTH};

/// Most characters of one pattern once its alternatives are written out.
const MAX_SIZE: usize = 1_000;
/// Most of them in a policy. One without alternatives never has more: its text is not longer.
pub const MAX_POLICY_SIZE: usize = super::MAX_TEXT_LENGTH;

/// What a name has to have next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// One of these characters.
    One(Set),
    /// Characters of one component, or none: `*`.
    Star,
    /// Components, each with its slash, or none: `**/`.
    Components,
    /// At least one component: `**` at the end.
    Rest,
}

/// A pattern that was accepted.
#[derive(Debug, Clone)]
pub struct Glob {
    pub(super) text: String,
    /// The characters of all it stands for once its alternatives are written out, and one for each of them.
    pub(super) size: usize,
}

/// One pattern by itself. Is made ready when it is first needed: whoever only reads it, a stranger's perhaps, does not pay.
#[derive(Debug, Clone)]
pub struct Pattern {
    glob: Glob,
    machine: OnceLock<Machine>,
}

impl Pattern {
    /// A pattern, or what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        Ok(Self { glob: glob(text)?, machine: OnceLock::new() })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.glob.text
    }

    /// Whether it matches all of a name.
    pub fn is_match(&self, name: &str) -> bool {
        !self.machine.get_or_init(|| Machine::new([&self.glob])).matches(name).is_empty()
    }
}

/// A pattern that can be matched with, or what is wrong with it.
pub(super) fn glob(text: &str) -> Result<Glob, String> {
    check_characters(text)?;
    let (count, characters) = measure(&parse(text)?);
    let size = count.saturating_add(characters);
    if size > MAX_SIZE {
        return Err(format!("has more than {MAX_SIZE} characters once its alternatives are written out"));
    }
    Ok(Glob { text: text.to_owned(), size })
}

impl Glob {
    /// Everything it stands for, without alternatives.
    pub(super) fn written_out(&self) -> Vec<Vec<Step>> {
        written_out(&parse(&self.text).expect("it was parsed before"))
    }
}

enum Part {
    Step(Step),
    Either(Vec<Vec<Part>>),
}

impl Step {
    /// Characters that it counts for; a set and an escaped sign count as the one that they match.
    fn size(self) -> usize {
        match self {
            Self::One(_) | Self::Star => 1,
            Self::Rest => 2,
            Self::Components => 3,
        }
    }
}

/// How many patterns without alternatives the parts stand for, and the characters of all of them.
fn measure(parts: &[Part]) -> (usize, usize) {
    parts.iter().fold((1, 0), |(count, characters): (usize, usize), part| {
        let (times, more) = match part {
            Part::Step(step) => (1, step.size()),
            Part::Either(branches) => branches.iter().map(|branch| measure(branch)).fold((0, 0), |sum, branch| {
                (usize::saturating_add(sum.0, branch.0), usize::saturating_add(sum.1, branch.1))
            }),
        };
        let characters = characters.saturating_mul(times).saturating_add(more.saturating_mul(count));
        (count.saturating_mul(times), characters)
    })
}

fn written_out(parts: &[Part]) -> Vec<Vec<Step>> {
    parts.iter().fold(vec![Vec::new()], |begun, part| match part {
        Part::Step(step) => begun.into_iter().map(|steps| [steps, vec![*step]].concat()).collect(),
        Part::Either(branches) => {
            let ends: Vec<Vec<Step>> = branches.iter().flat_map(|branch| written_out(branch)).collect();
            begun.iter().flat_map(|steps| ends.iter().map(move |end| [&steps[..], end].concat())).collect()
        }
    })
}

fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut parser = Parser { text: text.as_bytes(), at: 0, depth: 0 };
    let parts = parser.sequence()?;
    if parser.at < text.len() { Err("has a } that ends no alternatives; write \\}".to_owned()) } else { Ok(parts) }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    /// Up to the end of the text, or of the alternative.
    fn sequence(&mut self) -> Result<Vec<Part>, String> {
        let mut parts = Vec::new();
        while let Some(character) = self.peek() {
            if character == b'}' || (character == b',' && self.depth > 0) {
                break;
            }
            let begins = self.at == 0 || self.text[self.at - 1] == b'/';
            self.at += 1;
            parts.push(match character {
                b'*' if begins && self.text[self.at..] == *b"*" => {
                    self.at += 1;
                    Part::Step(Step::Rest)
                }
                b'*' if begins && self.text[self.at..].starts_with(b"*/") => {
                    self.at += 2;
                    Part::Step(Step::Components)
                }
                b'*' => Part::Step(Step::Star),
                b'?' => Part::Step(Step::One(!of(b'/'))),
                b'[' => Part::Step(Step::One(self.set()?)),
                b'{' => Part::Either(self.alternatives()?),
                b'\\' => match self.next().ok_or("ends in a \\")? {
                    sign if sign.is_ascii_alphanumeric() => {
                        return Err("only signs may be escaped, not letters and digits".to_owned());
                    }
                    sign => Part::Step(Step::One(of(sign))),
                },
                plain => Part::Step(Step::One(of(plain))),
            });
        }
        Ok(parts)
    }

    /// After `{`, through the `}`. An empty alternative is left out.
    fn alternatives(&mut self) -> Result<Vec<Vec<Part>>, String> {
        self.depth += 1;
        if self.depth > MAX_NESTING {
            return Err(format!("alternatives are nested more than {MAX_NESTING} deep"));
        }
        let mut branches = Vec::new();
        loop {
            let branch = self.sequence()?;
            if !branch.is_empty() {
                branches.push(branch);
            }
            match self.next() {
                Some(b'}') => break,
                Some(_) => {}
                None => return Err("alternatives do not end; write {a,b}".to_owned()),
            }
        }
        self.depth -= 1;
        Ok(if branches.is_empty() { vec![Vec::new()] } else { branches })
    }

    /// After `[`, through the `]`. It takes what is in it as it is, and its first sign may be a `]`.
    fn set(&mut self) -> Result<Set, String> {
        let is_negated = matches!(self.peek(), Some(b'!' | b'^'));
        self.at += usize::from(is_negated);
        let mut set = 0;
        loop {
            let unended = "a set does not end; write [abc]";
            let first = self.next().ok_or(unended)?;
            if first == b']' && set != 0 {
                return Ok(if is_negated { !set } else { set });
            }
            let is_range = self.peek() == Some(b'-') && !matches!(self.text.get(self.at + 1), None | Some(b']'));
            let mut last = first;
            if is_range {
                self.at += 1;
                last = self.next().ok_or(unended)?;
            }
            if last < first {
                return Err("has a range that falls".to_owned());
            }
            set |= range(first, last);
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }
}

/// Names are ASCII, so nothing else could match; and bytes are characters in every language.
pub(super) fn check_characters(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > MAX_PATTERN_LENGTH {
        return Err(format!("is {} bytes long; at most {MAX_PATTERN_LENGTH} are allowed", text.len()));
    }
    match text.chars().find(|character| !character.is_ascii_graphic()) {
        Some(character) => Err(format!("has the character {character:?}, which no name has")),
        None => Ok(()),
    }
}
