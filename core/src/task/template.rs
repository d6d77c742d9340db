//! Templates and expressions of a task file, with bounds on what they compute.
//!
//! minijinja's fuel counts steps, whatever the size of what a step works on: sixty doublings of a text are few steps and more memory than
//! there is. So programs are compiled with a payment in front of every step whose cost depends on its operands, filters and tests pay
//! before they run, and what is written pays by the byte, all out of one [`Purse`]. Bounds are in work, not in seconds: the same file
//! ends the same way on every machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use minijinja::{
    AutoEscape, Environment, ErrorKind, State, UndefinedBehavior, Value, filters,
    machinery::{self, CodeGenerator, CompiledTemplate, Instruction, Instructions, TemplateConfig},
    tests,
    value::{Rest, ValueKind, ValueOrKwargs},
};

/// Noncharacters that mark the shortenable part while a template is rendered; Unicode keeps them out of texts.
pub(super) const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// Work is counted in bytes gone through or made; a step of the engine, and an item of a list, count as this many.
const STEP: usize = 16;
/// What is in the purse at first: a million steps, or 16 MiB of text.
const FIRST: usize = 16 << 20;
/// What each evaluation adds, so that a set of any size may go on: sixteen thousand steps.
const EACH: usize = 1 << 18;
/// What each evaluation adds for a byte of the row's own values: enough to go through them word by word, or, for very large ones, to make
/// a few copies.
const PER_BYTE: (usize, usize) = (512, 16);
/// Up to here the first of these counts.
const LARGE: usize = 256 << 20;
/// Deepest nesting of lists and tables: values are dropped by recursion.
const DEEPEST: usize = 64;

type Done<T> = Result<T, minijinja::Error>;

/// What may still be computed.
#[derive(Debug)]
struct Purse(AtomicI64);

impl Purse {
    fn earn(&self, bytes: usize) {
        let bytes = as_work(bytes.saturating_mul(PER_BYTE.0).min(LARGE).max(bytes.saturating_mul(PER_BYTE.1)));
        let left = self.0.load(Ordering::Relaxed);
        let full = as_work(FIRST).saturating_add(bytes);
        self.0.store(left.saturating_add(as_work(EACH)).saturating_add(bytes).min(full), Ordering::Relaxed);
    }

    fn fill(&self) {
        self.0.store(as_work(FIRST), Ordering::Relaxed);
    }

    fn pay(&self, work: usize) -> Done<()> {
        let left = self.0.load(Ordering::Relaxed).saturating_sub(as_work(work));
        self.0.store(left, Ordering::Relaxed);
        if left < 0 { Err(ErrorKind::OutOfFuel.into()) } else { Ok(()) }
    }

