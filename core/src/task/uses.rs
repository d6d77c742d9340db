//! What a template or an expression does with its variables: whether it takes them as numbers or truth values, or as they are written.
//!
//! Files of text hold texts alone. A column of numbers is a number there where it is used as one, and keeps its spelling where it is
//! shown; what a comparison of a text with a number would mean is not guessed but refused.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{
    Value,
    machinery::ast::{BinOpKind, CallArg, CompareOpKind, Expr, Spanned, Stmt, Test, UnaryOpKind},
    value::ValueKind,
};

use super::read::{Kind, is_missing, number, truth};
use crate::{Error, Result};

/// The remedy for a comparison that does not fit.
const CONVERT: &str = "`COLUMN | float` makes a number of a text, quotes make a text of a number, and `COLUMN != \"\" and …` before it passes over what is empty";

/// How a template or an expression uses its variables.
#[derive(Debug, Default)]
pub(super) struct Uses {
    /// Variables that it takes as numbers or truth values.
    counted: BTreeSet<String>,
    /// Variables that it shows: a number will do if it is spelled the same.
    shown: BTreeSet<String>,
    /// Variables that it does other things with, as only texts allow.
    written: BTreeSet<String>,
    /// Variables of which it looks whether they have a value.
    looked_at: BTreeSet<String>,
    compared: Vec<Comparison>,
    /// Names given to variables by `set` and `with`.
    names: BTreeMap<String, String>,
    /// A comparison of what is certainly a text with what is certainly a number.
    mismatch: Option<String>,
}

#[derive(Debug)]
struct Comparison {
    sides: [Side; 2],
    /// Whether it asks which is more, not whether they are equal.
    order: bool,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
enum Side {
    Variable(String),
    Text(String),
    Number,
    Truth,
    /// A text that is made in the expression.
    SomeText,
    Unknown,
}

/// As what a value is taken.
#[derive(Clone, Copy, PartialEq)]
enum As {
    Counted,
    Shown,
    Written,
}

impl Uses {
    /// Of a template.
    pub fn of_template(template: &Stmt) -> Self {
        let mut uses = Self::default();
        uses.statement(template);
        uses
    }

    /// Of an expression that is true or not.
    pub fn of_filter(expression: &Expr) -> Self {
        let mut uses = Self::default();
        uses.truth(expression);
        uses
    }

    /// Of an expression whose value is kept.
    pub fn of_expression(expression: &Expr) -> Self {
        let mut uses = Self::default();
        uses.expression(expression, As::Written);
        uses
    }

    /// Variables that it may take as numbers or truth values.
    pub fn counted(&self) -> impl Iterator<Item = &String> {
        let sides = self.compared.iter().flat_map(|comparison| &comparison.sides);
        let compared = sides.filter_map(|side| match side {
            Side::Variable(name) => Some(name),
            _ => None,
        });
        self.counted.iter().chain(compared)
    }

    /// A comparison that can mean nothing.
    pub fn mismatch(&self) -> Option<Error> {
        Some(Error::new(self.mismatch.clone()?).help(CONVERT))
    }

    /// Makes numbers and truth values of texts that are used as such, in columns that hold nothing else: `kind` says which.
    ///
    /// # Errors
    /// A text and a number are compared.
    pub fn fit(&self, values: &mut BTreeMap<&str, Value>, kind: impl Fn(&str) -> Option<Kind>) -> Result<()> {
        let counts =
            |value: &Value, name: &str| value.is_number() || value.kind() == ValueKind::Bool || kind(name).is_some();
        let with_counted = |name: &str| {
            self.compared.iter().any(|comparison| match &comparison.sides {
                [Side::Variable(a), Side::Variable(b)] if a == name || b == name => {
                    let other = if a == name { b } else { a };
                    values.get(other.as_str()).is_some_and(|value| counts(value, other))
                }
                _ => false,
            })
        };
        let fitted: Vec<(&str, Value)> = values
            .iter()
            .filter(|(name, _)| self.counted.contains(**name) || with_counted(name))
            .filter_map(|(name, value)| Some((*name, self.converted(name, value.as_str()?, kind(name)?)?)))
            .collect();
        values.extend(fitted);
        self.compared.iter().try_for_each(|comparison| self.check(comparison, values))
    }

