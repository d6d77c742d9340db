//! A plain grid of text: what every table that is not the main one is drawn with.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

/// Rows of text under a header; the first `labels` columns are names, the others numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// Names of the columns.
    pub header: Vec<String>,
    /// One text per column.
    pub rows: Vec<Vec<String>>,
    /// Columns that are names, and aligned to the left.
    pub labels: usize,
}

impl Sheet {
    /// A sheet without rows.
    pub fn new(labels: usize, header: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), rows: Vec::new(), labels }
    }

    /// Adds a row.
    pub fn push(&mut self, row: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// For a terminal.
    pub fn to_terminal(&self) -> String {
        let rule = LineStyle::none().fill('─').junction('─');
        let mut table = Table::new();
        table.load_style(TableStyle::new().top_border(rule).header_separator(rule).bottom_border(rule)).force_no_tty();
        table.set_header(&self.header).add_rows(&self.rows);
        for column in table.column_iter_mut().skip(self.labels) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.trim_fmt()
    }

    /// GitHub-flavoured Markdown.
    pub fn to_markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let escaped = |cells: &[String]| cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let rules = (0..self.header.len()).map(|column| if column < self.labels { ":--" } else { "--:" }.to_owned());
        let rows = self.rows.iter().map(|row| line(escaped(row)));
        line(escaped(&self.header)) + &line(rules.collect()) + &rows.collect::<String>()
    }

    /// Comma-separated values.
    pub fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(vec![]);
        for row in [&self.header].into_iter().chain(&self.rows) {
            // Writing to memory, records of equal length: nothing can fail.
            let _ = writer.write_record(row);
        }
        writer.into_inner().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_left_and_numbers_right() {
        let mut sheet = Sheet::new(1, ["method", "accuracy"]);
        sheet.push(["a|b", "1.5"]);
        let terminal = sheet.to_terminal();
        assert!(terminal.contains(" a|b           1.5"), "{terminal}");
        assert_eq!(sheet.to_markdown(), "| method | accuracy |\n| :-- | --: |\n| a\\|b | 1.5 |\n");
        assert_eq!(sheet.to_csv(), "method,accuracy\na|b,1.5\n");
    }
}
