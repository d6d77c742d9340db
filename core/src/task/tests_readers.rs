//! Files as they come: dialects of tables and of JSON, types that do not depend on the format, folders with more than one answer.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use parquet::{
    basic::{BrotliLevel, Compression, GzipLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type},
    file::{
        properties::{WriterProperties, WriterVersion},
        writer::SerializedFileWriter,
    },
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};

use super::{read::Wanted, rows::read_file, tests::local, *};

/// A task that reads `text` and `label` of a file; `keys` stand under `[source]`, `top` above it.
fn task(folder: &Path, file: &str, keys: &str, top: &str) -> Result<Task> {
    let text = format!(
        "name = \"mine\"\ntitle = \"T\"\nlicence = \"L\"\ncitation = \"C\"\nclasses = [\"no\", \"yes\"]\n{top}\n\
         [source]\npath = \"{file}\"\n{keys}\n[splits]\ntrain = \"train\"\ntest_from_train = 2\n[label.column]\nname = \"label\"\n"
    );
    Task::parse(&text, &folder.join("mine.toml"))
}

/// The text and the label of an example.
type Read = (String, u8);

/// What a case shows, its file's name and bytes, keys of its source, what is read of it, and what is noted.
type Case<'a, Expected> = (&'a str, &'a str, Vec<u8>, &'a str, Expected, &'a str);

/// Texts and labels in the order of the file, and what was noted.
fn examples(task: &Task) -> Result<(Vec<Read>, Vec<String>)> {
    let data = task.read(&local(&[]), &DataOptions::default())?;
    let mut all: Vec<&Example> = data.parts().into_iter().flat_map(|(_, part)| part).collect();
    all.sort_by_key(|example| example.source_row);
    Ok((all.into_iter().map(|example| (example.text.clone(), example.label)).collect(), data.counts.notes))
}

/// Enough rows for every part to have both classes, after some others.
fn with_more(first: &str, more: impl Fn(usize) -> String) -> String {
    (0..12).fold(first.to_owned(), |text, i| text + &more(i))
}

fn tsv(first: &str) -> String {
    with_more(first, |i| format!("plain {i}\t{}\n", i % 2))
}

fn csv(first: &str) -> String {
    with_more(first, |i| format!("plain {i},{}\n", i % 2))
}

