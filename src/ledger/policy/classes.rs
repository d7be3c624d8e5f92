//! Sets of ASCII characters, a bit each, and the classes that RE2 has names for.

/// ASCII characters, one bit each.
pub(super) type Set = u128;

/// One character.
pub(super) fn of(character: u8) -> Set {
    1 << character
}

/// From one character through another that is not before it.
pub(super) fn range(first: u8, last: u8) -> Set {
    (of(last) - of(first)) | of(last)
}

/// With every letter also the same letter of the other case.
pub(super) fn folded(set: Set) -> Set {
    set | (set & range(b'A', b'Z')) << 32 | (set & range(b'a', b'z')) >> 32
}

/// What `\d`, `\s` or `\w` stands for.
pub(super) fn escaped(letter: char) -> Option<Set> {
    match letter {
        'd' => named("digit"),
        's' => named("space").map(|space| space & !of(b'\x0b')),
        'w' => named("word"),
        _ => None,
    }
}

/// What `[:name:]` stands for.
pub(super) fn named(name: &str) -> Option<Set> {
    let letters = range(b'A', b'Z') | range(b'a', b'z');
    let digits = range(b'0', b'9');
    Some(match name {
        "alnum" => letters | digits,
        "alpha" => letters,
        "ascii" => Set::MAX,
        "blank" => of(b' ') | of(b'\t'),
        "cntrl" => range(b'\0', b'\x1f') | of(b'\x7f'),
        "digit" => digits,
        "graph" => range(b'!', b'~'),
        "lower" => range(b'a', b'z'),
        "print" => range(b' ', b'~'),
        "punct" => range(b'!', b'~') & !(letters | digits),
        "space" => of(b' ') | range(b'\t', b'\r'),
        "upper" => range(b'A', b'Z'),
        "word" => letters | digits | of(b'_'),
        "xdigit" => digits | range(b'A', b'F') | range(b'a', b'f'),
        _ => return None,
    })
}

/// A set as the `regex` crate takes it. One that holds nothing matches nothing.
pub(super) fn ranges(set: Set) -> String {
    if set == 0 {
        return "[^\\x00-\\x7f]".to_owned();
    }
    let mut ranges = "[".to_owned();
    let mut at = 0u8;
    while at < 128 {
        let run = u8::try_from((set >> at).trailing_ones()).expect("at most 128");
        if run > 0 {
            ranges.push_str(&format!("\\x{at:02x}-\\x{:02x}", at + run - 1));
        }
        at += run.max(1);
    }
    ranges + "]"
}