    /// Pays for going through a value; gives it back with what was only promised worked out, so that promises do not pile up.
    fn weigh(&self, value: &Value, depth: usize) -> Done<Value> {
        self.pay(STEP)?;
        if depth > DEEPEST {
            let message = format!("lists or tables are nested more than {DEEPEST} deep");
            return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
        }
        match value.kind() {
            ValueKind::String | ValueKind::Bytes => self.pay(value.as_bytes().map_or(0, <[u8]>::len))?,
            ValueKind::Seq => value.try_iter()?.try_for_each(|item| self.weigh(&item, depth + 1).map(drop))?,
            ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| self.weigh(&item, depth + 1)).collect::<Done<Vec<_>>>()?;
                return Ok(Value::from(items));
            }
            ValueKind::Map => {
                for key in value.try_iter()? {
                    self.weigh(&key, depth + 1)?;
                    self.weigh(&value.get_item(&key)?, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(value.clone())
    }

    fn weigh_all(&self, values: Rest<ValueOrKwargs>) -> Done<Vec<Value>> {
        values.into_values().iter().map(|value| self.weigh(value, 0)).collect()
    }
}

fn as_work(work: usize) -> i64 {
    i64::try_from(work).unwrap_or(i64::MAX)
}

/// Bytes of a text.
fn length(value: &Value) -> usize {
    value.as_str().map_or(0, str::len)
}

/// Items of a list, 0 for anything else.
fn items(value: &Value) -> usize {
    value.len().filter(|_| value.kind() == ValueKind::Seq).unwrap_or(0)
}

/// What a filter makes beyond what it goes through.
fn surplus(filter: &str, values: &[Value]) -> usize {
    let (Some(first), others) = (values.first(), values.get(1..).unwrap_or_default()) else { return 0 };
    let text = first.as_str().unwrap_or_default();
    match (filter, others) {
        ("replace", [from, to, ..]) => {
            let times = match from.as_str() {
                None | Some("") => text.chars().count() + 1,
                Some(from) => text.matches(from).count(),
            };
            times.saturating_mul(length(to))
        }
        ("join", _) => {
            let joiners: usize = others.iter().map(joiner).sum();
            items(first).max(text.len()).saturating_mul(joiners)
        }
        // Texts and lists are added up by copying, number by number costs nothing more.
        ("sum", _) if first.try_iter().is_ok_and(|mut all| all.any(|item| !item.is_number())) => {
            items(first).saturating_mul(first.try_iter().map_or(0, |all| all.map(|item| length(&item) + STEP).sum()))
        }
        // Each character may become an item.
        ("list" | "split" | "lines" | "sort" | "unique" | "map" | "select" | "reject" | "zip" | "chain", _) => {
            text.len().saturating_mul(2 * STEP)
        }
        _ => 0,
    }
}

/// Bytes that stand between the items, given by place or by name.
fn joiner(value: &Value) -> usize {
    let named = || value.try_iter().into_iter().flatten().filter_map(|key| value.get_item(&key).ok());
    if value.kind() == ValueKind::Map { named().map(|value| length(&value)).sum() } else { length(value) }
}

fn no_text() -> minijinja::Error {
    let message = "a list or table is no text; say how, for example `| join(\"\\n\")`";
    minijinja::Error::new(ErrorKind::InvalidOperation, message)
}

/// A compiled template or expression.
pub(super) struct Program<'s> {
    instructions: Instructions<'s>,
    /// Variables that it certainly uses.
    pub used: BTreeSet<String>,
}

/// What templates and expressions are compiled and run by.
pub(super) struct Engine {
    environment: Environment<'static>,
    purse: Arc<Purse>,
}

impl Engine {
    pub fn new() -> Self {
        let purse = Arc::new(Purse(AtomicI64::new(as_work(FIRST))));
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        // Each payment is a step, too: a million others are left.
        environment.set_fuel(Some(4_000_000));
        let paying = purse.clone();
        environment.set_formatter(move |out, state, value| match value.kind() {
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => Err(no_text()),
            ValueKind::None => Err(ErrorKind::UndefinedError.into()),
            _ => {
                paying.pay(STEP + length(value))?;
                minijinja::escape_formatter(out, state, value)
            }
        });
        // They pad a text to any width, or show what no text is about.
        ["indent", "format", "batch", "slice", "pprint"].iter().for_each(|name| environment.remove_filter(name));
        environment.remove_global("debug");
        let mut engine = Self { environment, purse };
        engine.meter();
        engine.environment.add_filter("context", |text: &Value| -> Done<Value> {
            match text.kind() {
                ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => Err(no_text()),
                ValueKind::Undefined | ValueKind::None => Err(ErrorKind::UndefinedError.into()),
                _ => Ok(Value::from(format!("{}{text}{}", MARKS[0], MARKS[1]))),
            }
        });
        engine
    }

