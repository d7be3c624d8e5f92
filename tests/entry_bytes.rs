//! Every decoder of the ledger against other people's bytes: what is valid is decoded and encoded again to the same bytes;
//! whatever is cut short, changed, or written in another way than the one is refused, and nothing panics.
//!
//! What a field may hold, and with which words it is refused, is in `bad_input.rs`.

mod random;
mod statements;

use ed25519_dalek::SigningKey;
use prost::Message as _;

use tagledger::ledger::checkpoint::Checkpoint;
use tagledger::ledger::entry::{
    Body, EntryError, MAX_ENTRY_LENGTH, SignedEntry, index_and_time, sign_commitment, sign_record,
};
use tagledger::ledger::merkle::tile::{MAX_TILE_LEVEL, TILE_WIDTH, Tile, TilePath, push_bundled, split_bundle};
use tagledger::ledger::note::{Skey, Vkey, open_note};
use tagledger::ledger::signature::{SignatureError, entry_message, sign};
use tagledger::ledger::statement::{MAX_STATEMENT_LENGTH, Statement};
use tagledger::proto;

use random::Random;

// Statements.

#[test]
fn a_statement_of_each_kind_survives_decoding() {
    for (name, statement) in statements::of_each_kind() {
        let bytes = statement.encode_to_vec();
        let parsed = Statement::parse(&bytes).unwrap_or_else(|violations| panic!("{name}: {violations:?}"));
        assert_eq!(parsed.message, statement, "{name}");
        assert_eq!(parsed.message.encode_to_vec(), bytes, "{name}");
        assert_eq!(parsed.event_id, statement.event_id, "{name}");
    }
}

/// A statement alone carries no checksum, so some changed bytes make another valid statement (that is what the signatures
/// are for). But then they are the one encoding of that other statement.
#[test]
fn every_changed_byte_of_a_statement_is_refused_or_makes_another_statement_in_its_one_encoding() {
    for (name, statement) in statements::of_each_kind() {
        let bytes = statement.encode_to_vec();
        let mut refused = 0;
        for_each_changed_byte(&bytes, |position, changed| match Statement::parse(changed) {
            Ok(parsed) => {
                assert_eq!(parsed.message.encode_to_vec(), changed, "{name} at {position}");
                assert_ne!(parsed.message, statement, "{name} at {position}");
            }
            Err(violations) => {
                assert!(!violations.is_empty(), "{name} at {position}");
                refused += 1;
            }
        });
        assert!(refused > bytes.len(), "{name}: most changes are refused");
    }
}

#[test]
fn a_statement_cut_short_is_refused_except_between_its_fields() {
    for (name, statement) in statements::of_each_kind() {
        let bytes = statement.encode_to_vec();
        let ends: Vec<usize> = field_ends(&bytes);
        assert_eq!(ends.last(), Some(&bytes.len()));
        for length in 0..bytes.len() {
            let accepted = Statement::parse(&bytes[..length]);
            assert_eq!(accepted.is_ok(), ends.contains(&length), "{name} cut at {length}");
            if let Ok(parsed) = accepted {
                assert_eq!(parsed.message.encode_to_vec(), bytes[..length], "{name} cut at {length}");
            }
        }
    }
}