#[test]
fn tables_are_read_in_their_dialect() {
    let root = tempfile::tempdir().unwrap();
    let latin = |text: &str| text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect::<Vec<u8>>();
    let utf16 =
        |text: &str| "\u{feff}".chars().chain(text.chars()).flat_map(|c| (c as u16).to_le_bytes()).collect::<Vec<u8>>();
    // What is in the file, keys, the texts of the first rows, and what is noted.
    let cases: Vec<Case<&[&str]>> = vec![
        (
            "marks that stand for themselves",
            "a.tsv",
            tsv("text\tlabel\n\"Oh, he said\t1\nwell\t0\n\"No\" is no answer\t1\n").into(),
            "",
            &["\"Oh, he said", "well", "\"No\" is no answer"],
            "begin with a quotation mark: 2, the first on line 2",
        ),
        ("one text in marks", "a.tsv", tsv("text\tlabel\n\"Yes.\"\t1\n").into(), "", &["\"Yes.\""], "as they stand"),
        (
            "quoted where it has to be",
            "a.tsv",
            tsv("text\tlabel\n\"a\tb\"\t1\n\"two\nlines\"\t0\n\"so \"\"called\"\"\"\t1\n").into(),
            "",
            &["a\tb", "two\nlines", "so \"called\""],
            "",
        ),
        (
            "quoted throughout",
            "a.tsv",
            with_more("\"text\"\t\"label\"\n", |i| format!("\"quoted {i}\"\t\"{}\"\n", i % 2)).into(),
            "",
            &["quoted 0", "quoted 1"],
            "",
        ),
        ("quotes by the key", "a.tsv", tsv("text\tlabel\n\"Yes.\"\t1\n").into(), "quote = '\"'", &["Yes."], ""),
        (
            "no quotes by the key",
            "a.csv",
            csv("text,label\n\"Yes\",1\n\"open,0\n").into(),
            "quote = \"\"",
            &["\"Yes\"", "\"open"],
            "",
        ),
        ("another mark", "a.csv", csv("text,label\n'a, b',1\n").into(), "quote = \"'\"", &["a, b"], ""),
        (
            "fields over several lines",
            "a.csv",
            csv("text,label\n\"one\ntwo, three\n\nfour\",1\r\n\"five, six\nseven, 2\",0\n").into(),
            "",
            &["one\ntwo, three\n\nfour", "five, six\nseven, 2"],
            "",
        ),
        (
            "a field that goes on",
            "a.csv",
            csv("text,label\n\"Great\" film,1\n").into(),
            "",
            &["Great film"],
            "go on behind the closing mark: 1, the first on line 2",
        ),
        (
            "semicolons",
            "a.csv",
            with_more("text;label\na, b;1\n", |i| format!("c{i};{}\n", i % 2)).into(),
            "separator = \";\"",
            &["a, b", "c0"],
            "",
        ),
        (
            "another ending",
            "a.dat",
            with_more("text|label\na|1\n", |i| format!("c{i}|{}\n", i % 2)).into(),
            "separator = \"|\"",
            &["a", "c0"],
            "",
        ),
        (
            "names in the task",
            "a.csv",
            csv("first,1\n").into(),
            "header = [\"text\", \"label\"]",
            &["first", "plain 0"],
            "",
        ),
        (
            "columns without names at the end",
            "a.csv",
            with_more("text,label,,\n", |i| format!("t{i},{},,\n", i % 2)).into(),
            "",
            &["t0"],
            "",
        ),
        (
            "pandas' index",
            "a.csv",
            with_more(",text,label\n", |i| format!("{i},t{i},{}\n", i % 2)).into(),
            "",
            &["t0"],
            "",
        ),
        (
            "lines of old Macs",
            "a.csv",
            csv("text,label\nfirst,1\n").replace('\n', "\r").into(),
            "",
            &["first", "plain 0"],
            "",
        ),
        (
            "empty lines between",
            "a.csv",
            csv("text,label\nfirst,1\n").replace('\n', "\n\n").into(),
            "",
            &["first", "plain 0"],
            "",
        ),
        (
            "bars",
            "a.csv",
            with_more("text|label\na, b|1\n", |i| format!("c{i}|{}\n", i % 2)).into(),
            "separator = \"|\"",
            &["a, b"],
            "",
        ),
        (
            "a separator at each end",
            "a.csv",
            with_more("text,label,\n", |i| format!("t{i},{},\n", i % 2)).into(),
            "",
            &["t0"],
            "",
        ),
        (
            "a mark and a tab in another row's mark",
            "a.tsv",
            tsv("text\tlabel\n\"one\t1\nplain\t0\n\"two\t1\n").into(),
            "",
            &["\"one", "plain", "\"two"],
            "begin with a quotation mark: 2",
        ),
        ("a mark in the middle", "a.tsv", tsv("text\tlabel\n5\" wide\t1\n").into(), "", &["5\" wide"], ""),
        (
            "line separators in a text",
            "a.csv",
            csv("text,label\none\u{2028}two\u{85}three,1\n").into(),
            "",
            &["one\u{2028}two\u{85}three"],
            "",
        ),
        (
            "a mark of order",
            "a.tsv",
            [b"\xef\xbb\xbf".to_vec(), tsv("text\tlabel\nfirst\t1\n").into()].concat(),
            "",
            &["first"],
            "",
        ),
        (
            "UTF-16 without a mark of order",
            "a.csv",
            utf16(&csv("text,label\n\u{416},1\n"))[2..].to_vec(),
            "encoding = \"utf-16le\"",
            &["\u{416}"],
            "",
        ),
        ("Latin-1", "a.csv", latin(&csv("text,label\n\u{fc}ber,1\n")), "encoding = \"latin-1\"", &["\u{fc}ber"], ""),
        (
            "Latin-1 of Windows",
            "a.csv",
            csv("text,label\n").replace("plain 0", "\u{1}").bytes().map(|b| if b == 1 { 0x93 } else { b }).collect(),
            "encoding = \"cp1252\"",
            &["\u{201c}"],
            "",
        ),
        ("UTF-16", "a.csv", utf16(&csv("text,label\n\u{416},1\n")), "encoding = \"utf-16\"", &["\u{416}"], ""),
        (
            "UTF-16 of lines",
            "a.jsonl",
            utf16(&with_more("", |i| format!("{{\"text\": \"\u{416}{i}\", \"label\": {}}}\n", i % 2))),
            "encoding = \"utf-16\"",
            &["\u{416}0"],
            "",
        ),
    ];
    let mut failures = Vec::new();
    for (name, file, bytes, keys, texts, note) in cases {
        fs::write(root.path().join(file), bytes).unwrap();
        let read = task(root.path(), file, keys, "template = \"{{ text }}\"").and_then(|task| examples(&task));
        match read {
            Ok((all, notes)) => {
                let first: Vec<&str> = all.iter().take(texts.len()).map(|(text, _)| text.as_str()).collect();
                let noted = match note {
                    // The last two rows may have one class.
                    "" => notes.iter().all(|said| said.starts_with("every example of `test`")),
                    note => notes.iter().any(|said| said.contains(note) && said.starts_with(file)),
                };
                if first != texts || !noted {
                    failures.push(format!("{name}: {first:?}, noted {notes:?}"));
                }
            }
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_mark_that_swallows_lines_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    // What is in the file, keys, message and remedy.
    let cases: Vec<Case<&str>> = vec![
        (
            "never closed",
            "a.csv",
            csv("text,label\nfine,1\n\"He left,0\n").into(),
            "",
            "line 3: a quotation mark opens a field there and is never closed",
            "`quote = \"\"` under `[source]`",
        ),
        (
            "closed in the middle of another text",
            "a.csv",
            csv("text,label\n\"He left,0\nwell,1\n\"She stayed,1\n").into(),
            "",
            "line 2: a quotation mark opens a field there that ends on line 4, in the middle of a text",
            "`quote = \"\"`",
        ),
        (
            "closed at the end of another text",
            "a.csv",
            csv("text,label\n\"He left,0\nwell,1\nthat was \"it\",0\nso they said\",1\n")
                .replace("\"it\"", "it")
                .into(),
            "",
            "lines 2 to 5 become one row",
            "`quote = \"\"`",
        ),
        (
            "quotes by the key",
            "a.tsv",
            tsv("text\tlabel\n\"He left\t0\n").into(),
            "quote = '\"'",
            "line 2: a quotation mark opens a field",
            "`quote = \"\"`",
        ),
        (
            "another separator",
            "a.csv",
            with_more("text;label\n", |i| format!("t{i};{}\n", i % 2)).into(),
            "",
            "the table has one column, `text;label`",
            "separator = \";\"",
        ),
        (
            "tabs in a table of commas",
            "a.csv",
            tsv("text\tlabel\n").into(),
            "",
            "the table has one column",
            "separator = \"\\t\"",
        ),
        (
            "marks escaped by a stroke",
            "a.csv",
            csv("text,label\n\"so \\\"called\\\", they said\",1\n").into(),
            "",
            "line: 2",
            "its own quotes doubled",
        ),
        ("a line before the names", "a.csv", csv("# by hand\ntext,label\n").into(), "", "line: 2", "`quote = \"\"`"),
        (
            "a column twice",
            "a.csv",
            with_more("text,label,x,x\n", |i| format!("t{i},{},1,2\n", i % 2)).into(),
            "",
            "two columns are called `x`",
            "header = ",
        ),
        (
            "another encoding",
            "a.csv",
            csv("text,label\n").replace("plain 3", "\u{1}").bytes().map(|b| if b == 1 { 0xe4 } else { b }).collect(),
            "",
            "line 5 is not UTF-8",
            "encoding = \"windows-1252\"",
        ),
        (
            "not in this encoding",
            "a.csv",
            [b"text,label\n\x81\x20,1\n".to_vec(), csv("").into()].concat(),
            "encoding = \"shift_jis\"",
            "it is not in Shift_JIS",
            "`encoding`",
        ),
        (
            "an encoding that is none",
            "a.csv",
            csv("text,label\n").into(),
            "encoding = \"utf-9\"",
            "`utf-9` is no known encoding",
            "windows-1252",
        ),
        (
            "a long separator",
            "a.csv",
            csv("text,label\n").into(),
            "separator = \"||\"",
            "`||` is not one ASCII character",
            "\\t",
        ),
        (
            "names for other columns",
            "a.csv",
            csv("").into(),
            "header = [\"text\"]",
            "`header` names 1 columns, the first line has 2",
            "every column",
        ),
    ];
    let mut failures = Vec::new();
    for (name, file, bytes, keys, message, remedy) in cases {
        fs::write(root.path().join(file), bytes).unwrap();
        let read = task(root.path(), file, keys, "template = \"{{ text }}\"").and_then(|task| examples(&task));
        match read {
            Ok((all, _)) => failures.push(format!("{name} is no error: {all:?}")),
            Err(error) => {
                if !error.message().contains(message)
                    || !error.remedy().unwrap_or_default().contains(remedy)
                    || error.place().is_none()
                {
                    failures.push(format!("{name}: {error}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn numbers_are_numbers_in_every_format() {
    let root = tempfile::tempdir().unwrap();
    let (mut lines, mut table) = (String::new(), "text,label,score,share,flag,other\n".to_owned());
    for i in 0..60 {
        let (label, score, share, flag) = (i % 3 - 1, i - 4, f64::from(i) / 4.0, i % 4 == 0);
        let row =
            json!({"text": format!("t{i}"), "label": label, "score": score, "share": share, "flag": flag, "other": 10});
        lines += &format!("{row}\n");
        table += &format!("t{i},{label},{score},{share:?},{},10\n", if flag { "True" } else { "False" });
    }
    fs::write(root.path().join("a.jsonl"), lines).unwrap();
    fs::write(root.path().join("a.csv"), &table).unwrap();
    fs::write(root.path().join("a.tsv"), table.replace(',', "\t")).unwrap();
    let plain = "template = \"{{ text }}\"";
    let filtered = |filter: &str| format!("{plain}\nfilter = \"label != -1 and ({filter})\"");
    let tops = [
        filtered("true"),
        filtered("score > 5"),
        filtered("2 <= score < 15"),
        filtered("share >= 1.5 and not flag"),
        filtered("flag"),
        filtered("flag == false"),
        filtered("score > other"),
        filtered("score in [3, 4, 7, 10, 13, 16, 17]"),
        filtered("score * 2 > other"),
        filtered("score is odd or score is gt(9)"),
        filtered("score | default(0) > 5"),
        "template = \"{% if score > 5 %}high{% else %}low{% endif %} {{ score }} {{ share }} {{ ['x', 'y'][label] }}{{ score + 1 }}\"\nfilter = \"label >= 0\"".into(),
        "template = \"{% set s = score %}{% if s > 5 %}high{% endif %}{{ text }}\"\nfilter = \"label != -1\"".into(),
        format!("{plain}\nfilter = \"double > 9 and label > -1\"\ncompute = {{ double = \"score * 2\" }}"),
    ];
    for top in tops {
        let read = |file: &str| {
            let mut task = task(root.path(), file, "", &top).unwrap();
            task.splits.test_from_train = Some(20);
            examples(&task).unwrap_or_else(|error| panic!("{file}: {top}: {error}"))
        };
        let (right, _) = read("a.jsonl");
        assert!((4..60).contains(&right.len()), "{top}: {}", right.len());
        for file in ["a.csv", "a.tsv"] {
            assert_eq!(read(file).0, right, "{file}: {top}");
        }
    }
    // What is right for texts stays so.
    for (texts, numbers) in
        [("label != '-1'", "label != -1"), ("score | int > 5", "score > 5"), ("share | float > 2", "share > 2")]
    {
        let read = |filter: &str| {
            examples(
                &task(root.path(), "a.csv", "", &format!("{plain}\nfilter = \"label != -1 and {filter}\"")).unwrap(),
            )
        };
        let texts = match texts {
            "label != '-1'" => {
                examples(&task(root.path(), "a.csv", "", &format!("{plain}\nfilter = \"{texts}\"")).unwrap())
            }
            texts => read(texts),
        };
        assert_eq!(texts.unwrap().0, read(numbers).unwrap().0);
    }
}

#[test]
fn texts_keep_their_spelling() {
    let root = tempfile::tempdir().unwrap();
    let spelled = ["007", "1.50", "1e5", "+3", "1.0", "NA", "", "12345678901234567890", "true", "0"];
    for cell in spelled {
        let table = with_more("text,label,cell\n", |i| format!("t{i},{},{cell}\n", i % 2));
        fs::write(root.path().join("a.csv"), table).unwrap();
        let top = "template = \"{{ text }}:{{ cell }}:{{ cell | length }}{% if cell %}+{% endif %}\"";
        let (all, _) = examples(&task(root.path(), "a.csv", "", top).unwrap()).unwrap();
        assert_eq!(all[0].0, format!("t0:{cell}:{}{}", cell.len(), if cell.is_empty() { "" } else { "+" }), "{cell}");
    }
}

#[test]
fn a_text_is_not_compared_with_a_number() {
    let root = tempfile::tempdir().unwrap();
    let plain = "template = \"{{ text }}\"\nfilter = ";
    // Cells of a column, how the filter uses it, and the refusal; none if it is right.
    let cases = [
        ("csv", ["1", "n.a.", "9"], "score > 5", "is compared with a number"),
        ("csv", ["1", "", "9"], "score > 5", "the text `` is compared with a number"),
        ("csv", ["1", "", "9"], "score is defined and score > 5", "the text `` is compared"),
        ("csv", ["1", "", "9"], "score != '' and score > 5", ""),
        ("csv", ["1", "", "9"], "score and score > 5", ""),
        ("csv", ["1", "nan", "9"], "score > 5", "the text `nan` is compared"),
        ("csv", ["007", "008", "009"], "score == 7", "is compared with a number"),
        ("csv", ["1", "NA", "9"], "score != 1", ""),
        ("csv", ["1", "NA", "9"], "score > 5", "the text `NA` is compared with a number"),
        ("csv", ["1", "NA", "9"], "score != 'NA' and score > 5", ""),
        ("csv", ["\"1,000\"", "\"2,000\"", "\"9,000\""], "score > 5", "is compared with a number"),
        ("csv", ["1", "2", "9"], "score | trim > 5", "a text is compared with a number"),
        ("jsonl", ["1", "2", "9"], "score != '1'", "the text `1` is compared with a number"),
        ("jsonl", ["\"1\"", "\"2\"", "\"9\""], "score > 5", "is compared with a number"),
        ("jsonl", ["\"1\"", "\"2\"", "\"9\""], "score != 1", "is compared with a number"),
        ("jsonl", ["1", "\"none\"", "9"], "score != 'none'", ""),
        ("jsonl", ["true", "false", "true"], "score == 'true'", "is compared with a truth value"),
    ];
    for (ending, cells, filter, refusal) in cases {
        let row = |i: usize| match ending {
            "csv" => format!("t{i},{},{}\n", i % 2, cells[i % 3]),
            _ => format!("{{\"text\": \"t{i}\", \"label\": {}, \"score\": {}}}\n", i % 2, cells[i % 3]),
        };
        let file = format!("a.{ending}");
        let text = with_more(if ending == "csv" { "text,label,score\n" } else { "" }, row);
        fs::write(root.path().join(&file), text).unwrap();
        let read = task(root.path(), &file, "", &format!("{plain}\"{filter}\"")).and_then(|task| examples(&task));
        match (read, refusal) {
            (Ok((all, _)), "") => assert!(!all.is_empty() && all.len() < 12, "{filter}: {all:?}"),
            (Err(error), "") => panic!("{ending} {cells:?} {filter}: {error}"),
            (Ok(_), _) => panic!("{ending} {cells:?} {filter} is no error"),
            (Err(error), refusal) => {
                let remedy = error.remedy().unwrap_or_default();
                assert!(error.message().contains(refusal) && !remedy.is_empty(), "{filter}: {error}");
                // What is passed over is named as it stands in the data.
                assert!(!refusal.contains("`NA`") || remedy.contains("`score != \"NA\" and"), "{filter}: {error}");
            }
        }
    }
}

#[test]
fn json_as_python_writes_it() {
    let root = tempfile::tempdir().unwrap();
    let rows: Vec<Value> = (0..12).map(|i| json!({"text": format!("t{i}"), "label": i % 2})).collect();
    let texts: Vec<&Value> = rows.iter().map(|row| &row["text"]).collect();
    let labels: Vec<&Value> = rows.iter().map(|row| &row["label"]).collect();
    let keyed = |values: &[&Value]| {
        Value::Object(values.iter().enumerate().map(|(i, value)| (i.to_string(), (*value).clone())).collect())
    };
    let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let nan = lines.replace("\"label\"", "\"score\": NaN, \"far\": -Infinity, \"label\"");
    let list = serde_json::to_string_pretty(&rows).unwrap();
    let cases = [
        ("a.jsonl", nan.clone(), ""),
        ("a.json", nan, ""),
        ("a.json", list.replace("\"label\"", "\"score\": NaN, \"label\""), ""),
        ("a.json", rows.iter().map(|row| serde_json::to_string_pretty(row).unwrap() + "\n").collect(), ""),
        ("a.json", json!({"version": "1", "data": rows}).to_string(), "the rows are those of the list `data`"),
        (
            "a.json",
            serde_json::to_string_pretty(&json!({"data": rows})).unwrap(),
            "the rows are those of the list `data`",
        ),
        ("a.json", json!({"text": texts, "label": labels}).to_string(), "it holds columns, of 12 values each"),
        ("a.json", json!({"text": keyed(&texts), "label": keyed(&labels)}).to_string(), "it holds columns"),
    ];
    for (file, text, note) in cases {
        fs::write(root.path().join(file), &text).unwrap();
        let read = examples(&task(root.path(), file, "", "template = \"{{ text }}\"").unwrap());
        let (all, notes) = read.unwrap_or_else(|error| panic!("{text}: {error}"));
        let right: Vec<(String, u8)> = (0..12).map(|i| (format!("t{i}"), i % 2)).collect();
        assert_eq!(all, right, "{text}");
        assert_eq!(notes.iter().any(|said| said.contains(note)), !note.is_empty(), "{notes:?}");
    }
    fs::write(root.path().join("a.json"), json!({"train": rows, "test": rows}).to_string()).unwrap();
    let error = examples(&task(root.path(), "a.json", "", "template = \"{{ text }}\"").unwrap()).unwrap_err();
    assert!(error.message().contains("several lists of rows: `train`, `test`"), "{error}");
    // A value that is used has to be one.
    fs::write(root.path().join("a.jsonl"), "{\"text\": NaN, \"label\": 1}\n".repeat(8)).unwrap();
    let error = examples(&task(root.path(), "a.jsonl", "", "template = \"{{ text }}\"").unwrap()).unwrap_err();
    assert!(error.message().contains("no value in `text`"), "{error}");
}

/// Writes columns `text` and `label`, in row groups of some rows.
fn write_parquet(path: &Path, texts: &[&[u8]], compression: Compression, group: usize) {
    let schema =
        Arc::new(parse_message_type("message m { required binary text (UTF8); required int64 label; }").unwrap());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    for (g, texts) in texts.chunks(group).enumerate() {
        let mut rows = writer.next_row_group().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        let texts: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(text.to_vec())).collect();
        column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
        column.close().unwrap();
        let mut column = rows.next_column().unwrap().unwrap();
        let labels: Vec<i64> = (0..texts.len()).map(|i| ((g * group + i) % 2) as i64).collect();
        column.typed::<Int64Type>().write_batch(&labels, None, None).unwrap();
        column.close().unwrap();
        rows.close().unwrap();
    }
    writer.close().unwrap();
}

#[test]
fn parquet_in_every_packing() {
    let root = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..40).map(|i| format!("the text {i} of some length, the text {i} again")).collect();
    let bytes: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
    let packings = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(GzipLevel::default()),
        Compression::BROTLI(BrotliLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::ZSTD(Default::default()),
    ];
    for packing in packings {
        write_parquet(&root.path().join("a.parquet"), &bytes, packing, 100);
        let (all, _) = examples(&task(root.path(), "a.parquet", "", "template = \"{{ text }}\"").unwrap())
            .unwrap_or_else(|error| panic!("{packing:?}: {error}"));
        assert_eq!(all.len(), 40);
        assert!(all.iter().zip(&texts).all(|((text, _), right)| text == right), "{packing:?}");
    }
}

#[test]
fn bytes_that_are_no_text_name_row_and_column() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.parquet");
    let mut texts: Vec<&[u8]> = vec![b"fine"; 30];
    let long = vec![0xff; 20_000];
    texts[17] = &long;
    write_parquet(&path, &texts, Compression::SNAPPY, 10);
    let error = examples(&task(root.path(), "a.parquet", "", "template = \"{{ text }}\"").unwrap()).unwrap_err();
    let said = error.message();
    assert!(said.contains("row 17, counted from 0: column `text` holds bytes that are not UTF-8"), "{said}");
    assert!(said.len() < 300 && error.remedy().is_some(), "{said}");
    // A column that the task does not use does not matter.
    let top = "template = \"{{ label }}\"";
    assert_eq!(examples(&task(root.path(), "a.parquet", "", top).unwrap()).unwrap().0.len(), 30);
}

/// Rows that are picked are those that reading everything gives, in every format and over the borders of row groups and files.
#[test]
fn picked_rows_are_those_of_the_whole_file() {
    let root = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..50).map(|i| format!("text \"{i}\"")).collect();
    let bytes: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
    write_parquet(&root.path().join("a.parquet"), &bytes, Compression::SNAPPY, 7);
    let rows: Vec<Value> = texts.iter().enumerate().map(|(i, text)| json!({"text": text, "label": i % 2})).collect();
    let table: String =
        texts.iter().enumerate().map(|(i, text)| format!("\"{}\",{}\n", text.replace('"', "\"\""), i % 2)).collect();
    fs::write(root.path().join("a.jsonl"), rows.iter().map(|row| format!("{row}\n\n")).collect::<String>()).unwrap();
    fs::write(root.path().join("a.json"), Value::from(rows).to_string()).unwrap();
    fs::write(root.path().join("a.csv"), format!("text,label\n{table}")).unwrap();
    for file in ["a.parquet", "a.jsonl", "a.json", "a.csv"] {
        let path = root.path().join(file);
        let mut read = read_file(&path, file, None).unwrap();
        read.append(read_file(&path, file, Some(20)).unwrap()).unwrap();
        assert_eq!(read.len(), 70);
        let picks = [69, 3, 50, 49, 21, 0, 7];
        let wanted = Wanted::These(BTreeSet::from(["text".to_owned(), "nothing".to_owned()]));
        let mut loaded = read.load(&picks, &wanted).unwrap();
        for pick in picks {
            let row = loaded.take(pick).unwrap();
            assert_eq!(Value::Object(row), json!({"text": texts[pick as usize % 50]}), "{file}, row {pick}");
        }
        assert!(loaded.take(3).is_err(), "a row is taken once");
        let asked = |n: Option<usize>| DataOptions { n_train: n, ..DataOptions::default() };
        let task = task(root.path(), file, "", "template = \"{{ text }}\"").unwrap();
        let (all, some) =
            (task.read(&local(&[]), &asked(None)).unwrap(), task.read(&local(&[]), &asked(Some(10))).unwrap());
        assert_eq!(all.test, some.test, "{file}");
        assert_eq!(some.supervise.len() + some.transfer.len(), 10);
        assert_eq!(some.counts.pools["train"].read, 48);
    }
}

/// A row of [`write_columns`].
fn cells(i: usize) -> Value {
    let text = format!("text {}", i % 40);
    let label = if i.is_multiple_of(5) { json!(null) } else { json!(i % 2) };
    let tags = match i % 4 {
        0 => json!(null),
        1 => json!([]),
        _ => json!([format!("a{i}"), null, "b"]),
    };
    let share = if i.is_multiple_of(3) { json!(null) } else { json!(i as f64 / 4.0) };
    json!({"text": text, "label": label, "tags": tags, "share": share, "flag": i.is_multiple_of(7)})
}

/// Writes [`cells`]: columns that may be empty and that may not, values with and without a dictionary, and lists; pages of four rows.
fn write_columns(path: &Path, rows: usize, group: usize, version: WriterVersion) {
    let schema = "message m { required binary text (UTF8); optional int64 label;
        optional group tags (LIST) { repeated group list { optional binary element (UTF8); } } optional double share; required boolean flag; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_writer_version(version)
        .set_data_page_row_count_limit(4)
        .set_write_batch_size(2)
        .set_compression(Compression::SNAPPY);
    let mut writer =
        SerializedFileWriter::new(fs::File::create(path).unwrap(), schema, Arc::new(properties.build())).unwrap();
    let all: Vec<Value> = (0..rows).map(cells).collect();
    for some in all.chunks(group) {
        let column = |name: &str| -> Vec<&Value> { some.iter().map(|row| &row[name]).collect() };
        let filled =
            |values: &[&Value]| -> Vec<i16> { values.iter().map(|value| i16::from(!value.is_null())).collect() };
        let bytes = |value: &Value| value.as_str().map(|text| ByteArray::from(text.as_bytes().to_vec()));
        let mut out = writer.next_row_group().unwrap();
        for name in ["text", "label", "tags", "share", "flag"] {
            let values = column(name);
            let levels = filled(&values);
            let mut into = out.next_column().unwrap().unwrap();
            match name {
                "text" => {
                    let values: Vec<ByteArray> = values.into_iter().filter_map(bytes).collect();
                    into.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap()
                }
                "label" => {
                    let values: Vec<i64> = values.into_iter().filter_map(Value::as_i64).collect();
                    into.typed::<Int64Type>().write_batch(&values, Some(&levels), None).unwrap()
                }
                "share" => {
                    let values: Vec<f64> = values.into_iter().filter_map(Value::as_f64).collect();
                    into.typed::<DoubleType>().write_batch(&values, Some(&levels), None).unwrap()
                }
                "flag" => {
                    let values: Vec<bool> = values.into_iter().filter_map(Value::as_bool).collect();
                    into.typed::<BoolType>().write_batch(&values, None, None).unwrap()
                }
                _ => {
                    // No list, an empty one, an empty item, an item.
                    let (mut items, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
                    for value in values {
                        let list = value.as_array();
                        if list.is_none_or(Vec::is_empty) {
                            defined.push(i16::from(list.is_some()));
                            repeated.push(0);
                        }
                        for (place, item) in list.into_iter().flatten().enumerate() {
                            defined.push(if item.is_null() { 2 } else { 3 });
                            repeated.push(i16::from(place > 0));
                            items.extend(bytes(item));
                        }
                    }
                    into.typed::<ByteArrayType>().write_batch(&items, Some(&defined), Some(&repeated)).unwrap()
                }
            };
            into.close().unwrap();
        }
        out.close().unwrap();
    }
    writer.close().unwrap();
}

/// Cells that are passed over move no others, wherever pages and row groups end.
#[test]
fn cells_of_parquet_stay_in_their_rows() {
    const ROWS: usize = 700;
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.parquet");
    let all: Vec<u32> = (0..ROWS as u32).collect();
    let some = |keep: &dyn Fn(u32) -> bool| all.iter().copied().filter(|row| keep(*row)).collect::<Vec<u32>>();
    let picks = [
        all.clone(),
        some(&|row| row % 7 == 3),
        some(&|row| row % 300 < 270),
        some(&|row| row.is_multiple_of(2)),
        some(&|row| row > 690),
        vec![0],
        vec![699],
        vec![4, 5, 8, 9, 255, 256, 257, 511, 512, 513],
    ];
    let columns: [&[&str]; 4] =
        [&["text", "label", "tags", "share", "flag"], &["label"], &["tags", "text"], &["flag", "share"]];
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for group in [9, 1000] {
            write_columns(&path, ROWS, group, version);
            let rows = read_file(&path, "a", None).unwrap();
            assert_eq!(rows.len(), ROWS);
            for (columns, picks) in columns.iter().flat_map(|columns| picks.iter().map(move |picks| (columns, picks))) {
                let wanted = Wanted::These(columns.iter().map(|name| (*name).to_owned()).collect());
                let mut seen = Vec::new();
                rows.visit(picks, &wanted, &mut |number, row| {
                    let mut right = cells(number as usize);
                    right.as_object_mut().unwrap().retain(|name, _| columns.contains(&name.as_str()));
                    assert_eq!(Value::Object(row), right, "row {number} in groups of {group}, {columns:?}");
                    seen.push(number);
                    Ok(())
                })
                .unwrap();
                assert_eq!(&seen, picks);
            }
        }
    }
}

/// Text that Python writes and other readers refuse: half of a character, as cut from a pair.
#[test]
fn halves_of_characters_are_replaced_and_said() {
    let root = tempfile::tempdir().unwrap();
    let read = |text: &str, list: bool| {
        let lines = with_more(&format!("{{\"text\": \"{text}\", \"label\": 1, \"all\": [\"{text}\"]}}\n"), |i| {
            format!("{{\"text\": \"t{i}\", \"label\": {}}}\n", i % 2)
        });
        let (file, text) = match list {
            true => ("a.json", format!("[{}]", lines.trim_end().replace('\n', ","))),
            false => ("a.jsonl", lines),
        };
        fs::write(root.path().join(file), text).unwrap();
        examples(&task(root.path(), file, "", "template = \"{{ text }}\"").unwrap()).unwrap()
    };
    for (text, right, halves) in [
        ("cut\\ud83d", "cut\u{fffd}", 2),
        ("\\uDE00 and \\udfff", "\u{fffd} and \u{fffd}", 4),
        ("whole \\ud83d\\ude00", "whole \u{1f600}", 0),
        ("no escape \\\\ud83d", "no escape \\ud83d", 0),
    ] {
        for (list, place) in [(false, ", the first on line 1"), (true, "; they are read")] {
            let (all, notes) = read(text, list);
            assert_eq!(all[0].0, right, "{text}");
            let said = format!("one half of a character, such as `\\ud83d` alone: {halves}{place}");
            assert_eq!(notes.iter().any(|note| note.contains(&said)), halves > 0, "{text}: {notes:?}");
        }
    }
}

#[test]
fn folders_say_what_is_left_aside() {
    let root = tempfile::tempdir().unwrap();
    let folder = |name: &str| -> PathBuf {
        let folder = root.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let read = |folder: &str| {
        let task = task(root.path(), folder, "", "template = \"{{ text }}\"").unwrap();
        examples(&task)
    };
    let both = folder("both");
    fs::write(both.join("train.csv"), csv("text,label\n")).unwrap();
    fs::write(both.join("train.jsonl"), "{}\n").unwrap();
    let (all, notes) = read("both").unwrap();
    assert_eq!(all.len(), 12);
    assert_eq!(
        notes,
        ["the split `train` is read from `train.csv`; `train.jsonl` left aside (`source.files` names others)"]
    );
    let saved = folder("saved/train");
    fs::write(saved.join("data-00000-of-00001.arrow"), b"\xff\xff\xff\xff").unwrap();
    fs::write(saved.join("state.json"), "{}").unwrap();
    fs::write(saved.join("../dataset_dict.json"), "{\"splits\": [\"train\"]}").unwrap();
    let error = read("saved").unwrap_err();
    assert!(error.message().contains("`save_to_disk`") && error.remedy().unwrap().contains("to_parquet"), "{error}");
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("gone.csv", folder("link").join("train.csv")).unwrap();
        let error = read("link").unwrap_err();
        assert!(
            error.remedy().is_some_and(|help| help.contains("a link to `gone.csv`, which is not there")),
            "{error}"
        );
    }
}
