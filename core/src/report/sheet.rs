//! A plain grid of text: what every table is drawn with, as wide as there is room for.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use textwrap::core::display_width;

/// Rows of text under a header; the first `labels` columns are names, the others numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sheet {
    /// Names of the columns.
    pub header: Vec<String>,
    /// What stands above the name of each column, e.g. its task: once for neighbours that share it. Empty where nothing does.
    pub groups: Vec<String>,
    /// One text per column.
    pub rows: Vec<Vec<String>>,
    /// Columns that are names, and aligned to the left.
    pub labels: usize,
}

impl Sheet {
    /// A sheet without rows.
    pub fn new(labels: usize, header: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let header: Vec<String> = header.into_iter().map(Into::into).collect();
        Self { groups: vec![String::new(); header.len()], header, rows: Vec::new(), labels }
    }

    /// Adds a row.
    pub fn push(&mut self, row: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(row.into_iter().map(Into::into).collect());
    }

    /// Leaves out columns of numbers that are empty in every row.
    pub fn drop_empty(&mut self) {
        let kept = |column: usize| column < self.labels || self.rows.iter().any(|row| !row[column].is_empty());
        let kept: Vec<bool> = (0..self.header.len()).map(kept).collect();
        for cells in [&mut self.header, &mut self.groups].into_iter().chain(&mut self.rows) {
            let mut column = kept.iter();
            cells.retain(|_| column.next() == Some(&true));
        }
    }

    /// For a terminal of `room` characters, or for as many as it takes.
    ///
    /// What does not fit beside each other stands below each other, the names again in each part: groups of columns if they fit, single
    /// columns if not, and one line per number where there is no room for a table.
    pub fn to_terminal(&self, room: Option<usize>) -> String {
        let labels: Vec<usize> = (0..self.labels).collect();
        let numbers: Vec<usize> = (self.labels..self.header.len()).collect();
        let fits = |columns: &[usize]| room.is_none_or(|room| self.width(&[&labels, columns].concat()) <= room);
        if fits(&numbers) {
            return self.draw(&[labels, numbers].concat());
        }
        if !numbers.iter().all(|&column| fits(&[column])) {
            return self.list(room.unwrap_or(usize::MAX));
        }
        let mut parts: Vec<Vec<usize>> = vec![];
        let same = |a: &usize, b: &usize| !self.groups[*a].is_empty() && self.groups[*a] == self.groups[*b];
        for group in numbers.chunk_by(same) {
            let units: Vec<&[usize]> = if fits(group) { vec![group] } else { group.chunks(1).collect() };
            for unit in units {
                match parts.last_mut().filter(|part| fits(&[part, unit].concat())) {
                    Some(part) => part.extend(unit),
                    None => parts.push(unit.to_vec()),
                }
            }
        }
        let draw = |part: Vec<usize>| self.draw(&[labels.clone(), part].concat());
        parts.into_iter().map(draw).collect::<Vec<_>>().join("\n\n")
    }

    /// What the group and the name of a column look like, the `place`-th of these.
    fn head(&self, columns: &[usize], place: usize) -> (&str, &str) {
        let column = columns[place];
        let continued = place > 0 && self.groups[columns[place - 1]] == self.groups[column];
        (if continued { "" } else { &self.groups[column] }, &self.header[column])
    }

    /// Characters that some columns take beside each other.
    fn width(&self, columns: &[usize]) -> usize {
        let width = |(place, &column): (usize, &usize)| {
            let (group, name) = self.head(columns, place);
            let cells = self.rows.iter().map(|row| row[column].as_str());
            cells.chain([group, name]).map(display_width).max().unwrap_or(0) + 2
        };
        columns.iter().enumerate().map(width).sum::<usize>() + columns.len().saturating_sub(1)
    }

    fn draw(&self, columns: &[usize]) -> String {
        let rule = LineStyle::none().fill('─').junction('─');
        let mut table = Table::new();
        table.load_style(TableStyle::new().top_border(rule).header_separator(rule).bottom_border(rule)).force_no_tty();
        let grouped = columns.iter().any(|&column| !self.groups[column].is_empty());
        let head = |place| {
            let (group, name) = self.head(columns, place);
            if grouped { format!("{group}\n{name}") } else { name.to_owned() }
        };
        table.set_header((0..columns.len()).map(head));
        for row in &self.rows {
            table.add_row(columns.iter().map(|&column| &row[column]));
        }
        for column in table.column_iter_mut().skip(self.labels) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.trim_fmt()
    }

    /// The names of each row, and below them each number with the name of its column.
    fn list(&self, room: usize) -> String {
        let mut lines = vec![];
        for row in &self.rows {
            lines.push(fill(&row[..self.labels].join(", "), room));
            for (column, cell) in row.iter().enumerate().take(self.header.len()).skip(self.labels) {
                if !cell.is_empty() {
                    let name = format!("{} {}", self.groups[column], self.header[column]);
                    let text = format!("{}: {cell}", name.trim());
                    let options = textwrap::Options::new(room).initial_indent("  ").subsequent_indent("    ");
                    lines.push(textwrap::fill(&text, options));
                }
            }
        }
        lines.join("\n")
    }