#[test]
fn a_statement_written_in_any_other_way_is_refused_as_not_canonical() {
    let push = statements::push();
    let bytes = proto::Statement { kind: Some(push), ..Default::default() }.encode_to_vec();
    assert!(Statement::parse(&bytes).is_ok());
    let inner = &bytes[header_length(&bytes)..];
    let with_inner = |inner: &[u8]| delimited(1, inner);
    let event = delimited(16, b"event");
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("unknown field", [&bytes[..], &delimited(100, b"x")].concat()),
        ("unknown number", [&bytes[..], &number(1000, 1)].concat()),
        ("a principal change that says nothing", [&bytes[..], &delimited(8, b"")].concat()),
        ("unknown group", [&bytes[..], &varint(100 << 3 | 3), &varint(100 << 3 | 4)].concat()),
        ("unknown field inside", with_inner(&[inner, &delimited(8, b"x")].concat())),
        ("fields out of order", [&event[..], &bytes].concat()),
        ("fields out of order inside", with_inner(&[&inner[inner.len() - 2..], &inner[..inner.len() - 2]].concat())),
        ("explicit default text", [&bytes[..], &delimited(16, b"")].concat()),
        ("explicit default number", [&bytes[..], &number(17, 0)].concat()),
        ("explicit default inside", with_inner(&[inner, &number(6, 0)].concat())),
        ("field twice, the same", [&bytes[..], &event, &event].concat()),
        ("field twice, other value", [&bytes[..], &event, &delimited(16, b"other")].concat()),
        ("field twice inside", with_inner(&[&delimited(1, b"other.example"), inner].concat())),
        ("two kinds", [&delimited(2, b"")[..], &bytes].concat()),
        ("a kind that may be empty after another", [&bytes[..], &delimited(7, b"")].concat()),
        ("one kind after another", [&bytes[..], &delimited(2, b"")].concat()),
        ("merged from two halves", [with_inner(&inner[..20 + 3]), with_inner(&inner[20 + 3..])].concat()),
        ("the same kind twice", [&bytes[..], &bytes].concat()),
        ("an empty half", [&bytes[..], &with_inner(b"")].concat()),
        ("over-long number", [&bytes[..], &varint(17 << 3), &[0x81, 0x00]].concat()),
        ("over-long length", [&bytes[..], &varint(16 << 3 | 2), &[0x85, 0x00], b"event"].concat()),
        ("over-long tag", [&bytes[..], &[0x82, 0x81, 0x00], &varint(5), b"event"].concat()),
        ("over-long enum", with_inner(&[&inner[..inner.len() - 1], &[0x81, 0x00]].concat())),
        ("enum with bits above 32", with_inner(&[&inner[..inner.len() - 1], &varint(1 << 32 | 1)].concat())),
    ];
    assert_eq!(inner[..23], delimited(1, b"registry.example:5000"), "the halves are cut between two fields");
    for (what, bytes) in cases {
        let violations = Statement::parse(&bytes).expect_err(what);
        assert_eq!(violations.len(), 1, "{what}: {violations:?}");
        assert_eq!((violations[0].field.as_str(), violations[0].reason), ("statement", "NOT_CANONICAL"), "{what}");
    }
}

#[test]
fn bytes_that_are_no_protobuf_are_refused_as_such() {
    let bytes = statements::of_each_kind()[0].1.encode_to_vec();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("text that is not UTF-8", [&bytes[..], &delimited(16, &[0xff])].concat()),
        ("half a surrogate", [&bytes[..], &delimited(16, &[0xed, 0xa0, 0x80])].concat()),
        ("wrong wire type", number(1, 5)),
        ("field number 0", vec![0, 0]),
        ("length beyond the end", [&varint(1 << 3 | 2)[..], &varint(u64::MAX)].concat()),
        ("endless number", [&varint(17 << 3)[..], &[0xff; 11]].concat()),
        ("group without end", varint(100 << 3 | 3)),
        ("end of no group", varint(100 << 3 | 4)),
        ("reserved wire type", varint(100 << 3 | 7)),
    ];
    for (what, bytes) in cases {
        let violations = Statement::parse(&bytes).expect_err(what);
        assert_eq!(violations.len(), 1, "{what}: {violations:?}");
        assert_eq!((violations[0].field.as_str(), violations[0].reason), ("statement", "INVALID_ENCODING"), "{what}");
    }
}

