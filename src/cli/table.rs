//! Text for people: lines, tables and lists without borders or colours. A pipe gets every row on one line and every digest
//! whole. A terminal that is too narrow gets digests and times shortened first; what still does not fit stands below its
//! row; and lines break between words.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

use crate::client::visible;

/// Before what stands below a row.
const INDENT: usize = 4;

/// Lines under a header, or without one.
pub(super) struct Rows {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

/// Columns of the terminal; `None` where standard output is none, and nothing is shortened or wrapped.
pub(super) fn terminal_width() -> Option<usize> {
    // A table without content asks the terminal for its width.
    Table::new().width().map(usize::from)
}

/// A line that breaks between words where it gets too wide, and goes on below `hang` spaces. Ends in a line break.
pub(super) fn wrap(line: &str, width: Option<usize>, hang: usize) -> String {
    let Some(width) = width else { return format!("{line}\n") };
    let bare = line.trim_start();
    let indent = line.len() - bare.len();
    let mut lines = vec![(" ".repeat(indent), indent)];
    let mut is_start = true;
    for word in bare.split(' ') {
        let length = word.chars().count();
        let last = lines.last_mut().expect("it begins with one");
        if !is_start && !word.is_empty() && last.1 + 1 + length > width {
            lines.push((" ".repeat(hang) + word, hang + length));
            continue;
        }
        if !is_start {
            last.0.push(' ');
            last.1 += 1;
        }
        last.0.push_str(word);
        last.1 += length;
        is_start = false;
    }
    lines.iter().map(|(line, _)| line.trim_end().to_owned() + "\n").collect()
}

impl Rows {
    pub(super) fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    /// A list of names and values.
    pub(super) fn list() -> Self {
        Self { header: Vec::new(), rows: Vec::new() }
    }

    pub(super) fn add(&mut self, row: impl IntoIterator<Item = String>) {
        self.rows.push(row.into_iter().map(|cell| visible(&cell)).collect());
    }

    /// A name and a value; nothing, if the value is empty.
    pub(super) fn field(&mut self, name: &str, value: impl ToString) {
        let value = value.to_string();
        if !value.is_empty() {
            self.add([name.to_owned(), value]);
        }
    }

    /// The text, fit for standard output.
    pub(super) fn text(&self) -> String {
        self.fit(terminal_width())
    }

    fn fit(&self, width: Option<usize>) -> String {
        let whole = render(&self.header, &self.rows);
        match width {
            Some(width) if widest(&whole) > width && self.header.is_empty() => self.narrow_list(width),
            Some(width) if widest(&whole) > width => self.narrow_table(width),
            _ => whole.concat(),
        }
    }

    /// Names, and beside them values that break between words. A value with a word too long for that, a digest for
    /// instance, stays whole and stands below its name.
    fn narrow_list(&self, width: usize) -> String {
        let column = self.rows.iter().map(|row| row[0].chars().count()).max().unwrap_or(0) + 2;
        let line = |row: &Vec<String>| {
            let (name, value) = (&row[0], &row[1]);
            let longest = value.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
            if column + longest <= width {
                wrap(&format!("{name:<column$}{value}"), Some(width), column)
            } else {
                format!("{name}\n") + &wrap(&format!("  {value}"), Some(width), 2)
            }
        };
        self.rows.iter().map(line).collect()
    }