    /// Lets filters, tests and functions pay for what they go through and make.
    fn meter(&mut self) {
        macro_rules! all {
            ($module:ident: $($name:literal $function:ident,)*) => { [$(($name, Value::from_function($module::$function))),*] };
        }
        let known = all! { filters:
            "safe" safe, "escape" escape, "e" escape, "lower" lower, "upper" upper, "title" title, "capitalize" capitalize,
            "replace" replace, "length" length, "count" length, "dictsort" dictsort, "items" items, "reverse" reverse,
            "trim" trim, "join" join, "split" split, "lines" lines, "default" default, "d" default, "round" round, "abs" abs,
            "int" int, "float" float, "attr" attr, "first" first, "last" last, "min" min, "max" max, "sort" sort,
            "list" list, "string" string, "bool" bool, "sum" sum, "select" select, "reject" reject,
            "selectattr" selectattr, "rejectattr" rejectattr, "map" map, "groupby" groupby, "unique" unique,
            "chain" chain, "zip" zip,
        };
        for (name, filter) in known {
            let purse = self.purse.clone();
            self.environment.add_filter(name, move |state: &mut State, values: Rest<ValueOrKwargs>| -> Done<Value> {
                let values = purse.weigh_all(values)?;
                purse.pay(surplus(name, &values))?;
                filter.call(state, &values)
            });
        }
        let known = all! { tests:
            "in" is_in, "eq" is_eq, "equalto" is_eq, "==" is_eq, "ne" is_ne, "!=" is_ne, "lt" is_lt, "lessthan" is_lt,
            "<" is_lt, "le" is_le, "<=" is_le, "gt" is_gt, "greaterthan" is_gt, ">" is_gt, "ge" is_ge, ">=" is_ge,
            "startingwith" is_startingwith, "endingwith" is_endingwith, "lower" is_lower, "upper" is_upper,
        };
        for (name, test) in known {
            let purse = self.purse.clone();
            self.environment.add_test(name, move |state: &mut State, values: Rest<ValueOrKwargs>| -> Done<bool> {
                Ok(test.call(state, &purse.weigh_all(values)?)?.is_true())
            });
        }
        let functions: Vec<(String, Value)> =
            self.environment.globals().map(|(name, function)| (name.to_owned(), function)).collect();
        for (name, function) in functions {
            let purse = self.purse.clone();
            let paying = move |state: &mut State, values: Rest<ValueOrKwargs>| -> Done<Value> {
                function.call(state, &purse.weigh_all(values)?)
            };
            self.environment.add_function(name, paying);
        }
        // What programs call in front of a step; no variable has such a name.
        for name in [OPERANDS, FACTORS] {
            let purse = self.purse.clone();
            self.environment.add_function(name, move |values: Rest<ValueOrKwargs>| -> Done<Value> {
                let mut values = purse.weigh_all(values)?;
                if name == FACTORS {
                    let times = |value: &Value| value.as_usize().unwrap_or(0);
                    let size = |value: &Value| length(value) + items(value).saturating_mul(2 * STEP);
                    let made = values.iter().map(size).sum::<usize>().saturating_mul(values.iter().map(times).sum());
                    purse.pay(made)?;
                }
                // They are put back onto the stack from the last to the first.
                values.reverse();
                Ok(Value::from(values))
            });
        }
    }

    /// Forgets what was paid so far.
    pub fn refill(&self) {
        self.purse.fill();
    }

    /// Functions that every template has.
    pub fn globals(&self) -> BTreeSet<String> {
        self.environment.globals().map(|(name, _)| name.to_owned()).collect()
    }

    /// Compiles a template; `name` is what it is called.
    pub fn template<'s>(&self, name: &'s str, source: &'s str) -> Done<Program<'s>> {
        let used = self.environment.template_from_named_str(name, source)?.undeclared_variables(false);
        let config =
            TemplateConfig { syntax_config: Default::default(), default_auto_escape: Arc::new(|_| AutoEscape::None) };
        let instructions = metered(&CompiledTemplate::new(name, source, &config)?.instructions)?;
        Ok(Program { instructions, used: used.into_iter().collect() })
    }

    /// Compiles an expression; `name` is what it is called.
    pub fn expression<'s>(&self, name: &'s str, source: &'s str) -> Done<Program<'s>> {
        let used = self.environment.compile_expression_owned(source.to_owned())?.undeclared_variables(false);
        let mut generator = CodeGenerator::new(name, source);
        generator.compile_expr(&machinery::parse_expr(source)?);
        Ok(Program { instructions: metered(&generator.finish().0)?, used: used.into_iter().collect() })
    }

