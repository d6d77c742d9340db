//! Data that are wrong: what is said of them, and that nothing panics.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use proptest::prelude::*;

use super::{
    tests::{FOUR, local, write_parquet},
    *,
};
use crate::arbitrary::{few, scraps, spliced};

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A task that reads `text` and `label` of one file, and one row in five for testing.
fn task(folder: &Path, file: &str, more: &str) -> Task {
    let text = format!(
        "name = \"mine\"\ntitle = \"T\"\nlicence = \"L\"\ncitation = \"C\"\nclasses = [\"no\", \"yes\"]\ntemplate = \"{{{{ text }}}}\"\n\
         [source]\npath = \"{file}\"\n[splits]\ntrain = \"train\"\ntest_from_train = 2\n[label.column]\nname = \"label\"\n{more}"
    );
    Task::parse(&text, &folder.join("mine.toml")).unwrap()
}

const LINES: &str = "{\"text\": \"a\", \"label\": 0}\n{\"text\": \"b\", \"label\": 1}\n\n{\"text\": \"c\", \"label\": 0}\n{\"text\": \"d\", \"label\": 1}\n";

/// What is wrong with the file, and with which words it is said: message, then remedy.
#[test]
fn bad_files_say_what_where_and_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let parquet = root.path().join("whole.parquet");
    write_parquet(&parquet, &FOUR);
    let parquet = fs::read(parquet).unwrap();
    let gz = packed(LINES.repeat(50).as_bytes());
    let mut flipped = gz.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let bad = |line: &str| LINES.replace("{\"text\": \"c\", \"label\": 0}", line).into_bytes();
    let sorted: String = (0..80).map(|i| format!("t{i},{}\n", i / 50)).collect();
    let cases: Vec<(&str, &str, Vec<u8>, &str, &str)> = vec![
        (
            "truncated Parquet",
            "a.parquet",
            parquet[..parquet.len() / 2].into(),
            "not a readable Parquet file",
            "get it again",
        ),
        (
            "no Parquet",
            "a.parquet",
            b"PAR1 and nothing else PAR1".into(),
            "not a readable Parquet file",
            "get it again",
        ),
        (
            "Git LFS",
            "a.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".into(),
            "a pointer of Git LFS",
            "git lfs pull",
        ),
        ("a web page", "a.jsonl", b"<!DOCTYPE html><html>".into(), "a web page", "the file itself"),
        ("truncated gzip", "a.jsonl.gz", gz[..gz.len() / 2].into(), "cannot read the data", "get it again"),
        ("damaged gzip", "a.jsonl.gz", flipped, "", ""),
        ("no gzip", "a.csv.gz", b"text,label\na,1\n".into(), "not a readable table", "get it again"),
        ("packed Parquet", "a.parquet.gz", gz.clone(), "unknown format", "packed as .gz"),
        (
            "truncated JSONL",
            "a.jsonl",
            LINES.as_bytes()[..LINES.len() - 9].into(),
            "line 5 is no row: EOF while parsing",
            "one JSON object",
        ),
        ("no object", "a.jsonl", b"[1]\n".into(), "line 1 is no row", "one JSON object"),
        (
            "truncated JSON",
            "a.json",
            b"[{\"text\": \"a\", \"label\": 0}, {\"te".into(),
            "not a list of rows: EOF",
            "get it again",
        ),
        ("not UTF-8", "a.jsonl", b"{\"text\": \"\xfcber\"}\n".into(), "line 1 is no row: invalid utf-8", "UTF-8"),
        ("UTF-16", "a.csv", b"\xff\xfet\0e\0x\0t\0,\0l\0".into(), "not a readable table", "UTF-8"),
        ("not UTF-8 in a table", "a.csv", b"text,label\nfine,1\n\xfcber,0\n".into(), "line 3", "UTF-8"),
        ("a field too many", "a.csv", b"text,label\nfine,1\nwell, fine,0\n".into(), "line: 3", "double quotes"),
        ("a column twice", "a.csv", b"text,text\na,b\n".into(), "two columns are called `text`", "first line"),
        (
            "a column missing",
            "a.csv",
            b"txt,label\na,1\nb,0\nc,1\nd,0\n".into(),
            "the data has no column `text`",
            "did you mean `txt`",
        ),
        ("no rows", "a.csv", b"text,label\n".into(), "has no rows", "is it complete"),
        ("nothing", "a.jsonl", b"".into(), "has no rows", "is it complete"),
        (
            "an unknown label",
            "a.jsonl",
            bad("{\"text\": \"c\", \"label\": 7}"),
            "line 4: column `label` is `7`, which names no class",
            "the classes are",
        ),
        (
            "a label of the wrong type",
            "a.jsonl",
            bad("{\"text\": \"c\", \"label\": [1]}"),
            "line 4: column `label` holds a list",
            "",
        ),
        ("a label missing", "a.jsonl", bad("{\"text\": \"c\"}"), "line 4: column `label` has no value", ""),
        (
            "a text of the wrong type",
            "a.jsonl",
            bad("{\"text\": {\"x\": 1}, \"label\": 1}"),
            "line 4: the template fails: a list or table is no text",
            "",
        ),
        ("a text missing", "a.jsonl", bad("{\"text\": null, \"label\": 1}"), "line 4: no value in `text`", "default"),
        (
            "lines that are quoted",
            "a.csv",
            b"text,label\n\"one\ntwo\",1\nb,0\nc,perhaps\nd,1\n".into(),
            "line 5: column `label` is `perhaps`",
            "the classes are",
        ),
        (
            "one class",
            "a.csv",
            ["text,label\n".into(), "t,1\n".repeat(80)].concat().into(),
            "every example of `supervise` has the class `yes`, all 39",
            "label rule",
        ),
        (
            "fewer rows than are taken out",
            "a.csv",
            b"text,label\na,1\nb,0\n".into(),
            "2 test rows are to be taken from the 2 rows",
            "",
        ),
        (
            "too few for two halves",
            "a.csv",
            b"text,label\na,1\nb,0\nc,1\n".into(),
            "no example is left in `supervise`",
            "what became of the rows",
        ),
    ];
    let mut failures = Vec::new();
    for (name, file, bytes, message, remedy) in cases {
        fs::write(root.path().join(file), bytes).unwrap();
        let Err(error) = task(root.path(), file, "").read(&local(&[]), &DataOptions::default()) else {
            failures.push(format!("{name} is no error"));
            continue;
        };
        let said = error.message().contains(message) && error.remedy().unwrap_or_default().contains(remedy);
        let placed = error.place().is_some() || error.message().contains("mine");
        if !said || !placed || error.message().contains("panicked") {
            failures.push(format!("{name}, without `{message}` or `{remedy}`:\n{error}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    // The first rows of a sorted file.
    fs::write(root.path().join("a.csv"), format!("text,label\n{sorted}")).unwrap();
    let mut task = task(root.path(), "a.csv", "");
    task.splits = Splits {
        train: Some(OneOrMany::One("train".into())),
        test: Some(OneOrMany::One("test".into())),
        ..Splits::default()
    };
    task.source.path = None;
    task.source.files = ["train", "test"].map(|split| (split.to_owned(), OneOrMany::One("a.csv".to_owned()))).into();
    let few = DataOptions { n_train: Some(64), n_test: Some(64), ..DataOptions::default() };
    // Only the test set is small enough to be of one class by chance.
    let error = task.read(&local(&[]), &DataOptions { n_test: Some(40), ..few.clone() }).unwrap_err();
    assert!(
        error.message().contains("every example of `test`") && error.remedy().unwrap().contains("sorted"),
        "{error}"
    );
    assert!(task.read(&local(&[]), &DataOptions::default()).is_ok());
}

#[test]
fn more_rows_than_there_are_and_hostile_sizes() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.jsonl"), LINES.repeat(5)).unwrap();
    let mine = task(root.path(), "a.jsonl", "");
    for n in [19, 1_000_000, usize::MAX] {
        let asked = DataOptions { n_train: Some(n), n_test: Some(n), n_validation: 3, ..DataOptions::default() };
        let data = mine.read(&local(&[]), &asked).unwrap();
        let note = format!("{n} examples were asked for of `train`, there are 18: all are used");
        // Nobody asks for the largest number that there is: it means all.
        assert!(n == usize::MAX || data.counts.notes.contains(&note), "{:?}", data.counts.notes);
        assert_eq!((data.validation.len(), data.supervise.len(), data.transfer.len(), data.test.len()), (3, 6, 9, 2));
    }
    let none = DataOptions { n_validation: usize::MAX, ..DataOptions::default() };
    let error = mine.read(&local(&[]), &none).unwrap_err().to_string();
    assert!(error.contains("and the supervisor's half has 9 examples: none would be left"), "{error}");
    let mut huge = mine.clone();
    huge.splits.test_from_train = Some(usize::MAX);
    assert!(huge.read(&local(&[]), &DataOptions::default()).is_err());
}

/// Nesting that would need more stack than there is.
#[test]
fn deep_nesting_is_an_error() {
    let deep = 100_000;
    let task = |key: &str, value: &str| {
        let text =
            shipped_text("sst2").replace("template = \"{{ sentence | context }}\"\n", &format!("{key} = {value}\n"));
        Task::parse(&text, Path::new("deep.toml")).err().map(|error| error.message().to_owned()).unwrap_or_default()
    };
    for (open, close) in [("(", ")"), ("[", "]"), ("not ", ""), ("-", ""), ("1+", "")] {
        for deep in [deep, 3900 / open.len()] {
            let nested = format!("{}1{}", open.repeat(deep), close.repeat(deep));
            let said = task("template", &format!("\"{{{{ {nested} }}}}\""));
            let fine = deep < 4000 && close.is_empty();
            assert!(said.contains("longer than 4000") || said.contains("recursion") || fine, "{open}: {said}");
        }
    }
    assert!(task("template", &"[".repeat(deep)).contains("not a task"));
    let blocks = format!("\"{}{}\"", "{% if 1 %}".repeat(deep), "{% endif %}".repeat(deep));
    assert!(task("template", &blocks).contains("recursion"));
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("deep.jsonl");
    fs::write(&path, format!("{{\"a\": {}{}}}", "[".repeat(deep), "]".repeat(deep))).unwrap();
    let read = super::rows::read_file(&path, "deep", None).and_then(|rows| rows.read_whole());
    assert!(read.unwrap_err().message().contains("recursion limit"));
}

/// The same rows, packed and not, give the same examples.
#[test]
fn packed_files_are_read() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.jsonl"), LINES).unwrap();
    let plain = task(root.path(), "a.jsonl", "").read(&local(&[]), &DataOptions::default()).unwrap();
    let csv = b"\xef\xbb\xbftext,label\na,0\nb,1\nc,0\nd,1\n";
    let json = b"\xef\xbb\xbf [{\"text\": \"a\", \"label\": 0}, {\"text\": \"b\", \"label\": 1}, {\"text\": \"c\", \"label\": 0}, {\"text\": \"d\", \"label\": 1}]";
    // Two packed files one after the other are one, as `cat` makes them.
    let (first, second) = LINES.split_at(27);
    let files: [(&str, Vec<u8>); 6] = [
        ("b.jsonl.gz", packed(LINES.as_bytes())),
        ("c.jsonl.gz", [packed(first.as_bytes()), packed(second.as_bytes())].concat()),
        ("d.csv", csv.into()),
        ("e.csv.gz", packed(csv)),
        ("f.json", json.into()),
        ("g.JSON.GZ", packed(json)),
    ];
    for (name, bytes) in files {
        fs::write(root.path().join(name), bytes).unwrap();
        let data = task(root.path(), name, "").read(&local(&[]), &DataOptions::default());
        let data = data.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(data.fingerprint(), plain.fingerprint(), "{name}");
    }
    // As the hub has Anthropic/hh-rlhf.
    let folder = root.path().join("Anthropic/hh-rlhf/harmless-base");
    fs::create_dir_all(&folder).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tasks/hh-harmless.jsonl");
    for split in ["train", "test"] {
        fs::write(folder.join(format!("{split}.jsonl.gz")), packed(&fs::read(&fixture).unwrap())).unwrap();
    }
    let data = super::tests::shipped("hh-harmless").read(&local(&[root.path()]), &DataOptions::default()).unwrap();
    assert_eq!(data.files[0].name, "Anthropic/hh-rlhf/harmless-base/train.jsonl.gz");
}

/// A row's line, also in the second of two files.
#[test]
fn lines_are_counted_in_each_file() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("a.jsonl"), LINES).unwrap();
    fs::write(root.path().join("b.jsonl"), "\n{\"text\": \"a\", \"label\": 1}\n{\"text\": \"a\", \"label\": 2}\n")
        .unwrap();
    let mut both = task(root.path(), "a.jsonl", "");
    both.source.path = None;
    both.source.files = [("train".to_owned(), OneOrMany::Many(vec!["a.jsonl".into(), "b.jsonl".into()]))].into();
    let error = both.read(&local(&[]), &DataOptions::default()).unwrap_err();
    assert!(error.message().contains("line 3: column `label` is `2`"), "{error}");
    assert!(error.place().unwrap().file.ends_with("b.jsonl"), "{error}");
}