    fn converted(&self, name: &str, text: &str, kind: Kind) -> Option<Value> {
        if is_missing(text) || self.written.contains(name) {
            return None;
        }
        let value = match kind {
            Kind::Truth => Value::from(truth(text)?),
            Kind::Number => match text.trim().parse::<i64>() {
                Ok(whole) => Value::from(whole),
                Err(_) => Value::from(number(text)?),
            },
        };
        // What is also shown keeps its spelling.
        (!self.shown.contains(name) || value.to_string() == text).then_some(value)
    }

    /// Whether the two sides of a comparison can be compared.
    fn check(&self, comparison: &Comparison, values: &BTreeMap<&str, Value>) -> Result<()> {
        let order = comparison.order;
        let side = |side: &Side| match side {
            Side::Variable(name) => {
                let value = values.get(name.as_str())?;
                Some(match value.kind() {
                    ValueKind::Number => Side::Number,
                    ValueKind::Bool => Side::Truth,
                    ValueKind::String => Side::Text(value.as_str()?.to_owned()),
                    _ => return None,
                })
            }
            other => Some(other.clone()),
        };
        let [Some(a), Some(b)] = [0, 1].map(|i| side(&comparison.sides[i])) else { return Ok(()) };
        let (text, other) = match (&a, &b) {
            (Side::Text(text), Side::Number | Side::Truth) => (text, &b),
            (Side::Number | Side::Truth, Side::Text(text)) => (text, &a),
            _ => return Ok(()),
        };
        let name = comparison.sides.iter().find_map(|side| match side {
            Side::Variable(name) => Some(name),
            _ => None,
        });
        let name = name.map_or("", String::as_str);
        let means_the_other = match other {
            Side::Truth => truth(text).is_some(),
            _ => number(text).is_some() || text.trim().parse::<f64>().is_ok_and(f64::is_finite),
        };
        let passed_over = match text.trim() {
            "" => self.looked_at.contains(name),
            _ => self.compared.iter().any(|comparison| comparison.sides.contains(&Side::Text(text.clone()))),
        };
        if !(order && !passed_over || means_the_other) {
            return Ok(());
        }
        let shown: String = text.chars().take(40).collect();
        let passed = if means_the_other { "" } else { shown.trim() };
        let what = if *other == Side::Truth { "a truth value" } else { "a number" };
        Err(Error::new(format!(
            "the text `{shown}` is compared with {what}: `{name}` is not the same kind of value on both sides"
        ))
        .help(CONVERT.replace("\"\"", &format!("{passed:?}")).replace("COLUMN", name)))
    }

    fn statements(&mut self, statements: &[Stmt]) {
        statements.iter().for_each(|statement| self.statement(statement));
    }

    fn statement(&mut self, statement: &Stmt) {
        match statement {
            Stmt::Template(template) => self.statements(&template.children),
            Stmt::EmitExpr(emit) => self.expression(&emit.expr, As::Shown),
            Stmt::EmitRaw(_) => {}
            Stmt::ForLoop(each) => {
                self.expression(&each.iter, As::Written);
                each.filter_expr.iter().for_each(|filter| self.truth(filter));
                self.statements(&each.body);
                self.statements(&each.else_body);
            }
            Stmt::IfCond(branch) => {
                self.truth(&branch.expr);
                self.statements(&branch.true_body);
                self.statements(&branch.false_body);
            }
            Stmt::WithBlock(with) => {
                with.assignments.iter().for_each(|(target, value)| self.assign(target, value));
                self.statements(&with.body);
            }
            Stmt::Set(set) => self.assign(&set.target, &set.expr),
            Stmt::SetBlock(set) => self.statements(&set.body),
            Stmt::AutoEscape(block) => self.statements(&block.body),
            Stmt::FilterBlock(block) => self.statements(&block.body),
            Stmt::Block(block) => self.statements(&block.body),
            Stmt::Macro(defined) => self.statements(&defined.body),
            Stmt::CallBlock(block) => self.statements(&block.macro_decl.body),
            Stmt::Import(_) | Stmt::FromImport(_) | Stmt::Extends(_) | Stmt::Include(_) => {}
            Stmt::Do(done) => self.arguments(&done.call.args),
        }
    }

