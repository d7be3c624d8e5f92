//! Whether a database holds what it must, and nothing else: every row, recomputed from the entries and compared.
//!
//! The entries are read in order, and each is checked for itself: encoding, place, signature. Those that hold are derived
//! again ([`super::derive`]) into a store on the side, which then has every row that ought to exist: hashes of the log's tree,
//! histories and their trees, subjects, indexes. Table by table, in the order of keys, the two are compared: what is missing, what
//! is too much, what is different. The map of subjects has no rows of its own; its root is in every commitment, and those are
//! derived too.
//!
//! An entry that does not hold ends the derivation, for what comes after it can't be told any more. The other entries are still
//! checked for themselves, and what was derived so far is compared where later entries change nothing.

use super::derive::{Derivation, DeriveError, EXAMINED_AT_ONCE, Sealing, Signers, examined};
use crate::ledger::answer::subject_words;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::entry::{Body, SignedEntry};
use crate::ledger::keys::Chain;
use crate::ledger::merkle::hash::leaf_hash;
use crate::ledger::merkle::{Nodes as _, Tree};
use crate::ledger::note::Vkey;
use crate::ledger::subject::{SubjectKey, named_by};
use crate::store::log_tree::StoredNodes;
use crate::store::rows::{self, Head};
use crate::store::{Cursor, Read, ReadError, Store, Table};

/// Damages that are told one by one; the others are counted.
const TOLD: usize = 1000;
/// Bytes of a row that are shown of it.
const SHOWN: usize = 48;

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// In which table, or file.
    pub table: &'static str,
    /// Which row, in words.
    pub place: String,
    /// Its key.
    pub key: Vec<u8>,
    /// What is there.
    pub found: String,
    /// What should be there.
    pub expected: String,
}

/// What a check came to.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Rows read, by table.
    pub rows: Vec<(&'static str, u64)>,
    /// Damages, by table.
    pub counts: Vec<(&'static str, u64)>,
    /// The first of them.
    pub damages: Vec<Damage>,
    /// Number of entries that were derived, and so compared with everything.
    pub derived: u64,
    /// Number of entries there are.
    pub entries: u64,
}

impl Findings {
    /// Everything is as it must be.
    pub fn is_whole(&self) -> bool {
        self.counts.is_empty()
    }

    /// Adds a damage.
    pub fn tell(&mut self, damage: Damage) {
        match self.counts.iter_mut().find(|(table, _)| *table == damage.table) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((damage.table, 1)),
        }
        if self.damages.len() < TOLD {
            self.damages.push(damage);
        }
    }

    fn differs(&mut self, table: Table, key: &[u8], found: impl Into<String>, expected: impl Into<String>) {
        let place = rows::place(table, key).unwrap_or_else(|| "a key that no ledger writes".to_owned());
        let (found, expected) = (found.into(), expected.into());
        self.tell(Damage { table: table.name(), place, key: key.to_vec(), found, expected });
    }

    /// The same, and what a subject is called, which the log tells.
    fn named(
        &mut self,
        table: Table,
        key: &[u8],
        log: &dyn Read,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) {
        let is_of_subject = matches!(table, Table::Subjects | Table::Histories);
        let name = if is_of_subject { name_of(key, log) } else { None };
        self.differs(table, key, found, expected);
        // Where it was the last that is told.
        if let (Some(name), Some(damage)) = (name, self.damages.last_mut().filter(|damage| damage.key == key)) {
            damage.place = format!("{}, {name}", damage.place);
        }
    }

    fn unreadable(&mut self, table: Table, error: &ReadError) {
        let (place, key, found) = ("the table".to_owned(), Vec::new(), error.to_string());
        self.tell(Damage { table: table.name(), place, key, found, expected: "rows that can be read".to_owned() });
    }
}

/// How far a check is: which of its steps, how much of it is done, and of how much, where that is known.
pub type Tell<'a> = dyn FnMut(&'static str, u64, Option<u64>) + 'a;

/// Checks what was found against its own entries, of a log that begins with this key. `beside` is empty, and holds afterwards what follows from them. `mark` is a
/// checkpoint from outside that the database must reach.
pub fn check(
    found: &dyn Read,
    vkey: &Vkey,
    mark: Option<&Checkpoint>,
    beside: &dyn Store,
    tell: &mut Tell<'_>,
) -> Result<Findings, DeriveError> {
    let mut findings = Findings::default();
    let head = match rows::head(found) {
        Ok(head) => head,
        // The comparison of its table names it.
        Err(ReadError::Damaged { .. }) => None,
        Err(error) => {
            findings.unreadable(Table::Meta, &error);
            None
        }
    };
    let derivation = Derivation::begin(beside, Sealing::Recorded, vkey)?;
    let signers = Signers::new([vkey.clone()]);
    let mut log = Log { found, signers, derivation, findings: &mut findings, due: 0, is_whole: true };
    log.read(head.as_ref(), tell)?;
    let Log { derivation, due, is_whole, .. } = log;
    findings.entries = due;
    findings.derived = derivation.size();
    let derived = Checkpoint { size: derivation.size(), root: derivation.root() };
    let keys = derivation.keys().clone();
    derivation.finish(head.as_ref().map(|head| head.checkpoint.clone()).unwrap_or_default())?;
    if let Some(head) = &head {
        checkpoint(head, is_whole.then_some(&derived), &keys, &mut findings);
    }
    if let Some(mark) = mark.filter(|mark| is_whole || mark.size <= derived.size) {
        reaches(mark, &derived, beside, &mut findings)?;
    }
    for table in Table::ALL {
        compare(table, found, beside, is_whole, &mut findings, tell)?;
    }
    Ok(findings)
}