    /// GitHub-flavoured Markdown.
    pub fn to_markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let escaped = |cells: &[String]| cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let rules = (0..self.header.len()).map(|column| if column < self.labels { ":--" } else { "--:" }.to_owned());
        let rows = self.rows.iter().map(|row| line(escaped(row)));
        line(escaped(&self.header)) + &line(rules.collect()) + &rows.collect::<String>()
    }

    /// Comma-separated values, as a spreadsheet can take them.
    pub fn to_csv(&self) -> String {
        let mut writer = csv::Writer::from_writer(vec![]);
        for row in [&self.header].into_iter().chain(&self.rows) {
            // Writing to memory, records of equal length: nothing can fail.
            let _ = writer.write_record(row.iter().map(|cell| spreadsheet(cell)));
        }
        writer.into_inner().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

/// Breaks a text into lines of at most `room` characters.
pub fn fill(text: &str, room: usize) -> String {
    // A line that fits stays as it is, spaces included.
    text.lines()
        .map(|line| if display_width(line) <= room { line.to_owned() } else { textwrap::fill(line, room) })
        .collect::<Vec<_>>()
        .join("\n")
}

/// A cell that a spreadsheet shows as it is: what would be taken for a formula gets an apostrophe in front. Numbers stay numbers.
pub fn spreadsheet(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']) && cell.parse::<f64>().is_err();
    if formula { format!("'{cell}") } else { cell.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_left_and_numbers_right() {
        let mut sheet = Sheet::new(1, ["method", "accuracy"]);
        sheet.push(["a|b", "1.5"]);
        let terminal = sheet.to_terminal(None);
        assert!(terminal.contains(" a|b           1.5"), "{terminal}");
        assert_eq!(sheet.to_markdown(), "| method | accuracy |\n| :-- | --: |\n| a\\|b | 1.5 |\n");
        assert_eq!(sheet.to_csv(), "method,accuracy\na|b,1.5\n");
    }

    #[test]
    fn formulas_are_text_and_numbers_are_numbers() {
        let mut sheet = Sheet::new(1, ["=name", "value"]);
        for (name, value) in [("+1+cmd", "-1.5"), ("@x", "+3"), ("-", "-1e-7"), ("a=b", "NaN"), ("-2", "1 - 2")] {
            sheet.push([name, value]);
        }
        assert_eq!(sheet.to_csv(), "'=name,value\n'+1+cmd,-1.5\n'@x,+3\n'-,-1e-7\na=b,NaN\n-2,1 - 2\n");
    }

    /// Three tasks with two columns each.
    fn grouped() -> Sheet {
        let mut sheet = Sheet::new(1, ["Method", "Acc.", "PGR", "Acc.", "PGR", "Acc.", "PGR"]);
        sheet.groups = ["", "One", "One", "Zwölf 漢字", "Zwölf 漢字", "Three", "Three"].map(str::to_owned).to_vec();
        for (row, name) in ["Weak", "Finetune", "Adaptive confidence"].into_iter().enumerate() {
            let cell = |column: usize| match (row, column % 2) {
                (0, 1) => String::new(),
                _ => format!("{row}{column}.50 ± 0.25"),
            };
            sheet.push([name.to_owned()].into_iter().chain((0..6).map(cell)));
        }
        sheet
    }

    #[test]
    fn no_line_is_wider_than_the_room_and_no_number_is_lost() {
        let sheet = grouped();
        let whole = sheet.to_terminal(None);
        for room in 12..150 {
            let text = sheet.to_terminal(Some(room));
            let widest = text.lines().map(display_width).max().unwrap();
            assert!(widest <= room, "{widest} of {room}:\n{text}");
            let joined = text.split_whitespace().collect::<String>();
            for cell in sheet.rows.iter().flat_map(|row| &row[1..]) {
                assert!(joined.contains(&cell.replace(' ', "")), "{cell} is not in\n{text}");
            }
            if widest == whole.lines().map(display_width).max().unwrap() {
                assert_eq!(text, whole);
            }
        }
        // Tasks stay together while there is room for one.
        let text = sheet.to_terminal(Some(60));
        assert_eq!(text.matches("Method").count(), 3, "{text}");
        assert_eq!(text.matches("Adaptive confidence").count(), 3);
        let narrow = sheet.to_terminal(Some(20));
        assert!(narrow.contains("Finetune\n  One Acc.:"), "{narrow}");
    }

    #[test]
    fn empty_columns_are_left_out() {
        let mut sheet = Sheet::new(1, ["", "a", "b"]);
        sheet.push(["x", "", "1"]);
        sheet.push(["", "", ""]);
        sheet.drop_empty();
        assert_eq!((sheet.header.as_slice(), sheet.groups.len()), (["".to_owned(), "b".to_owned()].as_slice(), 2));
        assert_eq!(sheet.rows, [["x", "1"], ["", ""]]);
    }
}
