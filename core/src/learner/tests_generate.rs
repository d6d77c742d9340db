//! Writing, against what transformers writes and against itself.

use std::{collections::BTreeSet, fs, path::Path};

use burn::tensor::{Device, Tensor};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    Result,
    model::{Pretrained, Spec, Tokenizer, Tokens, Transformer},
};

/// The decoders of the golden files, and where their weights are.
const FAMILIES: [(&str, &str); 11] = [
    ("gpt2", "golden_tiny_forward.json"),
    ("gpt_neox", "golden_tiny_forward.json"),
    ("llama_gqa", "golden_tiny_forward.json"),
    ("qwen2", "golden_tiny_families.json"),
    ("qwen3", "golden_tiny_families.json"),
    ("mistral", "golden_tiny_families.json"),
    ("opt", "golden_tiny_families.json"),
    ("qwen", "golden_tiny_architectures.json"),
    ("phi3", "golden_tiny_architectures.json"),
    ("gemma2", "golden_tiny_architectures.json"),
    ("gemma3_text", "golden_tiny_architectures.json"),
];

fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Words `t0`, `t1` ..., which a text has spaces between.
pub(super) fn words(count: usize) -> Tokenizer {
    Tokenizer::parse(&word_file(count).to_string(), Path::new("tokenizer.json")).unwrap()
}

fn word_file(count: usize) -> Value {
    let vocab: Map<String, Value> = (0..count).map(|id| (format!("t{id}"), id.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "t0" }
    })
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

/// A model of the golden files, its matrices multiplied with `scale`.
fn tiny(config: &Value, weights: &Value, scale: f32) -> (tempfile::TempDir, Pretrained) {
    let folder = tempfile::tempdir().unwrap();
    let tensors: Vec<(&String, Vec<usize>, Vec<u8>)> = weights
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| {
            let rows: Vec<&Value> = value.as_array().unwrap().iter().collect();
            let (shape, values, scale) = match rows[0].as_array() {
                Some(row) => (vec![rows.len(), row.len()], rows.iter().flat_map(|row| floats(row)).collect(), scale),
                None => (vec![rows.len()], floats(value), 1.0),
            };
            (name, shape, values.iter().flat_map(|x| (x * scale).to_le_bytes()).collect())
        })
        .collect();
    let views =
        tensors.iter().map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    fs::write(folder.path().join("tokenizer.json"), word_file(32).to_string()).unwrap();
    let pretrained = Pretrained::open(folder.path()).unwrap();
    (folder, pretrained)
}