#[test]
fn random_bytes_and_randomly_edited_statements_never_panic_and_have_one_encoding() {
    let mut random = Random::new();
    let valid: Vec<Vec<u8>> = statements::of_each_kind().iter().map(|(_, s)| s.encode_to_vec()).collect();
    let mut accepted = 0;
    for round in 0..100_000 {
        let bytes = if round % 4 == 0 {
            (0..random.below(64)).map(|_| byte(random.below(256))).collect()
        } else {
            let mut bytes = valid[at(random.below(6))].clone();
            for _ in 0..=random.below(3) {
                edit(&mut bytes, &valid, &mut random);
            }
            bytes
        };
        match Statement::parse(&bytes) {
            Ok(parsed) => {
                assert_eq!(parsed.message.encode_to_vec(), bytes, "{}", hex::encode(&bytes));
                accepted += 1;
            }
            Err(violations) => assert!(!violations.is_empty(), "{}", hex::encode(&bytes)),
        }
    }
    assert!(accepted > 100, "some edits make another valid statement: {accepted}");
}

// Entries.

#[test]
fn an_entry_of_each_kind_survives_decoding_and_its_signature_holds() {
    for (name, entry) in entries() {
        let decoded = SignedEntry::decode(&entry).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(decoded.verify(&skey().vkey()), Ok(()), "{name}");
        let again = match &decoded.body {
            Body::Record(record, statement) => {
                assert_eq!(statement.message.encode_to_vec(), record.statement, "{name}");
                sign_record(record, &skey())
            }
            Body::Commitment(commitment) => sign_commitment(commitment, &skey()),
        };
        assert_eq!(again, entry, "{name}");
        assert_eq!(index_and_time(&entry), Ok((decoded.body.index(), decoded.body.recorded_at_us())), "{name}");
        assert_eq!(index_and_time(&entry), Ok((300, 1_767_225_600_123_456)), "{name}");
    }
}

#[test]
fn no_changed_byte_of_an_entry_is_accepted() {
    let vkey = skey().vkey();
    for (name, entry) in entries() {
        let try_it = |position: usize, changed: &[u8]| {
            let verdict = SignedEntry::decode(changed).and_then(|entry| entry.verify(&vkey));
            assert!(verdict.is_err(), "{name} at {position}");
            // Reads less, so may accept; must not panic.
            let _ = index_and_time(changed);
        };
        if name == "commitment" {
            for_each_changed_byte(&entry, try_it);
            continue;
        }
        // All 255 values at each position would keep the signature check busy for a minute.
        for position in 0..entry.len() {
            let flips = (0..8).map(|bit| entry[position] ^ 1 << bit);
            for value in flips.chain([0, 0xff]).filter(|&value| value != entry[position]) {
                let mut changed = entry.clone();
                changed[position] = value;
                try_it(position, &changed);
            }
        }
    }
}

#[test]
fn every_truncation_and_every_longer_form_of_an_entry_is_refused() {
    for (name, entry) in entries() {
        for length in 0..entry.len() {
            assert!(SignedEntry::decode(&entry[..length]).is_err(), "{name} cut at {length}");
            let _ = index_and_time(&entry[..length]);
        }
        for trailing in [&[0][..], &delimited(4, b"x"), &delimited(3, &[0; 64]), &entry] {
            let longer = [&entry[..], trailing].concat();
            assert_eq!(SignedEntry::decode(&longer), Err(EntryError::Encoding("entry")), "{name}");
        }
    }
}

#[test]
fn the_signature_of_an_entry_holds_under_its_key_and_origin_only() {
    let (_, entry) = entries().remove(0);
    let decoded = SignedEntry::decode(&entry).expect("valid");
    let mismatch = Err(EntryError::Signature(SignatureError::Mismatch));
    let other_key = Skey::from_seed("ledger.example/tags".parse().expect("valid"), &[8; 32]);
    assert_eq!(decoded.verify(&other_key.vkey()), mismatch);
    let other_origin = Skey::from_seed("ledger.example/other".parse().expect("valid"), &[7; 32]);
    assert_eq!(decoded.verify(&other_origin.vkey()), mismatch);
}

