//! What a language model writes after many prompts.

use burn::{
    module::Module,
    tensor::{FloatDType, Tensor},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    encoded::Encoded,
    predict::in_halves,
    run::{DIVERGED, Execution, interrupted},
};
use crate::{
    Error, Result,
    error::ErrorKind,
    model::{Spec, Tokenizer, Tokens, Transformer, can_write},
    ops,
    rng::Rng,
    strategy::Settings,
};

/// How a model writes its answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Decoding {
    /// The longest answer, in tokens; the end-of-text token is one.
    ///
    /// Origin: ours.
    #[schemars(range(min = 1))]
    pub max_new_tokens: usize,
    /// An answer ends where one of these comes in its text, and goes as far as that.
    ///
    /// Origin: lm-evaluation-harness (`until`), none.
    pub stop: Vec<String>,
    /// 0 takes the likeliest token; above, tokens are drawn from softmax(logits / temperature).
    ///
    /// Origin: lm-evaluation-harness, 0.
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub temperature: f64,
    /// Answers to each prompt.
    ///
    /// Origin: transformers (`num_return_sequences`), 1.
    #[schemars(range(min = 1))]
    pub samples: usize,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { max_new_tokens: 64, stop: Vec::new(), temperature: 0.0, samples: 1 }
    }
}

impl Settings for Decoding {}

impl Decoding {
    /// Temperatures between which the quotient of logits is sure to be a number.
    const TEMPERATURES: [f64; 2] = [0.001, 1000.0];

    /// Checks the settings by themselves.
    ///
    /// # Errors
    /// No tokens, no samples, an empty stop string, a temperature that is none, or several samples that would all be the same.
    pub fn validate(&self) -> Result<()> {
        let fault = |message: String, help: &str| Err(Error::new(message).of_kind(ErrorKind::Config).help(help));
        if self.max_new_tokens == 0 {
            return fault("`max_new_tokens` = 0 leaves no answer".to_owned(), "let it be 1 or more");
        }
        if self.stop.iter().any(String::is_empty) {
            let message = "a string in `stop` is empty: every answer would end before it begins";
            return fault(message.to_owned(), "take the empty string out of the list");
        }
        let [low, high] = Self::TEMPERATURES;
        if self.temperature != 0.0 && !(low..=high).contains(&self.temperature) {
            let message = format!("`temperature` = {} must be 0, or between {low} and {high}", self.temperature);
            return fault(message, "0 takes the likeliest token, 1 draws as the model says");
        }
        match (self.samples, self.temperature == 0.0) {
            (0, _) => fault("`samples` = 0 leaves no answer".to_owned(), "let it be 1 or more"),
            (2.., true) => fault(
                format!("{} samples at `temperature` = 0 would all be the same", self.samples),
                "set a temperature above 0, e.g. 1, or `samples = 1`",
            ),
            _ => Ok(()),
        }
    }

    /// Checks that a model can write after prompts of these lengths, in tokens; to be asked before anything runs.
    ///
    /// # Errors
    /// As [`validate`](Self::validate); a model that cannot write; a prompt without tokens, or one that with `max_new_tokens` after it is longer
    /// than the model's positions (names it).
    pub fn fits(&self, spec: &Spec, prompts: impl IntoIterator<Item = usize>) -> Result<()> {
        self.validate()?;
        can_write(spec)?;
        let (new, positions) = (self.max_new_tokens, spec.max_positions);
        for (row, length) in prompts.into_iter().enumerate() {
            let fault = |message| Err(Error::new(message).context(format!("prompt {row}")));
            if length == 0 {
                return fault("it has no tokens".to_owned());
            }
            if length.saturating_add(new) > positions {
                let message = format!(
                    "its {length} tokens and {new} new ones are more than the {positions} positions of the model"
                );
                return fault(message).map_err(|error| error.help("lower `max_new_tokens`, or shorten the prompt"));
            }
        }
        Ok(())
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The model said so: the end-of-text token.
    EndOfText,
    /// A stop string.
    Stop,
    /// `max_new_tokens`.
    Length,
}

/// An answer to a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// All tokens that were written: those of the stop string, or the end-of-text token, are among them.
    pub tokens: Vec<u32>,
    /// What these tokens add to the prompt's text, without special ones, up to the first stop string; it may begin with a space.
    pub text: String,
    /// Why it ended.
    pub ending: Ending,
    /// log p of each of `tokens` after all before it, in nats, by the model's own logits whatever the temperature.
    pub log_p: Vec<f32>,
}