/// Calls `work` with every family's model, and what transformers wrote with it.
fn each_family(work: impl Fn(&str, &Transformer, &Value)) {
    let written = golden("golden_generate.json");
    let scale = written["scale"].as_f64().unwrap() as f32;
    let files = ["golden_tiny_forward.json", "golden_tiny_families.json", "golden_tiny_architectures.json"]
        .map(|file| (file, golden(file)));
    for (name, file) in FAMILIES {
        let case = &files.iter().find(|(known, _)| *known == file).unwrap().1["models"][name];
        let (_folder, pretrained) = tiny(&case["config"], &case["weights"], scale);
        work(name, &pretrained.load(&Device::flex()).unwrap(), &written["models"][name]);
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn prompts(case: &Value, spec: &Spec) -> Encoded {
    let rows = case["rows"].as_array().unwrap().iter().map(|row| ids(&row["prompt"])).collect();
    Encoded::new(rows, spec).unwrap()
}

fn at_once(predict_batch: usize) -> Execution {
    Execution { predict_batch, ..Execution::default() }
}

#[test]
fn every_family_writes_what_transformers_writes() {
    each_family(|name, model, case| {
        let (prompts, tokenizer) = (prompts(case, model.spec()), words(32));
        let decoding = Decoding { max_new_tokens: 7, ..Decoding::default() };
        let found = generate(model, &tokenizer, &[], &prompts, &decoding, 0, &at_once(4)).unwrap();
        assert_eq!(found.len(), prompts.len());
        for (found, row) in found.iter().zip(case["rows"].as_array().unwrap()) {
            let [found] = found.as_slice() else { panic!("one answer each") };
            assert_eq!(found.tokens, ids(&row["tokens"]), "{name}");
            assert_eq!(found.ending, Ending::Length);
            let named: Vec<String> = found.tokens.iter().map(|id| format!("t{id}")).collect();
            assert_eq!(found.text, format!(" {}", named.join(" ")));
            assert_eq!(found.log_p.len(), 7);
            for (found, expected) in found.log_p.iter().zip(floats(&row["log_p"])) {
                assert!((found - expected).abs() < 1e-5, "{name}: {found} instead of {expected}");
            }
        }
        // With an end of texts.
        let end = case["end"].as_u64().unwrap() as u32;
        let found = generate(model, &tokenizer, &[end], &prompts, &decoding, 0, &at_once(32)).unwrap();
        let found: Vec<Vec<u32>> = found.into_iter().map(|mut row| row.remove(0).tokens).collect();
        assert_eq!(found, case["ended"].as_array().unwrap().iter().map(ids).collect::<Vec<_>>(), "{name}");
    });
}

/// Logits `[V]` after a text, without a cache: of the whole text at once.
fn anew(model: &Transformer, text: &[u32]) -> Vec<u32> {
    // Several times, so that products are none of a single row (see `Decoder`).
    let texts = vec![text; 9];
    let hidden = model.hidden(&Tokens::packed(&texts));
    let last: Vec<Tensor<2>> = (1..=9).map(|row| hidden.clone().narrow(0, row * text.len() - 1, 1)).collect();
    bits(model.lm_logits(Tensor::cat(last, 0)).unwrap()).swap_remove(0)
}

fn bits(logits: Tensor<2>) -> Vec<Vec<u32>> {
    let [_, width] = logits.dims();
    let values: Vec<u32> = logits.into_data().iter::<f32>().map(f32::to_bits).collect();
    values.chunks_exact(width).map(<[u32]>::to_vec).collect()
}

#[test]
fn a_cache_changes_no_bit() {
    each_family(|name, model, case| {
        let mut texts: Vec<Vec<u32>> = case["rows"].as_array().unwrap().iter().map(|row| ids(&row["prompt"])).collect();
        let (mut decoder, logits) = model.decoder(&Tokens::packed(&texts)).unwrap();
        let mut logits = bits(logits);
        for step in 0..6 {
            for (text, logits) in texts.iter().zip(&logits) {
                assert_eq!(*logits, anew(model, text), "{name}, step {step}");
            }
            let tokens: Vec<u32> = (0..texts.len() as u32).map(|row| (7 * row + 3 * step) % 32).collect();
            for (text, token) in texts.iter_mut().zip(&tokens) {
                text.push(*token);
            }
            logits = bits(decoder.step(&tokens).unwrap());
            // Rows leave, change places and come twice.
            let kept: &[usize] = match step {
                1 => &[5, 0, 3, 1],
                2 => &[2, 2, 0],
                3 => &[1],
                _ => continue,
            };
            decoder.keep(kept);
            texts = kept.iter().map(|row| texts[*row].clone()).collect();
            logits = kept.iter().map(|row| logits[*row].clone()).collect();
            assert_eq!(decoder.lengths(), texts.iter().map(Vec::len).collect::<Vec<_>>());
        }
    });
}

fn model(vocabulary: usize, positions: usize) -> Transformer {
    let config = json!({
        "model_type": "gpt2", "vocab_size": vocabulary, "n_positions": positions, "n_embd": 16, "n_layer": 2, "n_head": 2,
        "initializer_range": 0.3,
    });
    let spec = Spec::parse(&config.to_string(), Path::new("config.json")).unwrap();
    Transformer::init(&spec, 4, &Device::flex()).unwrap()
}

fn some_prompts(count: u32, spec: &Spec) -> Encoded {
    let row = |row: u32| (0..=(5 * row) % 7).map(|place| (11 * row + 5 * place) % spec.vocab as u32).collect();
    Encoded::new((0..count).map(row).collect(), spec).unwrap()
}

#[test]
fn an_answer_is_its_own_whatever_else_is_asked() {
    // More steps than a cache grows by, and answers of many lengths.
    let model = model(24, 100);
    let (tokenizer, prompts) = (words(24), some_prompts(9, model.spec()));
    for (temperature, samples) in [(0.0, 1), (1.5, 3)] {
        let decoding = Decoding { max_new_tokens: 80, temperature, samples, ..Decoding::default() };
        let ends: &[u32] = if temperature > 0.0 { &[3] } else { &[] };
        let ask = |prompts: &Encoded, batch, seed| {
            generate(&model, &tokenizer, ends, prompts, &decoding, seed, &at_once(batch)).unwrap()
        };
        let all = ask(&prompts, 32, 5);
        assert!(all.iter().all(|row| row.len() == samples));
        for batch in [1, 2, 5] {
            assert_eq!(ask(&prompts, batch, 5), all, "{batch} at once");
        }
        // Prompts beside it do not matter either.
        assert_eq!(ask(&prompts.part(&[0, 1, 2]), 32, 5), all[..3]);
        if temperature > 0.0 {
            assert_ne!(ask(&prompts, 32, 6), all);
            let lengths: BTreeSet<usize> = all.iter().flatten().map(|written| written.tokens.len()).collect();
            assert!(lengths.len() > 4, "{lengths:?}");
            assert!(all.iter().any(|row| row[0] != row[1]));
        }
        for written in all.iter().flatten() {
            let ended = ends.iter().any(|end| written.tokens.last() == Some(end));
            assert_eq!(written.ending, if ended { Ending::EndOfText } else { Ending::Length });
            let said = written.text.split(' ').filter(|word| !word.is_empty()).count();
            assert_eq!(said, written.tokens.len() - usize::from(ended));
            let total: f64 = written.log_p.iter().map(|log_p| f64::from(*log_p)).sum();
            assert_eq!((written.total(), written.mean()), (total, total / written.tokens.len() as f64));
        }
    }
}

#[test]
fn log_probabilities_are_those_that_answers_are_scored_with() {
    let model = model(24, 40);
    let (tokenizer, prompts) = (words(24), some_prompts(5, model.spec()));
    let decoding = Decoding { max_new_tokens: 6, temperature: 0.7, ..Decoding::default() };
    let written = generate(&model, &tokenizer, &[], &prompts, &decoding, 1, &at_once(32)).unwrap();
    let answers: Vec<Vec<u32>> = written.iter().map(|row| row[0].tokens.clone()).collect();
    let scores = score(&model, &prompts, &answers, &Execution::default()).unwrap();
    for (row, written) in written.iter().enumerate() {
        let score = f64::from(scores[row][row]);
        assert!((written[0].total() - score).abs() < 1e-4, "{} instead of {score}", written[0].total());
    }
    // Token by token, and whatever is asked at once but for last digits, as with all predictions.
    let all = log_p(&model, &prompts, &answers, &Execution::default()).unwrap();
    for (found, written) in all.iter().zip(&written) {
        assert_eq!(found.len(), written[0].log_p.len());
        assert!(found.iter().zip(&written[0].log_p).all(|(found, log_p)| (found - log_p).abs() < 1e-5));
    }
    let parts = log_p(&model, &prompts, &answers, &at_once(2)).unwrap();
    assert!(parts.concat().iter().zip(all.concat()).all(|(part, whole)| (part - whole).abs() < 1e-6), "{parts:?}");
    let said = |answers: &[Vec<u32>]| log_p(&model, &prompts, answers, &at_once(2)).unwrap_err().to_string();
    assert_eq!(said(&answers[1..]), "there are 4 answers to 5 prompts");
    let wrong = |row: usize, answer: &[u32]| {
        let mut answers = answers.clone();
        answers[row] = answer.to_vec();
        said(&answers)
    };
    assert_eq!(wrong(1, &[]), "the answer to prompt 1: it has no tokens");
    assert!(wrong(2, &[24]).starts_with("the answer to prompt 2: token id 24 is outside"));
    assert!(wrong(0, &[3; 41]).starts_with("an answer after its prompt: example 0: "));
}

#[test]
fn stop_strings_cut_wherever_they_come() {
    let model = model(24, 40);
    let (tokenizer, prompts) = (words(24), some_prompts(6, model.spec()));
    let write = |stop: &[&str]| {
        let stop = stop.iter().map(|stop| (*stop).to_owned()).collect();
        let decoding = Decoding { max_new_tokens: 12, stop, temperature: 2.0, ..Decoding::default() };
        let found = generate(&model, &tokenizer, &[], &prompts, &decoding, 2, &at_once(4)).unwrap();
        found.into_iter().map(|mut row| row.remove(0)).collect::<Vec<Written>>()
    };
    let whole = write(&[]);
    for (row, plain) in whole.iter().enumerate() {
        // From the middle of the fourth token into the sixth.
        let words: Vec<&str> = plain.text.trim_start().split(' ').collect();
        let stop = format!("{} {} t", &words[3][1..], words[4]);
        let start = plain.text.find(&stop).unwrap();
        let found = &write(&["no such text", &stop])[row];
        assert_eq!((found.ending, found.text.as_str()), (Ending::Stop, &plain.text[..start]));
        // Tokens as far as the one that ended it, which are those that would be there without the string.
        let seen = plain.text.trim_start()[..start - 1 + stop.len()].split(' ').count();
        assert_eq!((&found.tokens[..], &found.log_p[..]), (&plain.tokens[..seen], &plain.log_p[..seen]));
        // The first of several in the text, not in the list.
        let first = words[3..=4].iter().filter_map(|word| plain.text.find(word)).min().unwrap();
        assert_eq!(write(&[words[4], words[3]])[row].text, plain.text[..first]);
    }
    assert!(write(&[" t"]).iter().all(|written| written.text.is_empty() && written.tokens.len() == 1));
}

#[test]
fn tokens_are_drawn_as_often_as_they_are_likely() {
    let model = model(12, 8);
    let (tokenizer, prompts) = (words(12), Encoded::new(vec![vec![3, 1], vec![7]], model.spec()).unwrap());
    let samples = 4000;
    for temperature in [0.5, 1.0, 3.0] {
        let decoding = Decoding { max_new_tokens: 1, temperature, samples, ..Decoding::default() };
        let found = generate(&model, &tokenizer, &[], &prompts, &decoding, 3, &at_once(1000)).unwrap();
        for (row, found) in found.iter().enumerate() {
            let (_, logits) = model.decoder(&Tokens::packed(&[prompts.row(row)])).unwrap();
            let logits: Vec<f64> = logits.into_data().iter::<f32>().map(f64::from).collect();
            let powers: Vec<f64> = logits.iter().map(|logit| (logit / temperature).exp()).collect();
            let plain: f64 = logits.iter().map(|logit| logit.exp()).sum();
            let mut counts = [0.0; 12];
            for written in found {
                let token = written.tokens[0] as usize;
                counts[token] += 1.0;
                // Whatever the temperature.
                assert!((f64::from(written.log_p[0]) - (logits[token] - plain.ln())).abs() < 1e-5);
            }
            let expected = powers.iter().map(|power| power / powers.iter().sum::<f64>() * samples as f64);
            let surprise: f64 =
                counts.iter().zip(expected).map(|(count, expected)| (count - expected).powi(2) / expected).sum();
            // Chi-square with 11 degrees of freedom exceeds this once in a thousand.
            assert!(surprise < 31.3, "{surprise} at {temperature}: {counts:?}");
        }
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let model = model(24, 16);
    let said = |result: Result<()>| result.unwrap_err().to_string();
    let fault = |change: fn(&mut Decoding)| {
        let mut decoding = Decoding::default();
        change(&mut decoding);
        said(decoding.validate())
    };
    for (found, expected) in [
        (fault(|it| it.max_new_tokens = 0), "`max_new_tokens` = 0 leaves no answer"),
        (fault(|it| it.samples = 0), "`samples` = 0 leaves no answer"),
        (fault(|it| it.samples = 2), "2 samples at `temperature` = 0 would all be the same"),
        (fault(|it| it.stop = vec!["a".into(), String::new()]), "a string in `stop` is empty"),
        (fault(|it| it.temperature = -1.0), "`temperature` = -1 must be 0, or between 0.001 and 1000"),
        (fault(|it| it.temperature = f64::INFINITY), "`temperature` = inf must be 0"),
        (fault(|it| it.temperature = f64::NAN), "`temperature` = NaN must be 0"),
        (fault(|it| it.temperature = 1e-9), "`temperature` = 0.000000001 must be 0"),
    ] {
        assert!(found.starts_with(expected) && found.contains("\nhint: "), "{found}");
    }
    let decoding = Decoding { max_new_tokens: 6, ..Decoding::default() };
    decoding.fits(model.spec(), [10, 1]).unwrap();
    assert_eq!(
        said(decoding.fits(model.spec(), [10, 11])),
        "prompt 1: its 11 tokens and 6 new ones are more than the 16 positions of the model\nhint: lower `max_new_tokens`, or shorten the prompt"
    );
    assert_eq!(said(decoding.fits(model.spec(), [0])), "prompt 0: it has no tokens");
    let vast = Decoding { max_new_tokens: usize::MAX, ..Decoding::default() };
    assert!(said(vast.fits(model.spec(), [1])).contains("more than the 16 positions"));
    let reader = Spec { causal: false, ..model.spec().clone() };
    let expected = "this `gpt2` model reads in both directions and cannot write\nhint: take a causal language model";
    assert_eq!(said(decoding.fits(&reader, [1])), expected);
    let mute = Spec { lm_head: crate::model::spec::LmHead::Absent, ..model.spec().clone() };
    assert!(said(decoding.fits(&mute, [1])).starts_with("this `gpt2` model has no language-model head"));
    assert!(serde_json::from_value::<Decoding>(json!({ "max_tokens": 3 })).is_err());

    // The mechanism by itself.
    let (mut decoder, _) = model.decoder(&Tokens::packed(&[[1_u32; 15]])).unwrap();
    assert_eq!(said(decoder.step(&[1, 2]).map(drop)), "2 tokens for 1 rows");
    assert!(said(decoder.step(&[24]).map(drop)).starts_with("token id 24 is outside the model's vocabulary"));
    decoder.step(&[1]).unwrap();
    assert_eq!(said(decoder.step(&[1]).map(drop)), "a text is longer than the 16 positions of the model");
    assert_eq!(said(model.decoder(&Tokens::packed::<[u32; 1]>(&[])).map(drop)), "there is no prompt to go on with");
}

#[test]
fn writing_stops_when_asked_and_says_how_far_it_is() {
    let model = model(24, 100);
    let (tokenizer, prompts) = (words(24), some_prompts(5, model.spec()));
    let decoding = Decoding { max_new_tokens: 20, ..Decoding::default() };
    let bar = indicatif::ProgressBar::hidden();
    let mut execution = Execution { bar: Some(bar.clone()), predict_batch: 2, ..Execution::default() };
    generate(&model, &tokenizer, &[3], &prompts, &decoding, 0, &execution).unwrap();
    assert_eq!((bar.position(), bar.length()), (100, Some(100)));
    let stop = Stop::default();
    stop.ask();
    execution.stop = Some(stop);
    let error = generate(&model, &tokenizer, &[3], &prompts, &decoding, 0, &execution).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    let none = Encoded::new(Vec::new(), model.spec()).unwrap();
    assert!(generate(&model, &tokenizer, &[], &none, &decoding, 0, &at_once(2)).unwrap().is_empty());
}

#[test]
fn the_end_of_texts_is_what_the_files_say() {
    let written = golden("golden_tiny_forward.json");
    let case = &written["models"]["gpt2"];
    let ends = |config: Value, generation: Option<&str>, beside: Option<Value>| {
        let mut whole = case["config"].clone();
        whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        let (folder, _) = tiny(&whole, &case["weights"], 1.0);
        if let Some(text) = generation {
            fs::write(folder.path().join("generation_config.json"), text).unwrap();
        }
        if let Some(beside) = beside {
            fs::write(folder.path().join("tokenizer_config.json"), beside.to_string()).unwrap();
        }
        Pretrained::open(folder.path()).unwrap().ends().map_err(|error| error.message().to_owned())
    };
    let config = || json!({ "eos_token_id": 5 });
    let tokenizer = || Some(json!({ "eos_token": "t9" }));
    assert_eq!(ends(json!({}), None, None), Ok(vec![]));
    assert_eq!(ends(json!({}), None, tokenizer()), Ok(vec![9]));
    assert_eq!(ends(json!({}), None, Some(json!({ "eos_token": { "content": "t8" } }))), Ok(vec![8]));
    assert_eq!(ends(config(), None, tokenizer()), Ok(vec![5]));
    assert_eq!(ends(config(), Some(r#"{ "eos_token_id": [7, 2, 7, 99] }"#), tokenizer()), Ok(vec![2, 7]));
    // The one that is learnt comes first.
    assert_eq!(ends(config(), Some(r#"{ "eos_token_id": [7, 9, 2] }"#), tokenizer()), Ok(vec![9, 2, 7]));
    assert_eq!(ends(config(), Some("{}"), tokenizer()), Ok(vec![5]));
    let wrong = "`eos_token_id` = \"t5\" must be a token id, or a list of them".to_owned();
    assert_eq!(ends(json!({ "eos_token_id": "t5" }), None, None), Err(wrong));
    assert!(ends(json!({}), Some("[1"), None).unwrap_err().starts_with("`generation_config.json` is no JSON object"));
}

#[test]
fn a_text_goes_on_after_its_prompt() {
    let same = |tokenizer: &Tokenizer, prompt: &str, text: &str, ids: &[u32]| {
        let prompt = tokenizer.encode(prompt).unwrap();
        assert_eq!(tokenizer.encode_after(&prompt, text).unwrap(), ids, "{text}");
        assert_eq!(tokenizer.decode_after(&prompt, ids).unwrap(), text);
    };
    // As Llama's: a space is put before every text, and taken away from it.
    let vocab = json!({ "<unk>": 0, "\u{2581}the": 1, "\u{2581}cat": 2, "\u{2581}sat": 3, "\u{2581}": 4, "s": 5, "\u{2581}cats": 6 });
    let file = json!({
        "version": "1.0", "added_tokens": [{ "id": 0, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true }],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "\u{2581}" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" } ] },
        "pre_tokenizer": { "type": "Split", "pattern": { "String": "\u{2581}" }, "behavior": "MergedWithNext", "invert": false },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" }
    });
    let spaced = Tokenizer::parse(&file.to_string(), Path::new("tokenizer.json")).unwrap();
    same(&spaced, "the cat", " sat", &[3]);
    same(&spaced, "the cat the cat the cat", " sat the", &[3, 1]);
    same(&spaced, "", "the cat", &[1, 2]);
    assert_eq!(spaced.encode_bare(" sat").unwrap(), [4, 3]);
    // A beginning that would change the prompt's last token is read by itself.
    assert_eq!(spaced.encode("the cats").unwrap(), [1, 6]);
    assert_eq!(spaced.encode_after(&[1, 2], "s").unwrap(), spaced.encode_bare("s").unwrap());
    // Words with spaces between them.
    same(&words(9), "t1 t2", " t3 t4", &[3, 4]);
    assert_eq!(words(9).encode_after(&[1, 2], "t3").unwrap(), [3]);
}