/// The ledger itself would have to sign such an entry; also then nobody may read it, or two would read it differently.
#[test]
fn an_entry_written_in_any_other_way_is_refused_though_it_is_signed() {
    let record = record(&statements::of_each_kind()[0].1).encode_to_vec();
    let commitment = commitment().encode_to_vec();
    assert!(SignedEntry::decode(&entry_of(1, &record)).is_ok());
    assert!(SignedEntry::decode(&entry_of(2, &commitment)).is_ok());
    let first = header_length(&record) + 2;
    assert_eq!(record[..first], number(1, 300), "records begin with the index");
    let bodies: Vec<(&str, u32, Vec<u8>)> = vec![
        ("unknown field", 1, [&record[..], &delimited(11, b"x")].concat()),
        ("out of order", 1, [&record[first..], &record[..first]].concat()),
        ("twice", 1, [&record[..first], &record].concat()),
        ("explicit default", 1, [&delimited(4, b"")[..], &record].concat()),
        ("over-long", 1, [&varint(1 << 3)[..], &[0xac, 0x82, 0x00], &record[first..]].concat()),
        (
            "subject with an unknown field",
            1,
            [&record[..], &delimited(10, &[number(1, 1), number(9, 1)].concat())].concat(),
        ),
        ("subject out of order", 1, [&record[..], &delimited(10, &[number(2, 1), number(1, 1)].concat())].concat()),
        ("unknown field", 2, [&commitment[..], &number(5, 1)].concat()),
        ("twice", 2, [&commitment[..], &number(4, 1)].concat()),
        ("out of order", 2, [&number(4, 1)[..], &commitment].concat()),
    ];
    for (what, field, body) in bodies {
        let expected = EntryError::Encoding(if field == 1 { "record" } else { "commitment" });
        assert_eq!(SignedEntry::decode(&entry_of(field, &body)), Err(expected.clone()), "{what}");
        assert_eq!(index_and_time(&entry_of(field, &body)), Err(expected), "{what}");
    }
    let entry = entry_of(1, &record);
    let (body, signature) = entry.split_at(entry.len() - 66);
    let wholes: Vec<(&str, Vec<u8>)> = vec![
        ("signature first", [signature, body].concat()),
        ("two bodies", [&delimited(2, &commitment), &entry[..]].concat()),
        ("two bodies, the other way", [body, &delimited(2, &commitment), signature].concat()),
        ("two records", [body, body, signature].concat()),
        ("two signatures", [body, signature, signature].concat()),
        ("unknown field", [&entry[..], &number(15, 1)].concat()),
    ];
    for (what, entry) in wholes {
        assert_eq!(SignedEntry::decode(&entry), Err(EntryError::Encoding("entry")), "{what}");
        assert_eq!(index_and_time(&entry), Err(EntryError::Encoding("entry")), "{what}");
    }
}