// ---- anything at all ----

fn shipped_text(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../configs/tasks/{name}.toml"))).unwrap()
}

proptest! {
    #![proptest_config(few(256))]

    #[test]
    fn any_text_is_a_task_or_an_error(text in "[ -~\\n]{0,120}") {
        if let Err(error) = Task::parse(&text, Path::new("any.toml")) {
            prop_assert!(!error.message().is_empty());
        }
    }

    #[test]
    fn any_change_of_a_task_is_a_task_or_an_error(
        name in prop::sample::select(vec!["gsm8k", "openbookqa", "hh-harmless", "social_i_qa", "sciq-pooled"]),
        place in any::<usize>(),
        length in 0_usize..40,
        with in scraps(),
    ) {
        let text = spliced(&shipped_text(name), place, length, &with);
        match Task::parse(&text, Path::new("changed.toml")) {
            Err(error) => prop_assert!(!error.message().is_empty()),
            // What is a task may still not fit the rows, but never panics on them.
            Ok(task) => {
                let row = serde_json::from_str("{\"question\": \"q\", \"answer\": \"<<1=2>>#### 3\", \"chosen\": \"a\", \"rejected\": \"b\"}");
                let row: Row = row.unwrap();
                struct One(Row);
                impl RowSource for One {
                    fn rows(&self, _: &str, _: Option<usize>) -> Result<Rows> {
                        Ok(Rows::generated(vec![self.0.clone(); 8]))
                    }
                }
                let _ = task.read_from(&One(row), &DataOptions::default());
            }
        }
    }
}

