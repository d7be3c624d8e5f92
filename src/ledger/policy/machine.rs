//! Many patterns, matched against a name at once: a bit for each place in each pattern, all moved on with each character.
//!
//! Whatever the patterns and the name are, a character costs a few instructions for 64 places, and there are no more places
//! than the size of the patterns: that bound, not the skill of whoever writes them, is what matching costs.

use std::collections::HashMap;

use super::classes::Set;
use super::pattern::{Glob, Step};

/// Patterns, ready to be matched.
#[derive(Debug, Clone, Default)]
pub(super) struct Machine {
    /// Patterns that match one name each.
    names: HashMap<Vec<u8>, Vec<usize>>,
    /// Those of the form `name/**`, by the name.
    folders: HashMap<Vec<u8>, Vec<usize>>,
    /// Those of the form `**/name`, likewise.
    endings: HashMap<Vec<u8>, Vec<usize>>,
    /// Where the others are before the first character.
    begin: Vec<u64>,
    words: Vec<Word>,
    /// The places that a character leaves or stays at, for each of ASCII's.
    passes: Vec<Vec<u64>>,
    /// Which pattern has matched in which place, rising.
    ends: Vec<(usize, usize)>,
}

/// What 64 places are.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    /// Characters are passed here without moving on, and none has to be.
    runs: u64,
    /// Here begin components, which may be left out: the run and the slash after it.
    components: u64,
}

impl Machine {
    pub(super) fn new<'a>(globs: impl IntoIterator<Item = &'a Glob>) -> Self {
        let mut machine = Self::default();
        let mut sets: Vec<(Set, Place)> = Vec::new();
        let mut begins = Vec::new();
        for (number, glob) in globs.into_iter().enumerate() {
            for steps in glob.written_out() {
                let (name, known) = match steps.as_slice() {
                    [name @ .., slash, Step::Rest] if *slash == Step::One(1 << b'/') => (name, &mut machine.folders),
                    [Step::Components, name @ ..] => (name, &mut machine.endings),
                    all => (all, &mut machine.names),
                };
                if let Some(name) = literal(name) {
                    known.entry(name).or_default().push(number);
                    continue;
                }
                begins.push(sets.len());
                lay(&steps, &mut sets);
                machine.ends.push((sets.len() - 1, number));
            }
        }
        let words = sets.len().div_ceil(64);
        machine.words = vec![Word::default(); words];
        machine.passes = if words == 0 { Vec::new() } else { vec![vec![0; words]; 128] };
        for (at, (set, place)) in sets.into_iter().enumerate() {
            let (word, bit) = (at / 64, 1 << (at % 64));
            match place {
                Place::Plain => {}
                Place::Run => machine.words[word].runs |= bit,
                Place::Components => machine.words[word].components |= bit,
            }
            for (character, passes) in machine.passes.iter_mut().enumerate() {
                passes[word] |= if set >> character & 1 == 1 { bit } else { 0 };
            }
        }
        machine.begin = vec![0; words];
        begins.into_iter().for_each(|at| machine.begin[at / 64] |= 1 << (at % 64));
        let mut carry = Carry::default();
        for (places, word) in machine.begin.iter_mut().zip(&machine.words) {
            *places = carry.reached(*places, word);
        }
        machine
    }

    /// The patterns that match all of a name, by their position; one may be there several times.
    pub(super) fn matches(&self, name: &str) -> Vec<usize> {
        let name = name.as_bytes();
        let mut found: Vec<usize> = self.names.get(name).into_iter().flatten().copied().collect();
        if !self.folders.is_empty() || !self.endings.is_empty() {
            found.extend(self.endings.get(name).into_iter().flatten());
            for (at, _) in name.iter().enumerate().filter(|(_, character)| **character == b'/') {
                found.extend(self.folders.get(&name[..at]).into_iter().flatten());
                found.extend(self.endings.get(&name[at + 1..]).into_iter().flatten());
            }
        }
        let mut places = self.begin.clone();
        for character in name {
            let Some(passes) = self.passes.get(usize::from(*character)) else { return found };
            if !self.step(&mut places, passes) {
                return found;
            }
        }
        found
            .extend(self.ends.iter().filter(|(at, _)| places[at / 64] >> (at % 64) & 1 == 1).map(|(_, number)| number));
        found
    }

    /// Moves on by a character. Returns whether anything is left.
    fn step(&self, places: &mut [u64], passes: &[u64]) -> bool {
        let (mut carry, mut left) = (Carry::default(), 0);
        for ((places, passes), word) in places.iter_mut().zip(passes).zip(&self.words) {
            if *places == 0 && carry.is_none() {
                continue;
            }
            let passed = *places & passes;
            let moving = passed & !word.runs;
            let moved = (moving << 1) | carry.moved | (passed & word.runs);
            carry.moved = moving >> 63;
            *places = carry.reached(moved, word);
            left |= *places;
        }
        left != 0
    }
}

/// What goes from 64 places over to the next.
#[derive(Debug, Default)]
struct Carry {
    moved: u64,
    components: u64,
    runs: u64,
}

impl Carry {
    fn is_none(&self) -> bool {
        self.moved | self.components | self.runs == 0
    }

    /// Adds the places that are reached without a character. None that components reach begins components, and none that a
    /// run reaches is a run.
    fn reached(&mut self, mut places: u64, word: &Word) -> u64 {
        let components = places & word.components;
        places |= (components << 1) | (components << 3) | self.components;
        self.components = (components >> 63) | (components >> 61);
        let runs = places & word.runs;
        places |= (runs << 1) | self.runs;
        self.runs = runs >> 63;
        places
    }
}

enum Place {
    Plain,
    Run,
    Components,
}

/// The places of a pattern, and one in which it has matched.
fn lay(steps: &[Step], places: &mut Vec<(Set, Place)>) {
    let slash = 1 << b'/';
    let mut before = None;
    for step in steps {
        // Twice in a row they say no more than once.
        if before == Some(step) && matches!(step, Step::Star | Step::Components) {
            continue;
        }
        match step {
            Step::One(set) => places.push((*set, Place::Plain)),
            Step::Star => places.push((!slash, Place::Run)),
            Step::Components => places.extend([(0, Place::Components), (Set::MAX, Place::Run), (slash, Place::Plain)]),
            Step::Rest => places.extend([(!slash, Place::Plain), (Set::MAX, Place::Run)]),
        }
        before = Some(step);
    }
    places.push((0, Place::Plain));
}

/// The one name that steps match, if they are such.
fn literal(steps: &[Step]) -> Option<Vec<u8>> {
    let one = |step: &Step| match step {
        Step::One(set) if set.count_ones() == 1 => u8::try_from(set.trailing_zeros()).ok(),
        _ => None,
    };
    steps.iter().map(one).collect()
}