#[test]
fn an_entry_with_a_field_that_cannot_be_is_refused_by_its_name() {
    let refused_record = |change: &dyn Fn(&mut proto::Record)| {
        let mut record = record(&statements::of_each_kind()[0].1);
        change(&mut record);
        SignedEntry::decode(&sign_record(&record, &skey())).expect_err("not valid")
    };
    for unknown in [0, 8, -1, i32::MAX] {
        assert_eq!(refused_record(&|r| r.outcome = unknown), EntryError::Field("outcome"));
        assert_eq!(refused_record(&|r| r.assurance = unknown), EntryError::Field("assurance"));
    }
    for unknown in [0, 11, -1] {
        assert_eq!(refused_record(&|r| r.subjects[1].kind = unknown), EntryError::Field("subjects.kind"));
    }
    assert_eq!(refused_record(&|r| r.subjects.clear()), EntryError::Field("subjects"));
    for length in [0, 63, 65] {
        let change = |r: &mut proto::Record| r.producer.as_mut().expect("set").signature = vec![1; length];
        assert_eq!(refused_record(&change), EntryError::Field("producer.signature"));
    }
    assert!(matches!(refused_record(&|r| r.statement.clear()), EntryError::Statement(_)));
    assert!(matches!(refused_record(&|r| r.statement.push(0)), EntryError::Statement(_)));
    assert!(matches!(refused_record(&|r| r.statement = vec![1; MAX_STATEMENT_LENGTH + 1]), EntryError::Statement(_)));

    for length in [0, 31, 33] {
        let commitment = proto::Commitment { map_root: vec![1; length], ..commitment() };
        let refused = SignedEntry::decode(&sign_commitment(&commitment, &skey()));
        assert_eq!(refused, Err(EntryError::Field("map_root")));
    }
    for length in [0, 1, 63, 65, 128] {
        let body = Some(proto::entry::Body::Commitment(commitment().encode_to_vec()));
        let entry = proto::Entry { body, signature: vec![1; length] }.encode_to_vec();
        assert_eq!(SignedEntry::decode(&entry), Err(SignatureError::Length(length).into()));
    }
    let nothing = proto::Entry { body: None, signature: vec![1; 64] }.encode_to_vec();
    assert_eq!(SignedEntry::decode(&nothing), Err(EntryError::Field("body")));
    assert_eq!(index_and_time(&nothing), Err(EntryError::Field("body")));
    assert_eq!(index_and_time(&[]), Err(EntryError::Field("body")));
}

#[test]
fn an_entry_may_have_65535_bytes_and_no_more() {
    let of_length = |length: usize| {
        let mut record = record(&statements::of_each_kind()[0].1);
        record.detail = String::new();
        let without = sign_record(&record, &skey()).len();
        // The detail itself, its header of 4 bytes, and the body's length, which takes one byte more.
        record.detail = "x".repeat(length - without - 5);
        sign_record(&record, &skey())
    };
    let longest = of_length(MAX_ENTRY_LENGTH);
    assert_eq!(longest.len(), 65_535);
    assert!(SignedEntry::decode(&longest).is_ok());
    let too_long = of_length(MAX_ENTRY_LENGTH + 1);
    assert_eq!(too_long.len(), 65_536);
    let error = SignedEntry::decode(&too_long).expect_err("too long");
    assert!(error.to_string().contains("65,535"), "{error}");
}

#[test]
fn randomly_edited_entries_are_refused_without_a_panic() {
    let mut random = Random::new();
    let valid: Vec<Vec<u8>> = entries().into_iter().map(|(_, entry)| entry).collect();
    for _ in 0..20_000 {
        let mut bytes = valid[at(random.below(7))].clone();
        for _ in 0..=random.below(3) {
            edit(&mut bytes, &valid, &mut random);
        }
        let _ = index_and_time(&bytes);
        if !valid.contains(&bytes) {
            let verdict = SignedEntry::decode(&bytes).and_then(|entry| entry.verify(&skey().vkey()));
            assert!(verdict.is_err(), "{}", hex::encode(&bytes));
        }
    }
}

// Keys, notes and checkpoints.

#[test]
fn no_changed_byte_of_a_verifier_key_is_accepted() {
    let vkey = skey().vkey();
    let text = vkey.to_string();
    assert_eq!(text.parse::<Vkey>().as_ref().map(Vkey::to_string), Ok(text.clone()));
    for_each_changed_text(&text, |position, changed| {
        let parsed = changed.parse::<Vkey>();
        assert!(parsed.is_err(), "at {position}: {changed:?} is read as {parsed:?}");
    });
    for length in 0..text.len() {
        assert!(text[..length].parse::<Vkey>().is_err(), "cut at {length}");
    }
    for longer in [format!("{text}="), format!("{text}A"), format!("{text} "), format!(" {text}"), format!("+{text}")] {
        assert!(longer.parse::<Vkey>().is_err(), "{longer:?}");
    }
}

