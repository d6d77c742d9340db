//! Files that are damaged, of another kind, or do not belong together: what the binary says of each, with its exit code.

use std::{fs, path::PathBuf, process::Output};

use serde_json::Value;

use crate::support::{Tensors, bytes, safetensors, says_what_to_do, tensors, text, w2s, with_header, word_tokenizer};

/// A grid of one small model on one small table, all in files of its own.
struct Scratch(tempfile::TempDir);

const TASK: &str = "name = \"own\"\ntitle = \"x\"\nlicence = \"x\"\ncitation = \"x\"\nclasses = [\"no\", \"yes\"]\ntemplate = \"{{ text }}\"\n\n\
                    [source]\nfiles = { train = \"../rows.csv\", test = \"../rows.csv\" }\n\n[splits]\ntrain = \"train\"\ntest = \"test\"\n\n\
                    [label.column]\nname = \"label\"\n";
const GRID: &str = "[grid]\ntasks = [\"own\"]\npairs = [{ weak = \"own\", strong = \"other\" }]\nmethods = [\"finetune\"]\nseeds = [0]\n\n\
                    [data]\nmax_tokens = 16\n\n[train]\nbatch_size = 8\n";
const WEIGHTS: &str = "m/model.safetensors";
const NORM: &str = "transformer.ln_f.weight";

fn model() -> (Value, Tensors) {
    let golden: Value = serde_json::from_str(include_str!("golden/golden_tiny_forward.json")).unwrap();
    let gpt2 = &golden["models"]["gpt2"];
    (gpt2["config"].clone(), tensors(&gpt2["weights"]))
}

impl Scratch {
    fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        let (config, tensors) = model();
        let rows: String = (0..80).map(|row| format!("t{} t{},{}\n", row % 30 + 1, row % 7 + 1, row % 2)).collect();
        scratch.write("m/config.json", serde_json::to_string_pretty(&config).unwrap());
        scratch.write("m/tokenizer.json", word_tokenizer('t').to_string());
        scratch.write(WEIGHTS, safetensors(&tensors));
        scratch.write("models/own.toml", "path = \"../m\"\n");
        scratch.write("models/other.toml", "path = \"../m\"\n");
        scratch.write("tasks/own.toml", TASK);
        scratch.write("rows.csv", format!("text,label\n{rows}"));
        scratch.write("grid.toml", GRID);
        scratch
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    /// Replaces a part of a file, wherever it stands.
    fn replace(&self, name: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.bytes(name)).unwrap();
        assert!(text.contains(from), "{name} has no `{from}`");
        self.write(name, text.replace(from, to));
    }

    /// Puts a tensor into the weights.
    fn tensor(&self, name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) {
        let (_, mut tensors) = model();
        tensors.insert(name.to_owned(), (dtype, shape.to_vec(), bytes));
        self.write(WEIGHTS, safetensors(&tensors));
    }

    /// Lets the task read another file.
    fn rows(&self, name: &str, content: impl AsRef<[u8]>) {
        self.write(name, content);
        self.replace("tasks/own.toml", "rows.csv", name);
    }

    fn run(&self) -> Output {
        w2s()
            .args([
                "run",
                self.file("grid.toml").to_str().unwrap(),
                "--results",
                self.file("results").to_str().unwrap(),
            ])
            .output()
            .unwrap()
    }
}

