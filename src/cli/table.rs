//! Tables for people: no borders, no colours, digests whole unless the terminal is too narrow for them.

use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};

/// Lines under a header, or without one.
pub(super) struct Rows {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
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
        self.rows.push(row.into_iter().collect());
    }

    /// A name and a value; nothing, if the value is empty.
    pub(super) fn field(&mut self, name: &str, value: impl ToString) {
        let value = value.to_string();
        if !value.is_empty() {
            self.rows.push(vec![name.to_owned(), value]);
        }
    }

    /// The text, fit for standard output.
    pub(super) fn text(&self) -> String {
        // Asking a table without content for its width asks the terminal; a pipe has none.
        let terminal = Table::new().width();
        self.fit(terminal.map(usize::from))
    }

    fn fit(&self, width: Option<usize>) -> String {
        let whole = self.render(&self.rows);
        let widest = whole.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        // A list has one digest a line, and lines that are cut by the terminal can still be read.
        if self.header.is_empty() || width.is_none_or(|width| widest <= width) {
            return whole;
        }
        let short = |row: &Vec<String>| row.iter().map(|cell| shorten(cell)).collect();
        self.render(&self.rows.iter().map(short).collect::<Vec<Vec<String>>>())
    }

    fn render(&self, rows: &[Vec<String>]) -> String {
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if !self.header.is_empty() {
            table.set_header(&self.header);
        }
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

/// `sha256:` and the first 12 of its digits.
fn shorten(cell: &str) -> String {
    cell.split(' ')
        .map(|word| match word.split_once(':') {
            Some(("sha256" | "sha512", digits)) if digits.len() > 12 && digits.is_ascii() => {
                format!("{}…", &word[..7 + 12])
            }
            _ => word.to_owned(),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_shortened_only_where_the_terminal_is_too_narrow() {
        let mut rows = Rows::new(&["TAG", "DIGEST"]);
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        rows.add(["v1".to_owned(), digest.clone()]);
        assert_eq!(rows.fit(None), format!("TAG  DIGEST\nv1   {digest}\n"));
        assert_eq!(rows.fit(Some(200)), rows.fit(None));
        assert_eq!(rows.fit(Some(40)), "TAG  DIGEST\nv1   sha256:0123456789ab…\n");
    }
}