#[test]
fn no_changed_byte_of_a_private_key_is_accepted() {
    let text = skey().to_text();
    assert_eq!(Skey::from_text(&text).expect("own text").to_text(), text);
    for_each_changed_text(&text, |position, changed| {
        assert!(Skey::from_text(changed).is_err(), "at {position}: {changed:?}");
    });
    for length in 0..text.len() {
        assert!(Skey::from_text(&text[..length]).is_err(), "cut at {length}");
    }
}

#[test]
fn no_changed_byte_of_a_note_or_checkpoint_is_accepted() {
    let (skey, vkey) = (skey(), skey().vkey());
    let checkpoint = Checkpoint { size: 123_456, root: [0xab; 32] };
    let note = checkpoint.sign(&skey);
    assert_eq!(Checkpoint::open(&note, &vkey), Ok(checkpoint));
    assert_eq!(Checkpoint::open(&note, &vkey).expect("own note").sign(&skey), note);
    for_each_changed_text(&note, |position, changed| {
        assert!(open_note(changed, &vkey).is_err(), "at {position}: {changed:?}");
        assert!(Checkpoint::open(changed, &vkey).is_err(), "at {position}: {changed:?}");
    });
    for length in (0..note.len()).filter(|&length| note.is_char_boundary(length)) {
        assert!(open_note(&note[..length], &vkey).is_err(), "cut at {length}");
        assert!(Checkpoint::open(&note[..length], &vkey).is_err(), "cut at {length}");
    }
    for trailing in ["\n", "x", "x\n", "\u{2014} x\n", "\u{2014} x y\n", " "] {
        assert!(open_note(&format!("{note}{trailing}"), &vkey).is_err(), "{trailing:?}");
    }
}

/// A witness's line may be added to a note, but no second opinion of the ledger's own key.
#[test]
fn a_wrong_line_by_the_trusted_key_spoils_a_note_that_also_has_a_right_one() {
    let (skey, vkey) = (skey(), skey().vkey());
    let line = |text: &str| skey.sign_note(text).rsplit_once("\n\n").expect("signed").1.to_owned();
    let (right, wrong) = (line("text\n"), line("other text\n"));
    assert!(open_note(&format!("text\n\n{right}"), &vkey).is_ok());
    assert!(open_note(&format!("text\n\n{right}{right}"), &vkey).is_ok());
    assert!(open_note(&format!("text\n\n{right}{wrong}"), &vkey).is_err());
    assert!(open_note(&format!("text\n\n{wrong}{right}"), &vkey).is_err());
}

#[test]
fn sizes_and_roots_of_checkpoints_have_one_spelling() {
    let (skey, vkey) = (skey(), skey().vkey());
    let open = |size: &str, root: &str| {
        Checkpoint::open(&skey.sign_note(&format!("ledger.example/tags\n{size}\n{root}\n")), &vkey)
    };
    let root = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    for size in [0, 1, 10, u64::MAX] {
        assert_eq!(open(&size.to_string(), root), Ok(Checkpoint { size, root: [1; 32] }));
    }
    for size in ["", "00", "01", "+1", "-0", "-1", " 1", "1 ", "1_0", "0x1", "1e3", "١", "18446744073709551616"] {
        assert!(open(size, root).is_err(), "size {size:?}");
    }
    for other in [
        "",
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE",   // not padded
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQF=",  // other bits that don't count
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB",  // 33 bytes
        "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQ==",  // 31 bytes
        " AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", // space
    ] {
        assert!(open("1", other).is_err(), "root {other:?}");
    }
}

// Tiles and bundles.