proptest! {
    #![proptest_config(few(96))]

    #[test]
    fn any_bytes_are_rows_or_an_error(
        kind in prop::sample::select(vec!["parquet", "jsonl", "json", "csv", "tsv", "jsonl.gz", "json.gz", "csv.gz"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        changed in any::<bool>(),
        place in any::<usize>(),
    ) {
        let root = tempfile::tempdir().unwrap();
        let path: PathBuf = root.path().join(format!("a.{kind}"));
        let valid = match kind {
            "parquet" => {
                write_parquet(&path, &FOUR);
                fs::read(&path).unwrap()
            }
            "csv" | "tsv" => b"text,label\na,1\n\"b\nb\",0\n".into(),
            "csv.gz" => packed(b"text,label\na,1\n\"b\nb\",0\n"),
            "json" => b"[{\"text\": \"a\", \"label\": 0}]".into(),
            "jsonl" => LINES.as_bytes().to_vec(),
            _ => packed(LINES.as_bytes()),
        };
        let content = if changed {
            let place = place % valid.len();
            let end = (place + bytes.len() / 20).min(valid.len());
            [&valid[..place], &bytes[..bytes.len() / 20], &valid[end..]].concat()
        } else {
            bytes
        };
        fs::write(&path, &content).unwrap();
        match super::rows::read_file(&path, "a", None).and_then(|rows| rows.read_whole()) {
            Ok(rows) => prop_assert!(rows.rows.len() <= content.len() * 1100),
            Err(error) => prop_assert!(!error.message().is_empty() && error.place().is_some()),
        }
    }
}