    /// A name for a variable is the variable; a name for anything else uses what is in it.
    fn assign(&mut self, target: &Expr, value: &Expr) {
        match (target, self.side(value)) {
            (Expr::Var(target), Side::Variable(name)) => _ = self.names.insert(target.id.to_owned(), name),
            _ => self.expression(value, As::Written),
        }
    }

    fn truth(&mut self, expression: &Expr) {
        if let Side::Variable(name) = self.side(expression) {
            self.looked_at.insert(name);
        }
        self.expression(expression, As::Counted);
    }

    fn expression(&mut self, expression: &Expr, how: As) {
        match expression {
            Expr::Var(variable) => {
                let name = self.names.get(variable.id).cloned().unwrap_or_else(|| variable.id.to_owned());
                match how {
                    As::Counted => self.counted.insert(name),
                    As::Shown => self.shown.insert(name),
                    As::Written => self.written.insert(name),
                };
            }
            Expr::Const(_) => {}
            Expr::Slice(slice) => {
                self.expression(&slice.expr, As::Written);
                let bounds = [&slice.start, &slice.stop, &slice.step];
                bounds.into_iter().flatten().for_each(|bound| self.expression(bound, As::Counted));
            }
            Expr::UnaryOp(unary) => match unary.op {
                UnaryOpKind::Not => self.truth(&unary.expr),
                UnaryOpKind::Neg => self.expression(&unary.expr, As::Counted),
            },
            Expr::BinOp(binary) => {
                let (left, right) = (&binary.left, &binary.right);
                match binary.op {
                    BinOpKind::Eq | BinOpKind::Ne => self.compare(left, right, false),
                    BinOpKind::Lt | BinOpKind::Lte | BinOpKind::Gt | BinOpKind::Gte => self.compare(left, right, true),
                    BinOpKind::In => self.contained(left, right),
                    BinOpKind::ScAnd | BinOpKind::ScOr => {
                        self.truth(left);
                        if how != As::Counted {
                            self.expression(left, how);
                        }
                        self.expression(right, how);
                    }
                    BinOpKind::Concat => {
                        self.expression(left, As::Shown);
                        self.expression(right, As::Shown);
                    }
                    BinOpKind::Add if [left, right].into_iter().any(|side| self.is_text(side)) => {
                        self.expression(left, As::Written);
                        self.expression(right, As::Written);
                    }
                    _ => {
                        self.expression(left, As::Counted);
                        self.expression(right, As::Counted);
                    }
                }
            }
            Expr::Compare(chain) => {
                let mut left = &chain.expr;
                for next in &chain.ops {
                    match next.op {
                        CompareOpKind::Eq | CompareOpKind::Ne => self.compare(left, &next.expr, false),
                        CompareOpKind::In | CompareOpKind::NotIn => self.contained(left, &next.expr),
                        _ => self.compare(left, &next.expr, true),
                    }
                    left = &next.expr;
                }
            }
            Expr::IfExpr(choice) => {
                self.truth(&choice.test_expr);
                self.expression(&choice.true_expr, how);
                choice.false_expr.iter().for_each(|other| self.expression(other, how));
            }
            Expr::Filter(filter) => {
                let how = match filter.name {
                    "default" | "d" => how,
                    "context" | "string" | "int" | "float" => As::Shown,
                    "abs" | "round" | "bool" => As::Counted,
                    "min" | "max" | "sum" | "sort" if matches!(filter.expr, Some(Expr::List(_) | Expr::Tuple(_))) => {
                        As::Counted
                    }
                    _ => As::Written,
                };
                if let (Some(Expr::List(list)), As::Counted) = (&filter.expr, how) {
                    list.items.iter().for_each(|item| self.expression(item, how));
                } else if let Some(inner) = &filter.expr {
                    // Only `default(…, true)` replaces an empty text.
                    if matches!(filter.name, "default" | "d")
                        && filter.args.len() > 1
                        && let Side::Variable(name) = self.side(inner)
                    {
                        self.looked_at.insert(name);
                    }
                    self.expression(inner, how);
                }
                self.arguments(&filter.args);
            }
            Expr::Test(test) => self.test(test),
            Expr::GetAttr(get) => self.expression(&get.expr, As::Written),
            Expr::GetItem(get) => match &get.expr {
                Expr::Map(map) => {
                    map.keys.iter().for_each(|key| self.compare(&get.subscript_expr, key, false));
                    map.values.iter().for_each(|value| self.expression(value, how));
                }
                Expr::List(list) => {
                    list.items.iter().for_each(|item| self.expression(item, how));
                    self.expression(&get.subscript_expr, As::Counted);
                }
                inner => {
                    self.expression(inner, As::Written);
                    self.expression(&get.subscript_expr, As::Counted);
                }
            },
            Expr::Call(call) => {
                match &call.expr {
                    Expr::Var(function) if function.id == "range" => {
                        for argument in &call.args {
                            self.expression(argument_value(argument), As::Counted);
                        }
                        return;
                    }
                    Expr::Var(_) => {}
                    method => self.expression(method, As::Written),
                }
                self.arguments(&call.args);
            }
            Expr::List(list) => list.items.iter().for_each(|item| self.expression(item, As::Written)),
            Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expression(item, As::Written)),
            Expr::Map(map) => map.values.iter().for_each(|value| self.expression(value, As::Written)),
        }
    }