    /// As many columns as fit, and the others below their rows.
    fn narrow_table(&self, width: usize) -> String {
        let short = |row: &Vec<String>| row.iter().map(|cell| shorten(cell)).collect();
        let rows: Vec<Vec<String>> = self.rows.iter().map(short).collect();
        let mut kept = self.header.len();
        loop {
            let left: Vec<Vec<String>> = rows.iter().map(|row| row[..kept].to_vec()).collect();
            let lines = render(&self.header[..kept], &left);
            if kept > 1 && widest(&lines) > width {
                kept -= 1;
                continue;
            }
            let below = |row: &Vec<String>| {
                let named = self.header.iter().zip(row).skip(kept).filter(|(_, cell)| !cell.is_empty());
                let named: Vec<String> = named.map(|(name, cell)| format!("{}: {cell}", name.to_lowercase())).collect();
                let line = format!("{:INDENT$}{}", "", named.join("; "));
                if named.is_empty() { String::new() } else { wrap(&line, Some(width), INDENT) }
            };
            let (header, lines) = lines.split_first().expect("a table has a header");
            return header.clone()
                + &lines.iter().zip(&rows).map(|(line, row)| line.clone() + &below(row)).collect::<String>();
        }
    }
}

/// The lines of a table, each with its line break.
fn render(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if !header.is_empty() {
        table.set_header(header);
    }
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn widest(lines: &[String]) -> usize {
    lines.iter().map(|line| line.trim_end().chars().count()).max().unwrap_or(0)
}

/// Of each digest the algorithm and the first 12 digits, of each time the seconds.
fn shorten(cell: &str) -> String {
    let short = |word: &str| match word.split_once(':') {
        Some(("sha256" | "sha512", digits)) if digits.len() > 12 && digits.is_ascii() => {
            format!("{}…", &word[..7 + 12])
        }
        _ => match word.split_once('.') {
            Some((seconds, rest)) if seconds.len() == 19 && seconds.as_bytes()[10] == b'T' && rest.ends_with('Z') => {
                format!("{seconds}Z")
            }
            _ => word.to_owned(),
        },
    };
    cell.split(' ').map(short).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-21T10:07:00.123456Z";

    fn digest() -> String {
        format!("sha256:{}", "0123456789abcdef".repeat(4))
    }

    #[test]
    fn digests_are_shortened_only_where_the_terminal_is_too_narrow() {
        let mut rows = Rows::new(&["TAG", "DIGEST"]);
        rows.add(["v1".to_owned(), digest()]);
        assert_eq!(rows.fit(None), format!("TAG  DIGEST\nv1   {}\n", digest()));
        assert_eq!(rows.fit(Some(200)), rows.fit(None));
        assert_eq!(rows.fit(Some(40)), "TAG  DIGEST\nv1   sha256:0123456789ab…\n");
    }

    #[test]
    fn columns_that_do_not_fit_stand_below_their_row() {
        let mut rows = Rows::new(&["ENTRY", "RECORDED", "BY", "WHY"]);
        rows.add(["1".to_owned(), TIME.to_owned(), "ci".to_owned(), String::new()]);
        rows.add(["3".to_owned(), TIME.to_owned(), "ci".to_owned(), "it is immutable since entry 1".to_owned()]);
        let expected = "\
ENTRY  RECORDED              BY
1      2026-11-21T10:07:00Z  ci
3      2026-11-21T10:07:00Z  ci
    why: it is immutable since
    entry 1
";
        assert_eq!(rows.fit(Some(31)), expected);
        assert!(rows.fit(Some(30)).contains("1      2026-11-21T10:07:00Z\n    by: ci\n"));
        let narrowest = rows.fit(Some(5));
        assert!(narrowest.contains("2026-11-21T10:07:00Z") && narrowest.contains("immutable"), "{narrowest}");
    }

    #[test]
    fn lists_break_between_words_and_keep_digests_whole() {
        let mut rows = Rows::list();
        rows.field("digest", digest());
        rows.field("set by", "entry 1, push APPLIED by operator");
        let expected = format!("digest\n  {}\nset by  entry 1, push APPLIED by\n        operator\n", digest());
        assert_eq!(rows.fit(Some(34)), expected);
        assert_eq!(rows.fit(None), format!("digest  {}\nset by  entry 1, push APPLIED by operator\n", digest()));
    }

    #[test]
    fn lines_go_on_below_a_hanging_indent() {
        assert_eq!(wrap("  proven: one two  three", None, 4), "  proven: one two  three\n");
        assert_eq!(wrap("  proven: one two  three", Some(17), 4), "  proven: one two\n    three\n");
        assert_eq!(wrap("  averyverylongword x", Some(8), 4), "  averyverylongword\n    x\n");
    }

    #[test]
    fn no_cell_draws_a_line_of_its_own() {
        let mut rows = Rows::list();
        rows.field("why", "no\n  proven: all is well\u{1b}[2J");
        assert_eq!(rows.fit(None), "why  no\\n  proven: all is well\\u001b[2J\n");
    }
}