    /// What a template or an expression makes of variables: the text, and the value of an expression. `bytes`: how much a row gives it.
    pub fn run(&self, program: &Program, variables: Value, bytes: usize) -> Done<(String, Value)> {
        self.purse.earn(bytes);
        let (mut text, blocks) = (String::new(), BTreeMap::new());
        let mut output = machinery::make_string_output(&mut text);
        let (value, state) = machinery::eval(
            &self.environment,
            &program.instructions,
            variables,
            &blocks,
            &mut output,
            AutoEscape::None,
        )?;
        let steps = state.fuel_levels().map_or(0, |(steps, _)| usize::try_from(steps).unwrap_or(usize::MAX));
        self.purse.pay(steps.saturating_mul(STEP))?;
        Ok((text, value.unwrap_or_default()))
    }
}

/// Pays for the operands of a step.
const OPERANDS: &str = "operands of";
/// Pays for a product, which may repeat a text or a list.
const FACTORS: &str = "factors of";

/// A program that pays before each step whose cost depends on its operands, and writes its own texts as values, so that they pay, too.
///
/// # Errors
/// It wants other templates; there is nowhere to take them from.
fn metered<'s>(program: &Instructions<'s>) -> Done<Instructions<'s>> {
    let mut paying = Instructions::new(program.name(), program.source());
    let mut places = Vec::new();
    let mut end = 0;
    for old in 0.. {
        places.push(end);
        let Some(step) = program.get(old) else { break };
        if matches!(step, Instruction::Include(_) | Instruction::LoadBlocks | Instruction::CallBlock(_)) {
            let message = "a template stands alone: `include`, `import`, `extends` and `block` are not there";
            return Err(minijinja::Error::new(ErrorKind::SyntaxError, message));
        }
        for step in steps(step) {
            end = 1 + match (program.get_span(old), program.get_line(old)) {
                (Some(span), _) => paying.add_with_span(step, span),
                (None, Some(line)) => paying.add_with_line(step, u16::try_from(line).unwrap_or(u16::MAX)),
                (None, None) => paying.add(step),
            };
        }
    }
    for place in 0..end {
        use Instruction::{BuildMacro, Iterate, Jump, JumpIfFalse, JumpIfFalseOrPop, JumpIfTrueOrPop};
        if let Some(
            Jump(target)
            | JumpIfFalse(target)
            | JumpIfFalseOrPop(target)
            | JumpIfTrueOrPop(target)
            | Iterate(target)
            | BuildMacro(_, target, _),
        ) = paying.get_mut(place)
        {
            *target = places.get(*target as usize).copied().unwrap_or(end);
        }
    }
    Ok(paying)
}

fn steps<'s>(step: &Instruction<'s>) -> Vec<Instruction<'s>> {
    use Instruction as I;
    let pay = |function, operands: u16| vec![I::CallFunction(function, Some(operands)), I::UnpackList(operands.into())];
    let mut steps = match step {
        I::EmitRaw(text) => return vec![I::LoadConst(Value::from(*text)), I::Emit],
        // A list may hold itself, or what it held before.
        I::BuildList(_) | I::BuildMap(_) | I::BuildTuple(_) => return [vec![step.clone()], pay(OPERANDS, 1)].concat(),
        I::Mul => pay(FACTORS, 2),
        I::Add | I::StringConcat | I::In | I::CompareAndPreserve(_) => pay(OPERANDS, 2),
        I::Eq | I::Ne | I::Gt | I::Gte | I::Lt | I::Lte => pay(OPERANDS, 2),
        I::Slice => pay(OPERANDS, 4),
        I::PushLoop(_) => pay(OPERANDS, 1),
        _ => Vec::new(),
    };
    steps.push(step.clone());
    steps
}