impl Written {
    /// log p of all tokens.
    pub fn total(&self) -> f64 {
        self.log_p.iter().copied().map(f64::from).sum()
    }

    /// Mean log p of a token.
    pub fn mean(&self) -> f64 {
        self.total() / self.log_p.len() as f64
    }
}

/// What a language model writes after each prompt: `samples` answers each, in the prompts' order. `ends` are the tokens that end a text
/// ([`Pretrained::ends`](crate::model::Pretrained::ends)).
///
/// Sample s of prompt r draws from the stream `generate/r/s` of `seed`, a number for each token. On the CPU an answer is the same to the bit
/// whatever else is asked, in whatever order and however many at once.
///
/// # Errors
/// As [`Decoding::fits`]; a number that is not finite, a panic inside of Burn, a tokenizer that cannot decode, an interruption.
pub fn generate(
    model: &Transformer,
    tokenizer: &Tokenizer,
    ends: &[u32],
    prompts: &Encoded,
    decoding: &Decoding,
    seed: u64,
    execution: &Execution,
) -> Result<Vec<Vec<Written>>> {
    decoding.fits(model.spec(), prompts.lengths())?;
    let model = model.valid().held();
    let writer = Writer { model: &model, tokenizer, ends, prompts, decoding, seed, execution };
    let count = prompts.len() * decoding.samples;
    let Ok(all) = u32::try_from(count) else { return Err(Error::new(format!("{count} answers are too many"))) };
    // Answers are numbered prompt by prompt.
    let mut order: Vec<u32> = (0..all).collect();
    order.sort_by_key(|&answer| prompts.row(writer.prompt(answer)).len());
    let room = decoding.max_new_tokens as u64;
    execution.begins("writing", u64::from(all) * room);
    let (mut results, mut done) = (vec![None; count], 0);
    for answers in order.chunks(execution.predict_batch.max(1)) {
        let written = in_halves(answers, &|answers| writer.write(answers))?;
        for (&answer, written) in answers.iter().zip(written) {
            results[answer as usize] = Some(written);
        }
        done += answers.len() as u64;
        if let Some(bar) = &execution.bar {
            // Halves that were tried in vain do not count.
            bar.set_position(done * room);
        }
    }
    let mut results = results.into_iter().flatten();
    Ok((0..prompts.len()).map(|_| results.by_ref().take(decoding.samples).collect()).collect())
}

struct Writer<'a> {
    model: &'a Transformer,
    tokenizer: &'a Tokenizer,
    ends: &'a [u32],
    prompts: &'a Encoded,
    decoding: &'a Decoding,
    seed: u64,
    execution: &'a Execution,
}

/// An answer that is being written.
struct Draft {
    /// Where it is among those that are written together.
    place: usize,
    prompt: usize,
    rng: Rng,
    written: Written,
}

