//! `[published]`: what a paper reports for this grid's tasks and methods.

use super::{Method, Pair, Suite};
use crate::{
    Result,
    document::{Section, did_you_mean},
    report::table::{Published, PublishedPair},
    task::Task,
};

/// `[published]`: what a paper reports for this grid's tasks and methods.
pub(super) fn check_published(
    published: &Section,
    tasks: &[Task],
    suites: &[Suite],
    methods: &[Method],
    pairs: &[Pair],
) -> Result<()> {
    let known: Vec<&str> = tasks.iter().map(Task::name).chain(suites.iter().map(|suite| suite.name.as_str())).collect();
    published.need("source").map_err(|error| error.help("name the paper and its table"))?.text()?;
    published.read::<Published>()?;
    check_reported(published, &["source", "metric", "pairs"], &known, methods)?;
    for reported in published.get("pairs").iter().map(Section::items).collect::<Result<Vec<_>>>()?.concat() {
        let PublishedPair { weak, strong, .. } = reported.read()?;
        if !pairs.iter().any(|pair| (&pair.weak.name, &pair.strong.name) == (&weak, &strong)) {
            let known: Vec<_> =
                pairs.iter().map(|pair| format!("`{}` → `{}`", pair.weak.name, pair.strong.name)).collect();
            return Err(reported
                .error(format!("`{weak}` → `{strong}` is no pair of this grid"))
                .help(format!("the pairs are {}", known.join(", "))));
        }
        check_reported(&reported, &["weak", "strong"], &known, methods)?;
    }
    Ok(())
}

/// What a paper reports by task (or by suite, on average) and method, beside keys that are something else.
fn check_reported(published: &Section, keys: &[&str], tasks: &[&str], methods: &[Method]) -> Result<()> {
    for (task, reported) in published.entries().into_iter().filter(|(key, _)| !keys.contains(&key.as_str())) {
        if !tasks.contains(&task.as_str()) {
            let help = did_you_mean(&task, tasks.iter().copied());
            return Err(reported.error(format!("`{task}` is no task of this grid")).help(help));
        }
        for (method, values) in reported.entries() {
            let mut known = methods.iter().map(|method| method.name.as_str()).chain(["weak", "ceiling"]);
            if !known.any(|known| known == method) {
                let help = did_you_mean(&method, methods.iter().map(|method| method.name.as_str()));
                return Err(values.error(format!("`{method}` is no method of this grid")).help(help));
            }
        }
    }
    Ok(())
}
