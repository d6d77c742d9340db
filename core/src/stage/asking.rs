//! How a language model is asked for one of a task's answers: few-shot prompts that fit.

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

impl<'a> Asker<'a> {
    pub(super) fn new(
        data: &TaskData,
        answers: &Answers,
        tokenizer: &'a Tokenizer,
        shots: usize,
        max_tokens: usize,
        seed: u64,
    ) -> Result<Self> {
        let mut pool: Vec<usize> = (0..data.supervise.len()).collect();
        Rng::named(seed, "shots").shuffle(&mut pool);
        pool.truncate(shots);
        let shown = pool.iter().filter_map(|&row| {
            let example = &data.supervise[row];
            Some(format!("{}{}\n\n", example.prompt.as_ref()?.text, answers.shown(example)?))
        });
        let longest = answers.tokens.iter().map(Vec::len).max().unwrap_or(0);
        let instruction = data.prompt.as_ref().and_then(|style| style.instruction.clone());
        Ok(Self {
            tokenizer,
            instruction: instruction.map(|text| format!("{text}\n\n")).unwrap_or_default(),
            shown: shown.collect(),
            shots: pool,
            limit: max_tokens.saturating_sub(longest),
        })
    }

    /// Leaves out shots, first those farthest from the question, until it fits; then words from the left of the question's context.
    pub(super) fn prompt(&self, example: &Example) -> Result<Asked> {
        let question = example.prompt.as_ref().ok_or_else(|| {
            Error::new("an example has no prompt").help("give the task a `[prompt]` with `template` and `answers`")
        })?;
        let count = |text: &str| self.tokenizer.encode(text).map(|ids| ids.len());
        let counters: [CountTokens; 1] = [&count];
        for left_out in 0..=self.shown.len() {
            let before = format!("{}{}", self.instruction, self.shown[left_out..].concat());
            let mut text = format!("{before}{}", question.text);
            let shots = self.shown.len() - left_out;
            if count(&text)? <= self.limit {
                return Ok(Asked { text, shortened: false, shots });
            }
            if shots == 0 {
                let mut context = question.context.start + before.len()..question.context.end + before.len();
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
