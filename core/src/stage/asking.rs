//! How a language model is asked for one of a task's answers: few-shot prompts that fit.

use std::ops::Range;

use crate::{
    Error, Result,
    model::Tokenizer,
    rng::Rng,
    task::{CountTokens, Example, Shortened, TaskData, shorten},
};

/// The answers that a task knows, each with its class.
pub(super) struct Answers {
    pub(super) texts: Vec<String>,
    pub(super) classes: Vec<usize>,
    pub(super) tokens: Vec<Vec<u32>>,
}

impl Answers {
    pub(super) fn of(data: &TaskData, tokenizer: &Tokenizer) -> Result<Self> {
        let words = data.prompt.as_ref().map(|style| style.answers.as_slice()).unwrap_or_default();
        if words.is_empty() {
            return Err(Error::new(format!("task `{}` does not say how a language model is asked", data.task))
                .help("give it a `[prompt]` with `template` and `answers`"));
        }
        let mut answers = Self { texts: Vec::new(), classes: Vec::new(), tokens: Vec::new() };
        for (class, words) in words.iter().enumerate() {
            for word in words {
                answers.texts.push(word.clone());
                answers.classes.push(class);
                answers.tokens.push(tokenizer.encode_bare(word)?);
            }
        }
        Ok(answers)
    }

    /// Right is what the example's own reference says, where it has one among the answers; else any answer of the true class.
    pub(super) fn is_right(&self, answer: usize, example: &Example) -> bool {
        match self.reference(example) {
            Some(reference) => self.texts[answer].trim() == self.texts[reference].trim(),
            None => self.classes[answer] == usize::from(example.label),
        }
    }

    pub(super) fn reference(&self, example: &Example) -> Option<usize> {
        let reference = example.prompt.as_ref()?.reference.as_ref()?;
        self.texts.iter().position(|text| text.trim() == reference.trim())
    }

    /// The answer that is shown for an example.
    pub(super) fn shown(&self, example: &Example) -> Option<&str> {
        let first = || self.classes.iter().position(|class| *class == usize::from(example.label));
        self.reference(example).or_else(first).map(|answer| self.texts[answer].as_str())
    }
}

/// Writes few-shot prompts.
pub(super) struct Asker<'a> {
    tokenizer: &'a Tokenizer,
    instruction: String,
    /// Rows of the supervise split that are shown as answered.
    pub(super) shots: Vec<usize>,
    shown: Vec<String>,
    limit: usize,
}

/// A question as the model reads it.
pub(super) struct Asked {
    pub(super) text: String,
    pub(super) shortened: bool,
    pub(super) shots: usize,
}

/// What a language model is asked about an example: the task's `[prompt]`, or where words are asked for the text itself; and what may be
/// shortened of it.
fn question(example: &Example) -> Option<(&str, &Range<usize>)> {
    let prompt = example.prompt.as_ref().map(|prompt| (prompt.text.as_str(), &prompt.context));
    prompt.or_else(|| example.reference.as_ref().map(|_| (example.text.as_str(), &example.context)))
}

impl<'a> Asker<'a> {
    /// Asks for words, with as many examples shown as there are shots; `room` tokens stay free for the answer.
    pub(super) fn for_words(
        data: &TaskData,
        tokenizer: &'a Tokenizer,
        shots: usize,
        (max_tokens, room): (usize, usize),
        seed: u64,
    ) -> Self {
        let shown = |example: &Example| Some(format!("{}{}\n\n", question(example)?.0, example.reference.as_ref()?));
        Self::showing(data, tokenizer, shots, shown, (max_tokens, room), seed)
    }

    pub(super) fn new(
        data: &TaskData,
        answers: &Answers,
        tokenizer: &'a Tokenizer,
        shots: usize,
        max_tokens: usize,
        seed: u64,
    ) -> Result<Self> {
        let shown =
            |example: &Example| Some(format!("{}{}\n\n", example.prompt.as_ref()?.text, answers.shown(example)?));
        let longest = answers.tokens.iter().map(Vec::len).max().unwrap_or(0);
        Ok(Self::showing(data, tokenizer, shots, shown, (max_tokens, longest), seed))
    }

    fn showing(
        data: &TaskData,
        tokenizer: &'a Tokenizer,
        shots: usize,
        shown: impl Fn(&Example) -> Option<String>,
        (max_tokens, room): (usize, usize),
        seed: u64,
    ) -> Self {
        let mut pool: Vec<usize> = (0..data.supervise.len()).collect();
        Rng::named(seed, "shots").shuffle(&mut pool);
        pool.truncate(shots);
        let instruction = data.prompt.as_ref().and_then(|style| style.instruction.clone());
        Self {
            tokenizer,
            instruction: instruction.map(|text| format!("{text}\n\n")).unwrap_or_default(),
            shown: pool.iter().filter_map(|&row| shown(&data.supervise[row])).collect(),
            shots: pool,
            limit: max_tokens.saturating_sub(room),
        }
    }

    /// Leaves out shots, first those farthest from the question, until it fits; then words from the left of the question's context.
    pub(super) fn prompt(&self, example: &Example) -> Result<Asked> {
        let (question, within) = question(example).ok_or_else(|| {
            Error::new("an example has no prompt").help("give the task a `[prompt]` with `template` and `answers`")
        })?;
        let count = |text: &str| self.tokenizer.encode(text).map(|ids| ids.len());
        let counters: [CountTokens; 1] = [&count];
        for left_out in 0..=self.shown.len() {
            let before = format!("{}{}", self.instruction, self.shown[left_out..].concat());
            let mut text = format!("{before}{question}");
            let shots = self.shown.len() - left_out;
            if count(&text)? <= self.limit {
                return Ok(Asked { text, shortened: false, shots });
            }
            if shots == 0 {
                let mut context = within.start + before.len()..within.end + before.len();
                return match shorten(&mut text, &mut context, &counters, self.limit)?.0 {
                    Shortened::TooLong => {
                        Err(Error::new(format!("a question does not fit into {} tokens", self.limit))
                            .help("mark a part of the prompt's template as `context`, or raise `max_tokens`"))
                    }
                    done => Ok(Asked { text, shortened: done == Shortened::Yes, shots }),
                };
            }
        }
        Err(Error::new("a question does not fit"))
    }
}