#[test]
fn every_tile_has_one_path_and_every_path_one_tile() {
    let largest = (1 << 55) - 1;
    let indexes = [0, 1, 9, 10, 67, 999, 1000, 1001, 123_456, 999_999, 1_000_000, 1_234_067, 10_u64.pow(15), largest];
    for index in indexes {
        for width in 1..=TILE_WIDTH {
            let tile = Tile { index, width };
            assert_eq!(tile.range().end - tile.range().start, width);
            let paths = (0..=MAX_TILE_LEVEL).map(|level| TilePath::Hashes { level, tile });
            for path in paths.chain([TilePath::Entries(tile)]) {
                assert_eq!(TilePath::parse(&path.to_string()), Some(path), "{path}");
            }
        }
    }
    let beyond = TilePath::Entries(Tile { index: largest + 1, width: 1 }).to_string();
    assert_eq!(TilePath::parse(&beyond), None, "{beyond}");
}

#[test]
fn a_changed_or_cut_tile_path_is_none_or_another_tile_in_its_one_spelling() {
    for path in ["0/000", "7/x001/x234/067.p/255", "entries/x123/456", "entries/000.p/7"] {
        let check = |text: &str| {
            if let Some(parsed) = TilePath::parse(text) {
                assert_eq!(parsed.to_string(), text);
                assert_ne!(Some(parsed), TilePath::parse(path), "{text}");
            }
        };
        for_each_changed_text(path, |_, changed| check(changed));
        for length in 0..path.len() {
            check(&path[..length]);
        }
    }
}

#[test]
fn a_bundle_in_whatever_shape_is_refused_or_put_together_again_as_it_was() {
    let mut bundle = Vec::new();
    for entry in [&b""[..], b"a", &[7; 300], &vec![9; MAX_ENTRY_LENGTH]] {
        push_bundled(&mut bundle, entry);
    }
    let again = |bytes: &[u8]| {
        split_bundle(bytes).map(|entries| {
            let mut bundle = Vec::new();
            entries.iter().for_each(|entry| push_bundled(&mut bundle, entry));
            bundle
        })
    };
    assert_eq!(again(&bundle).as_deref(), Some(&bundle[..]));
    let small = &bundle[..2 + 3 + 302];
    for_each_changed_byte(small, |position, changed| {
        if let Some(again) = again(changed) {
            assert_eq!(again, changed, "at {position}");
        }
    });
    for length in 0..small.len() {
        let whole = [0, 2, 5].contains(&length);
        assert_eq!(again(&small[..length]).as_deref(), whole.then_some(&small[..length]), "cut at {length}");
    }
    assert_eq!(split_bundle(&bundle[..bundle.len() - 1]), None);
}

// What the tests above are made of.

fn skey() -> Skey {
    Skey::from_seed("ledger.example/tags".parse().expect("valid"), &[7; 32])
}

fn record(statement: &proto::Statement) -> proto::Record {
    let subject = |kind: proto::SubjectKind, version, name: &str| proto::Subject {
        kind: kind.into(),
        version,
        name: name.into(),
    };
    let statement = statement.encode_to_vec();
    let producer = SigningKey::from_bytes(&[9; 32]);
    let message = tagledger::ledger::signature::statement_message(&statement);
    proto::Record {
        index: 300,
        recorded_at_us: 1_767_225_600_123_456,
        principal: "ci".into(),
        assurance: proto::Assurance::Signed.into(),
        producer: Some(proto::Producer {
            key_id: tagledger::ledger::signature::key_id(&producer.verifying_key()),
            signature: sign(&producer, &message).to_vec(),
        }),
        outcome: proto::Outcome::Denied.into(),
        rule: "registry.example:5000/team/**:v*".into(),
        detail: "tag \"v1\" is immutable since entry 41".into(),
        subjects: vec![
            subject(proto::SubjectKind::Tag, 3, "v1"),
            subject(proto::SubjectKind::Digest, 0, ""),
            subject(proto::SubjectKind::TagsOf, 200, ""),
        ],
        statement,
    }
}

fn commitment() -> proto::Commitment {
    proto::Commitment { index: 300, recorded_at_us: 1_767_225_600_123_456, map_root: vec![3; 32], map_size: 20 }
}