impl Writer<'_> {
    fn prompt(&self, answer: u32) -> usize {
        answer as usize / self.decoding.samples
    }

    /// Some answers, written together.
    fn write(&self, answers: &[u32]) -> Result<Vec<Written>> {
        let samples = self.decoding.samples;
        // Every prompt is read once, however many answers it gets.
        let mut rows: Vec<usize> = answers.iter().map(|&answer| self.prompt(answer)).collect();
        let mut prompts = rows.clone();
        prompts.dedup();
        let sequences: Vec<&[u32]> = prompts.iter().map(|&prompt| self.prompts.row(prompt)).collect();
        let (mut decoder, logits) = self.model.decoder(&Tokens::packed(&sequences))?;
        let mut read = 0;
        let mut drafts: Vec<Draft> = Vec::with_capacity(answers.len());
        for (place, (&answer, row)) in answers.iter().zip(&mut rows).enumerate() {
            let prompt = *row;
            read += usize::from(prompts[read] != prompt);
            *row = read;
            let rng = Rng::named(self.seed, &format!("generate/{prompt}/{}", answer as usize % samples));
            let written =
                Written { tokens: Vec::new(), text: String::new(), ending: Ending::Length, log_p: Vec::new() };
            drafts.push(Draft { place, prompt, rng, written });
        }
        decoder.keep(&rows);
        let rows: Vec<u32> = rows.into_iter().map(|row| row as u32).collect();
        let mut logits = if rows.len() == prompts.len() { logits } else { ops::lookup(logits, &rows) };
        let mut results = vec![None; answers.len()];
        loop {
            if self.execution.stopped() {
                return Err(interrupted());
            }
            self.choose(logits, &mut drafts)?;
            let (mut kept, mut on) = (Vec::new(), Vec::with_capacity(drafts.len()));
            let mut passed = drafts.len();
            for (row, mut draft) in drafts.into_iter().enumerate() {
                if self.ended(&mut draft)? {
                    passed += self.decoding.max_new_tokens - draft.written.tokens.len();
                    results[draft.place] = Some(draft.written);
                } else {
                    kept.push(row);
                    on.push(draft);
                }
            }
            drafts = on;
            if let Some(bar) = &self.execution.bar {
                bar.inc(passed as u64);
            }
            if drafts.is_empty() {
                return Ok(results.into_iter().flatten().collect());
            }
            decoder.keep(&kept);
            let tokens: Vec<u32> = drafts.iter().filter_map(|draft| draft.written.tokens.last().copied()).collect();
            logits = decoder.step(&tokens)?;
        }
    }

    /// Adds one token to each draft, by the logits `[B, V]` after it.
    fn choose(&self, logits: Tensor<2>, drafts: &mut [Draft]) -> Result<()> {
        let logits = logits.cast(FloatDType::F32);
        let [_, width] = logits.dims();
        let temperature = self.decoding.temperature;
        let chances = match temperature == 0.0 {
            true => logits.clone(),
            false => ops::softmax_last(logits.clone() / temperature),
        };
        let chances = chances.into_data();
        let chances =
            chances.as_slice::<f32>().map_err(|cause| Error::new(format!("logits are no numbers: {cause:?}")))?;
        let pick = |(draft, chances): (&mut Draft, &[f32])| match temperature == 0.0 {
            true => likeliest(chances),
            false => draw(chances, draft.rng.uniform()),
        };
        let tokens: Vec<u32> = drafts.iter_mut().zip(chances.chunks_exact(width)).map(pick).collect();
        let log_p = ops::cross_entropy(logits, &tokens).neg().into_data();
        for ((draft, token), log_p) in drafts.iter_mut().zip(tokens).zip(log_p.iter::<f32>()) {
            if !log_p.is_finite() {
                let message = format!("the model's answer to prompt {} is not finite", draft.prompt);
                return Err(Error::not_finite(message).help(DIVERGED));
            }
            draft.written.tokens.push(token);
            draft.written.log_p.push(log_p);
        }
        Ok(())
    }

    /// Whether an answer ends with its newest token; then its text and why are there.
    fn ended(&self, draft: &mut Draft) -> Result<bool> {
        let written = &mut draft.written;
        let Some((last, before)) = written.tokens.split_last() else { return Ok(false) };
        let end = self.ends.contains(last);
        let full = written.tokens.len() >= self.decoding.max_new_tokens;
        if !end && !full && self.decoding.stop.is_empty() {
            return Ok(false);
        }
        let said = if end { before } else { &written.tokens };
        let mut text = self.tokenizer.decode_after(self.prompts.row(draft.prompt), said)?;
        let stop = self.decoding.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        written.ending = match (end, stop) {
            (true, _) => Ending::EndOfText,
            (_, Some(start)) => {
                text.truncate(start);
                Ending::Stop
            }
            _ if full => Ending::Length,
            _ => return Ok(false),
        };
        written.text = text;
        Ok(true)
    }
}

/// The token of the largest logit, the first of several.
fn likeliest(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).reduce(|best, token| if logits[token] > logits[best] { token } else { best });
    best.unwrap_or(0) as u32
}

/// The token at which the chances up to it exceed the part `at` in [0, 1) of them all.
fn draw(chances: &[f32], at: f64) -> u32 {
    let at = at * chances.iter().copied().map(f64::from).sum::<f64>();
    let mut sum = 0.0;
    let found = chances.iter().position(|chance| {
        sum += f64::from(*chance);
        sum > at
    });
    // Where rounding leaves none, or the numbers are none, which the caller notices.
    found.or_else(|| chances.iter().rposition(|chance| *chance > 0.0)).unwrap_or(0) as u32
}