/// What is done to the files, the exit code, and what is said: the file and the remedy among it.
type Case = (&'static str, fn(&Scratch), i32, &'static [&'static str]);

const CASES: &[Case] = &[
    (
        "weights cut off",
        |s| s.write(WEIGHTS, &s.bytes(WEIGHTS)[..9000]),
        2,
        &["not a whole safetensors file", "m/model.safetensors"],
    ),
    ("empty weights", |s| s.write(WEIGHTS, ""), 2, &["it is shorter than 8 bytes", "m/model.safetensors"]),
    (
        "header of impossible size",
        |s| s.write(WEIGHTS, [0xff; 16]),
        2,
        &["its header claims 18446744073709551615 bytes of a file of 16"],
    ),
    ("header that is no JSON", |s| s.write(WEIGHTS, with_header("{\"a\":", &[])), 2, &["its header is wrong: EOF"]),
    (
        "tensor outside of the file",
        |s| s.write(WEIGHTS, with_header(r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, &[0; 4])),
        2,
        &["its header describes", "m/model.safetensors"],
    ),
    (
        "pointer in place of weights",
        |s| s.write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        2,
        &["a pointer of Git LFS, not the weights", "`git lfs pull`"],
    ),
    (
        "web page in place of weights",
        |s| s.write(WEIGHTS, "<!DOCTYPE html><html><body>404</body></html>"),
        2,
        &["a web page, not the weights"],
    ),
    (
        "tensor missing",
        |s| {
            let (_, mut tensors) = model();
            tensors.remove(NORM);
            s.write(WEIGHTS, safetensors(&tensors));
        },
        2,
        &["tensor `transformer.ln_f.weight` is missing", "do `config.json` and the weights belong"],
    ),
    (
        "tensor too many",
        |s| s.tensor("transformer.h.9.ln_1.bias", "F32", &[1], vec![0; 4]),
        2,
        &["is not part of the `gpt2`"],
    ),
    (
        "tensor of another shape",
        |s| s.tensor(NORM, "F32", &[4], vec![0; 16]),
        2,
        &["has shape [4], the configuration asks for [8]"],
    ),
    (
        "tensor of another type",
        |s| s.tensor(NORM, "I64", &[8], vec![0; 64]),
        2,
        &["holds I64 values; only F32, F16 and BF16"],
    ),
    (
        "NaN in the weights",
        |s| s.tensor(NORM, "F32", &[8], bytes([1.0, 1.0, f32::NAN, 1.0, 1.0, 1.0, 1.0, 1.0])),
        2,
        &["`transformer.ln_f.weight` holds NaN at element 2", "m/model.safetensors", "the file is damaged"],
    ),
    (
        "infinity in half precision",
        |s| s.tensor(NORM, "F16", &[8], [0, 0x7c].repeat(8)),
        2,
        &["holds inf at element 0"],
    ),
    (
        "pickled weights",
        |s| fs::rename(s.file(WEIGHTS), s.file("m/pytorch_model.bin")).unwrap(),
        2,
        &["neither `model.safetensors`", "`save_pretrained`"],
    ),
    (
        "tokenizer that is no JSON",
        |s| s.write("m/tokenizer.json", "{"),
        2,
        &["the tokenizer cannot be read", "m/tokenizer.json"],
    ),
    (
        "web page in place of a tokenizer",
        |s| s.write("m/tokenizer.json", "<html>"),
        2,
        &["a web page, not the tokenizer"],
    ),
    (
        "tokenizer of another model",
        |s| s.replace("m/tokenizer.json", "\"t31\":31", "\"t31\":99"),
        2,
        &["ids end at 99, the model has 32", "belong to the same model?"],
    ),
    (
        "tokenizer of a much smaller model",
        |s| {
            let words: String = (10..32).map(|id| format!(",\"t{id}\":{id}")).collect();
            s.replace("m/tokenizer.json", &words, "");
        },
        2,
        &["ids end at 9, the model has 32", "belong to the same model?"],
    ),
    (
        "tokenizer that puts foreign tokens around a text",
        |s| {
            let around = "{\"type\":\"BertProcessing\",\"sep\":[\"[SEP]\",102],\"cls\":[\"[CLS]\",101]}";
            s.replace("m/tokenizer.json", "\"post_processor\":null", &format!("\"post_processor\":{around}"));
        },
        2,
        &["ids end at 102, the model has 32", "belong to the same model?"],
    ),
    (
        "tokenizer that does not know a word",
        |s| {
            s.replace("m/tokenizer.json", "\"unk_token\":\"t0\"", "\"unk_token\":\"t99\"");
            s.write("rows.csv", String::from_utf8(s.bytes("rows.csv")).unwrap().replace("t1 t1,0", "zzz t1,0"));
        },
        2,
        &["model `own`", "cannot encode", "m/tokenizer.json"],
    ),
    (
        "tokenizer with a key that contradicts it",
        |s| s.write("m/tokenizer_config.json", "{\"tokenizer_class\": \"BertTokenizer\", \"do_lower_case\": true}"),
        2,
        &["`do_lower_case` = true contradicts", "m/tokenizer.json", "`PreTrainedTokenizerFast`"],
    ),
    (
        "tokenizer of a class without such files",
        |s| s.write("m/tokenizer_config.json", "{\"tokenizer_class\": \"ByT5Tokenizer\"}"),
        2,
        &["tokenizer_config.json: `ByT5Tokenizer` is written in Python"],
    ),
    (
        "keys of a tokenizer that are no JSON",
        |s| s.write("m/tokenizer_config.json", "<html>"),
        2,
        &["`tokenizer_config.json` is no JSON object", "m/tokenizer_config.json"],
    ),
    (
        "text with a token that the model has no place for",
        |s| {
            let token = "{\"id\":32,\"content\":\"<pad>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}";
            s.replace("m/tokenizer.json", "\"added_tokens\":[]", &format!("\"added_tokens\":[{token}]"));
            s.replace("rows.csv", "t1 t1,0", "t1 <pad>,0");
        },
        2,
        &["model `own`", "its token `<pad>` has the id 32", "`resize_token_embeddings`"],
    ),
    (
        "template that asks for all memory",
        |s| s.replace("tasks/own.toml", "{{ text }}", "{{ text | indent(9999999999999) }}"),
        2,
        &["filter indent is unknown", "own.toml:6"],
    ),
    (
        "template without end",
        |s| {
            let endless = "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}{{ text }}";
            s.replace("tasks/own.toml", "{{ text }}", endless);
        },
        2,
        &["has too much to do", "loops within loops", "rows.csv"],
    ),
    (
        "task that calls itself otherwise",
        |s| s.replace("tasks/own.toml", "name = \"own\"", "name = \"other\""),
        2,
        &["the task calls itself `other`", "own.toml:1", "call both the same"],
    ),
    (
        "pair that stands twice",
        |s| {
            let pair = "{ weak = \"own\", strong = \"other\" }";
            s.replace("grid.toml", pair, &format!("{pair}, {pair}"));
        },
        2,
        &["stands twice in `pairs`", "grid.toml:3"],
    ),
    (
        "no tokenizer",
        |s| fs::remove_file(s.file("m/tokenizer.json")).unwrap(),
        2,
        &["there is no `tokenizer.json`", "save_pretrained"],
    ),
    ("no configuration", |s| fs::remove_file(s.file("m/config.json")).unwrap(), 2, &["there is no `config.json`"]),
    (
        "configuration that is no JSON",
        |s| s.write("m/config.json", "{\"model_type\": "),
        2,
        &["not JSON", "m/config.json"],
    ),
    (
        "unknown architecture",
        |s| s.replace("m/config.json", "\"gpt2\"", "\"t5\""),
        2,
        &["models of type `t5` are not supported", "supported are `bert`"],
    ),
    (
        "heads that do not fit",
        |s| s.replace("m/config.json", "\"n_head\": 2", "\"n_head\": 3"),
        2,
        &["cannot be shared evenly by 3", "m/config.json"],
    ),
    (
        "model file that names itself",
        |s| s.write("models/own.toml", "path = \"own.toml\"\n"),
        2,
        &["there is no `config.json`", "models/own.toml"],
    ),
    (
        "unknown key of a model",
        |s| s.write("models/own.toml", "path = \"../m\"\npoling = \"mean\"\n"),
        2,
        &["unknown key `poling`", ":2:1"],
    ),
    (
        "rows that are not UTF-8",
        |s| {
            let text = String::from_utf8(s.bytes("rows.csv")).unwrap();
            let (before, after) = text.split_once("t5 ").unwrap();
            s.write("rows.csv", [before.as_bytes(), b"\xff\xfe ", after.as_bytes()].concat());
        },
        2,
        &["line 6 is not UTF-8", "encoding", "line 6", "rows.csv", "save the file as UTF-8"],
    ),
    (
        "label of no class",
        |s| s.replace("rows.csv", ",1\n", ",maybe\n"),
        2,
        &["line 3: column `label` is `maybe`", "`values`"],
    ),
    (
        "third class",
        |s| s.replace("rows.csv", ",1\n", ",2\n"),
        2,
        &["`2`, which names no class", "the classes are `no`, `yes`"],
    ),
    (
        "labels of one class",
        |s| s.replace("rows.csv", ",1\n", ",0\n"),
        2,
        &["every example of `supervise` has the class `no`", "label rule"],
    ),
    ("empty table", |s| s.write("rows.csv", ""), 2, &["the split `train` of the task `own` has no rows", "rows.csv"]),
    ("table of a header", |s| s.write("rows.csv", "text,label\n"), 2, &["has no rows", "is it complete?"]),
    (
        "row that lacks a column",
        |s| s.replace("rows.csv", "t1 t1,0\n", "t1 t1\n"),
        2,
        &["line: 2", "found record with 1 fields"],
    ),
    (
        "texts that are empty",
        |s| s.write("rows.csv", format!("text,label\n{}", ",0\n,1\n".repeat(40))),
        2,
        &["no example is left", "empty text"],
    ),
    (
        "web page in place of rows",
        |s| s.write("rows.csv", "<html><body>404</body></html>"),
        2,
        &["a web page, not the data"],
    ),
    (
        "Parquet that is none",
        |s| s.rows("rows.parquet", "PAR1 and PAR1"),
        2,
        &["not a readable Parquet file", "get it again"],
    ),
    (
        "JSON line cut off",
        |s| s.rows("rows.jsonl", "{\"text\": \"a\", \"label\": 0}\n{\"text\": \n"),
        2,
        &["line 2 is no row", "rows.jsonl"],
    ),
    (
        "packed file that is none",
        |s| s.rows("rows.csv.gz", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1]),
        2,
        &["rows.csv.gz", "get it again"],
    ),
    ("file of an unknown kind", |s| s.rows("rows.xlsx", "PK"), 2, &["an unknown format", "files end in .parquet"]),
    (
        "task that reads itself",
        |s| s.replace("tasks/own.toml", "rows.csv", "tasks/own.toml"),
        2,
        &["an unknown format"],
    ),
    (
        "folder in place of rows",
        |s| s.replace("tasks/own.toml", "../rows.csv", "../m"),
        2,
        &["is a folder", "own.toml:9"],
    ),
    (
        "template that does not end",
        |s| s.replace("tasks/own.toml", "{{ text }}", "{{ text "),
        2,
        &["not a template", ":6:12"],
    ),
    (
        "template of another column",
        |s| s.replace("tasks/own.toml", "{{ text }}", "{{ txt }}"),
        2,
        &["no column `txt`", "did you mean `text`?"],
    ),
    (
        "template with an unknown filter",
        |s| s.replace("tasks/own.toml", "{{ text }}", "{{ text | upperr }}"),
        2,
        &["filter upperr is unknown"],
    ),
    (
        "every text too long",
        |s| {
            s.write("rows.csv", format!("text,label\n{}", "t1 t2 t3 t4 t5 t6,0\nt1 t2 t3 t4 t5 t7,1\n".repeat(40)));
            s.replace("grid.toml", "max_tokens = 16", "max_tokens = 4\nover_long = \"drop\"");
        },
        2,
        &["no example is left in `supervise`", "longer than 4 tokens", "raise `max_tokens`"],
    ),
    (
        "batch larger than the data",
        |s| s.replace("grid.toml", "= 8", "= 800"),
        2,
        &["task `own`, `transfer`: 40 examples in 2 epochs do not fill one batch of 800", "lower `batch_size`"],
    ),
    (
        "name of a task that is a path",
        |s| {
            s.write("secret.toml", "key = \"hunter2\"\n");
            s.replace("grid.toml", "[\"own\"]", "[\"../secret\"]");
        },
        2,
        &["`../secret` is not the name of a task", "a name, not a path"],
    ),
    (
        "name of a model that is a path",
        |s| s.replace("grid.toml", "weak = \"own\"", "weak = \"../models/own\""),
        2,
        &["`../models/own` is not the name of a model", "a name, not a path"],
    ),
    (
        "name of a method that a terminal obeys",
        |s| s.replace("grid.toml", "\"finetune\"", "\"fine\\u001b[2Jtune\""),
        2,
        &["fine\\u{1b}[2Jtune", "has a control character", "choose a name"],
    ),
    (
        "title of a task that a terminal obeys",
        |s| s.replace("tasks/own.toml", "title = \"x\"", "title = \"x\\ny\""),
        2,
        &["`x\\ny` cannot be shown in a table", "own.toml:2"],
    ),
    (
        "name of a grid that is no folder's",
        |s| s.replace("grid.toml", "[grid]", "[grid]\nname = \"a\\nb\""),
        2,
        &["the name \"a\\nb\" has a control character", "choose a name"],
    ),
    (
        "template that doubles a text",
        |s| {
            s.replace("tasks/own.toml", "{{ text }}", "{% set n = namespace(s=text) %}{% for i in range(50) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s | length }}")
        },
        2,
        &["the template has too much to do", "row", "texts that double?"],
    ),
    ("grid that is not UTF-8", |s| s.write("grid.toml", b"[grid]\n\xff\n"), 2, &["not UTF-8: byte 7", "grid.toml"]),
    (
        "key that stands twice",
        |s| s.replace("grid.toml", "seeds = [0]", "seeds = [0]\nseeds = [1]"),
        2,
        &["duplicate key", ":6:1"],
    ),
    (
        "learning rate that is no number",
        |s| s.replace("grid.toml", "batch_size", "learning_rate = nan\nbatch_size"),
        2,
        &["`learning_rate` must be", ":11:17"],
    ),
    // Nobody can know before training.
    (
        "training that diverges",
        |s| s.replace("grid.toml", "batch_size", "learning_rate = 1e30\nbatch_size"),
        1,
        &["the loss is not finite for examples", "learning rate"],
    ),
];

#[test]
fn bad_files_are_named_with_a_remedy() {
    let fine = Scratch::new().run();
    assert_eq!(fine.status.code(), Some(0), "{}", text(&fine));
    let mut failures = Vec::new();
    for (name, damage, code, says) in CASES {
        let scratch = Scratch::new();
        damage(&scratch);
        let output = scratch.run();
        let said = text(&output);
        // Lines are broken wherever they become too long.
        let flat: String = said.split_whitespace().filter(|word| *word != "│").collect();
        if *code == 2 && !says_what_to_do(&said) {
            failures.push(format!("{name}: no remedy in\n{said}"));
        }
        let missing: Vec<_> = says.iter().filter(|part| !flat.contains(&part.replace(' ', ""))).collect();
        if output.status.code() != Some(*code) || !missing.is_empty() || said.contains("panicked") {
            failures.push(format!("{name}: exit {:?}, without {missing:?}:\n{said}", output.status.code()));
        }
        assert!(*code != 2 || !scratch.file("results/grid").exists(), "{name} left results behind");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn fewer_rows_than_asked_for_are_said() {
    let scratch = Scratch::new();
    scratch.replace("grid.toml", "max_tokens", "n_train = 500\nmax_tokens");
    let output = scratch.run();
    let said = text(&output);
    assert!(said.contains("own: 500 examples were asked for of `train`, there are 80: all are used"), "{said}");
}

#[test]
fn an_odd_row_is_left_out_and_said() {
    let scratch = Scratch::new();
    scratch.replace("rows.csv", "text,label\n", "text,label\nt1 t2,\n");
    let output = scratch.run();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "note: own: 1 row is left out of the 81 for `train` (1 no label), the first in rows.csv, line 2: column `label` has no value",
        "`test`",
    ] {
        assert!(said.contains(part), "no `{part}` in\n{said}");
    }
}