    fn arguments(&mut self, arguments: &[CallArg]) {
        arguments.iter().for_each(|argument| self.expression(argument_value(argument), As::Written));
    }

    fn test(&mut self, test: &Spanned<Test>) {
        let argument = test.args.first().map(argument_value);
        match (test.name, argument) {
            ("eq" | "equalto" | "==" | "ne" | "!=", Some(other)) => self.compare(&test.expr, other, false),
            ("lt" | "lessthan" | "<" | "le" | "<=" | "gt" | "greaterthan" | ">" | "ge" | ">=", Some(other)) => {
                self.compare(&test.expr, other, true);
            }
            ("in", Some(other)) => self.contained(&test.expr, other),
            (
                "odd" | "even" | "divisibleby" | "number" | "integer" | "int" | "float" | "boolean" | "true" | "false",
                _,
            ) => {
                if let Side::Variable(name) = self.side(&test.expr) {
                    self.looked_at.insert(name);
                }
                self.expression(&test.expr, As::Counted);
            }
            ("defined" | "undefined" | "none", _) => match self.side(&test.expr) {
                // An empty text is defined.
                Side::Variable(_) => {}
                _ => self.expression(&test.expr, As::Written),
            },
            _ => {
                self.expression(&test.expr, As::Written);
                self.arguments(&test.args);
            }
        }
    }

    /// `item in list`: equal to one of a list that is written out, a part of a text otherwise.
    fn contained(&mut self, item: &Expr, list: &Expr) {
        match list {
            Expr::List(list) => list.items.iter().for_each(|other| self.compare(item, other, false)),
            Expr::Tuple(list) => list.items.iter().for_each(|other| self.compare(item, other, false)),
            Expr::Const(constant) if constant.value.kind() == ValueKind::Seq => {
                for other in constant.value.try_iter().into_iter().flatten() {
                    let other = constant_side(&other);
                    self.compare_sides(item, None, [self.side(item), other], false);
                }
            }
            _ => {
                self.expression(item, As::Written);
                self.expression(list, As::Written);
            }
        }
    }