/// A signed entry of each kind, by name.
fn entries() -> Vec<(&'static str, Vec<u8>)> {
    let records = statements::of_each_kind().into_iter().map(|(name, s)| (name, sign_record(&record(&s), &skey())));
    records.chain([("commitment", sign_commitment(&commitment(), &skey()))]).collect()
}

/// Signs whatever body, canonical or not.
fn entry_of(field: u32, body: &[u8]) -> Vec<u8> {
    let signature = sign(skey().key(), &entry_message(skey().origin(), body));
    [delimited(field, body), delimited(3, &signature)].concat()
}

fn for_each_changed_byte(bytes: &[u8], mut try_it: impl FnMut(usize, &[u8])) {
    let mut changed = bytes.to_vec();
    for position in 0..bytes.len() {
        for value in (0..=255).filter(|&value| value != bytes[position]) {
            changed[position] = value;
            try_it(position, &changed);
        }
        changed[position] = bytes[position];
    }
}

/// As bytes, where the result is still text.
fn for_each_changed_text(text: &str, mut try_it: impl FnMut(usize, &str)) {
    for_each_changed_byte(text.as_bytes(), |position, changed| {
        if let Ok(changed) = std::str::from_utf8(changed) {
            try_it(position, changed);
        }
    });
}

/// One random edit: a byte replaced, inserted or removed, a piece repeated, or a piece of another brought in.
fn edit(bytes: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let length = u64::try_from(bytes.len()).expect("small");
    let position = at(random.below(length + 1));
    match random.below(5) {
        0 if position < bytes.len() => bytes[position] = byte(random.below(256)),
        1 => bytes.insert(position, byte(random.below(256))),
        2 if position < bytes.len() => {
            bytes.remove(position);
        }
        3 => {
            let end = at(random.below(length + 1));
            let piece = bytes[position.min(end)..position.max(end)].to_vec();
            bytes.splice(position..position, piece);
        }
        _ => {
            let other = &others[at(random.below(u64::try_from(others.len()).expect("few")))];
            let begin = at(random.below(u64::try_from(other.len()).expect("small")));
            bytes.splice(position.., other[begin..].iter().copied());
        }
    }
}

fn at(index: u64) -> usize {
    usize::try_from(index).expect("small")
}

fn byte(value: u64) -> u8 {
    u8::try_from(value).expect("below 256")
}

// Protobuf by hand.

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(byte(value & 0x7f | 0x80));
        value >>= 7;
    }
    bytes.push(byte(value));
    bytes
}

fn number(field: u32, value: u64) -> Vec<u8> {
    [varint(u64::from(field) << 3), varint(value)].concat()
}

fn delimited(field: u32, bytes: &[u8]) -> Vec<u8> {
    [&varint(u64::from(field) << 3 | 2), &varint(u64::try_from(bytes.len()).expect("small")), bytes].concat()
}

/// Length of the first field's tag, and of its length if it has one.
fn header_length(bytes: &[u8]) -> usize {
    let tag = varint_length(bytes);
    if bytes[0] & 7 == 2 { tag + varint_length(&bytes[tag..]) } else { tag }
}

fn varint_length(bytes: &[u8]) -> usize {
    1 + bytes.iter().take_while(|byte| **byte & 0x80 != 0).count()
}

/// Where the fields of a valid statement end.
fn field_ends(bytes: &[u8]) -> Vec<usize> {
    let (mut ends, mut position) = (Vec::new(), 0);
    while position < bytes.len() {
        let (mut length, mut shift, mut rest) = (0, 0, position + varint_length(&bytes[position..]));
        let value_length = varint_length(&bytes[rest..]);
        for byte in &bytes[rest..rest + value_length] {
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
        }
        rest += value_length;
        position = if bytes[position] & 7 == 2 { rest + length } else { rest };
        ends.push(position);
    }
    ends
}