/// The entries, while they are read.
struct Log<'a, 'f> {
    found: &'a dyn Read,
    signers: Signers,
    derivation: Derivation<'a>,
    findings: &'f mut Findings,
    /// The index that comes next.
    due: u64,
    /// Everything so far holds. From the first that does not nothing is derived any more.
    is_whole: bool,
}

impl Log<'_, '_> {
    /// Checks every entry for itself, and derives as far as they hold.
    fn read(&mut self, head: Option<&Head>, tell: &mut Tell<'_>) -> Result<(), DeriveError> {
        let size = head.map(|head| head.size);
        let (mut cursor, mut is_first, mut chunk) = (self.found.cursor(Table::Entries, &[]), true, Vec::new());
        loop {
            let row = if std::mem::take(&mut is_first) { cursor.seek(&[]) } else { cursor.next() };
            let (key, bytes) = match row {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) => {
                    self.take(&mut chunk)?;
                    self.findings.unreadable(Table::Entries, &error);
                    self.is_whole = false;
                    return Ok(());
                }
            };
            match rows::index_of(key).filter(|index| size.is_none_or(|size| *index < size)) {
                Some(index) => {
                    if index > self.due + chunk.len() as u64 {
                        self.take(&mut chunk)?;
                        self.missing(index);
                    }
                    chunk.push(bytes.to_vec());
                    if chunk.len() == EXAMINED_AT_ONCE {
                        self.take(&mut chunk)?;
                        tell("entries", self.due, size);
                    }
                }
                None => {
                    let (key, found) = (key.to_vec(), hex_of(bytes));
                    self.take(&mut chunk)?;
                    self.findings.differs(Table::Entries, &key, found, "nothing: it lies beyond the checkpoint");
                }
            }
        }
        self.take(&mut chunk)?;
        if let Some(size) = size.filter(|size| *size > self.due) {
            self.missing(size);
        }
        let derived = self.derivation.size();
        if self.is_whole && derived < self.due {
            let found = format!("{} entries after the last commitment", self.due - derived);
            self.findings.differs(Table::Entries, &derived.to_be_bytes(), found, "a commitment that closes the log");
            self.is_whole = false;
        }
        tell("entries", self.due, size);
        Ok(())
    }

    /// Entries that are due and do not come; the one with this index does.
    fn missing(&mut self, next: u64) {
        let (key, last) = (self.due.to_be_bytes(), next - 1);
        let expected =
            if last == self.due { format!("entry {last}") } else { format!("entries {} to {last}", self.due) };
        self.findings.differs(Table::Entries, &key, "nothing", expected);
        (self.due, self.is_whole) = (next, false);
    }

    /// Checks the next entries, and derives them.
    fn take(&mut self, chunk: &mut Vec<Vec<u8>>) -> Result<(), DeriveError> {
        let chunk = std::mem::take(chunk);
        let results = examined(&chunk, self.due, &mut self.signers);
        for (bytes, result) in chunk.into_iter().zip(results) {
            let (index, is_whole) = (self.due, self.is_whole);
            self.due += 1;
            let derived = match result {
                Err(unfit) => {
                    self.unfit(index, unfit.to_string(), &bytes);
                    self.is_whole = false;
                    continue;
                }
                Ok(_) if !is_whole => continue,
                Ok(entry) => self.derivation.push(bytes, entry),
            };
            match derived {
                Ok(()) => {}
                Err(DeriveError::Unlike { index, what }) => {
                    let expected = "what the entries before it lead to";
                    self.findings.differs(Table::Entries, &index.to_be_bytes(), what, expected);
                    self.is_whole = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn unfit(&mut self, index: u64, what: String, bytes: &[u8]) {
        // The tree was made of what was written; where it is whole itself, it tells what that was.
        let hash = StoredNodes::new(self.found).node(0, index).ok();
        let expected = match hash {
            Some(hash) if hash != leaf_hash(bytes) => format!("the entry with the leaf hash {}", hex::encode(hash)),
            _ => "an entry that the ledger signed".to_owned(),
        };
        let found = format!("{what}: {}", hex_of(bytes));
        self.findings.differs(Table::Entries, &index.to_be_bytes(), found, expected);
    }
}

/// The checkpoint in the head: signed, and over what was derived, if that is all. That nobody else signed it, the comparison of the rows
/// tells.
fn checkpoint(head: &Head, derived: Option<&Checkpoint>, keys: &Chain, findings: &mut Findings) {
    let expected = derived.map_or("a checkpoint that the ledger signed".to_owned(), shown);
    let found = match Checkpoint::open(&head.checkpoint, keys) {
        Ok(found) if derived.is_none_or(|derived| *derived == found) => return,
        Ok(found) => shown(&found),
        Err(error) => error.to_string(),
    };
    findings.differs(Table::Meta, rows::KEY_HEAD, found, expected);
}

/// A checkpoint from outside is over as much of the same log, at most.
fn reaches(
    mark: &Checkpoint,
    derived: &Checkpoint,
    beside: &dyn Store,
    findings: &mut Findings,
) -> Result<(), DeriveError> {
    let same = match mark.size.cmp(&derived.size) {
        std::cmp::Ordering::Greater => *derived,
        _ => Checkpoint { size: mark.size, root: Tree::load(&StoredNodes::new(beside), mark.size)?.root() },
    };
    if same != *mark {
        let place = "the log, by the checkpoint that is kept outside of the database".to_owned();
        let (found, expected) = (shown(&same), shown(mark));
        findings.tell(Damage { table: "high-water", place, key: Vec::new(), found, expected });
    }
    Ok(())
}

fn shown(checkpoint: &Checkpoint) -> String {
    format!("{} entries with the root {}", checkpoint.size, hex::encode(checkpoint.root))
}

/// Compares one table with what it must be, row by row. Where not everything was derived, only with what later entries do not
/// change, and more rows are nothing wrong.
pub fn compare(
    table: Table,
    found: &dyn Read,
    expected: &dyn Read,
    is_whole: bool,
    findings: &mut Findings,
    tell: &mut Tell<'_>,
) -> Result<(), ReadError> {
    if !is_whole && matches!(table, Table::Subjects | Table::Bound) {
        return Ok(());
    }
    let log = expected;
    let mut rows_read = 0;
    let (mut found, mut expected) = (found.cursor(table, &[]), expected.cursor(table, &[]));
    let mut is = first(&mut *found);
    let mut must = first(&mut *expected)?;
    loop {
        let row = match &is {
            Ok(row) => row.as_ref(),
            Err(error) => {
                findings.unreadable(table, error);
                break;
            }
        };
        let order = match (row, &must) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((is, _)), Some((must, _))) => is.cmp(must),
        };
        match (order, row, &must) {
            (std::cmp::Ordering::Equal, Some((key, is)), Some((_, must)))
                if is != must && (is_whole || key != rows::KEY_HEAD) =>
            {
                let (is, must) = difference(is, must);
                findings.named(table, key, log, is, must);
            }
            (std::cmp::Ordering::Less, Some((key, is)), _) if is_whole && table != Table::Entries => {
                findings.named(table, key, log, hex_of(is), "nothing");
            }
            (std::cmp::Ordering::Greater, _, Some((key, must))) if is_whole || key != rows::KEY_HEAD => {
                findings.named(table, key, log, "nothing", hex_of(must));
            }
            _ => {}
        }
        if order.is_le() {
            rows_read += 1;
            is = next(&mut *found);
        }
        if order.is_ge() {
            must = next(&mut *expected)?;
        }
        if rows_read % 4096 == 0 {
            tell(table.name(), rows_read, None);
        }
    }
    findings.rows.push((table.name(), rows_read));
    Ok(())
}

/// What the subject is called that a key begins with: the first entry of its history says so.
fn name_of(key: &[u8], log: &dyn Read) -> Option<String> {
    let key = SubjectKey(*key.first_chunk()?);
    let first = rows::version(log, &key, 0).ok()?.index;
    let Body::Record(record, statement) = SignedEntry::decode(&rows::entry(log, first).ok()?).ok()?.body else {
        return None;
    };
    let mut subjects = record.subjects.iter().filter_map(|reference| named_by(&statement, reference));
    subjects.find(|subject| subject.key() == key).map(|subject| subject_words(&subject))
}

type OwnedRow = Option<(Vec<u8>, Vec<u8>)>;

fn first(cursor: &mut dyn Cursor) -> Result<OwnedRow, ReadError> {
    Ok(cursor.seek(&[])?.map(|(key, row)| (key.to_vec(), row.to_vec())))
}

fn next(cursor: &mut dyn Cursor) -> Result<OwnedRow, ReadError> {
    Ok(cursor.next()?.map(|(key, row)| (key.to_vec(), row.to_vec())))
}

/// Two rows, from where they part.
fn difference(is: &[u8], must: &[u8]) -> (String, String) {
    let at = is.iter().zip(must).take_while(|(is, must)| is == must).count();
    let from = |row: &[u8]| format!("{} from byte {at} on", hex_of(row.get(at..).unwrap_or_default()));
    if at == 0 { (hex_of(is), hex_of(must)) } else { (from(is), from(must)) }
}

fn hex_of(row: &[u8]) -> String {
    match row {
        [] => "an empty row".to_owned(),
        row if row.len() <= SHOWN => hex::encode(row),
        row => format!("{}... ({} bytes)", hex::encode(&row[..SHOWN]), row.len()),
    }
}