    fn compare(&mut self, left: &Expr, right: &Expr, order: bool) {
        let sides = [self.side(left), self.side(right)];
        self.compare_sides(left, Some(right), sides, order);
    }

    fn compare_sides(&mut self, left: &Expr, right: Option<&Expr>, sides: [Side; 2], order: bool) {
        use Side::{Number, SomeText, Text, Truth, Variable};
        let [a, b] = &sides;
        let how = |other: &Side| match other {
            Number | Truth => Some(As::Counted),
            Side::Unknown if order => Some(As::Counted),
            // Any value may be equal to a word or not.
            Text(text) if !order && number(text).is_none() && truth(text).is_none() => None,
            _ => Some(As::Written),
        };
        if !matches!((a, b), (Variable(_), Variable(_))) {
            for (expression, other) in [(Some(left), b), (right, a)] {
                if let (Some(expression), Some(how)) = (expression, how(other)) {
                    self.expression(expression, how);
                }
            }
        }
        // `column != ""` passes over rows without a value.
        for (side, other) in [(a, b), (b, a)] {
            if let (Variable(name), Text(_)) = (side, other) {
                self.looked_at.insert(name.clone());
            }
        }
        if matches!((a, b), (SomeText, Number | Truth) | (Number | Truth, SomeText)) {
            self.mismatch.get_or_insert_with(|| "a text is compared with a number".into());
        }
        self.compared.push(Comparison { sides, order });
    }

    /// What stands on a side of a comparison.
    fn side(&self, expression: &Expr) -> Side {
        match expression {
            Expr::Var(variable) => {
                Side::Variable(self.names.get(variable.id).cloned().unwrap_or_else(|| variable.id.to_owned()))
            }
            Expr::Const(constant) => constant_side(&constant.value),
            Expr::UnaryOp(unary) => match unary.op {
                UnaryOpKind::Not => Side::Truth,
                UnaryOpKind::Neg => Side::Number,
            },
            Expr::BinOp(binary) => match binary.op {
                BinOpKind::Concat => Side::SomeText,
                BinOpKind::Sub | BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem | BinOpKind::Pow => Side::Number,
                _ => Side::Unknown,
            },
            Expr::Filter(filter) => match filter.name {
                "default" | "d" => filter.expr.as_ref().map_or(Side::Unknown, |inner| self.side(inner)),
                "int" | "float" | "abs" | "round" | "length" | "count" => Side::Number,
                "trim" | "lower" | "upper" | "replace" | "join" | "string" | "title" | "capitalize" => Side::SomeText,
                _ => Side::Unknown,
            },
            _ => Side::Unknown,
        }
    }

    fn is_text(&self, expression: &Expr) -> bool {
        matches!(self.side(expression), Side::Text(_) | Side::SomeText)
            || matches!(expression, Expr::BinOp(sum) if matches!(sum.op, BinOpKind::Add) && (self.is_text(&sum.left) || self.is_text(&sum.right)))
    }
}

fn argument_value<'a, 's>(argument: &'a CallArg<'s>) -> &'a Expr<'s> {
    match argument {
        CallArg::Pos(value) | CallArg::Kwarg(_, value) | CallArg::PosSplat(value) | CallArg::KwargSplat(value) => value,
    }
}

fn constant_side(value: &Value) -> Side {
    match (value.kind(), value.as_str()) {
        (ValueKind::String, Some(text)) => Side::Text(text.to_owned()),
        (ValueKind::Number, _) => Side::Number,
        (ValueKind::Bool, _) => Side::Truth,
        _ => Side::Unknown,
    }
}
