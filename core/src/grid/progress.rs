//! How far a stage is: what its process tells the run that started it, and posts for everybody else.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How far a stage is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What is done, in steps or examples.
    pub done: u64,
    /// Of how many.
    pub total: u64,
    /// Loss, accuracy and speed, for people.
    pub message: String,
}

/// What the process that makes a stage writes into the stage's [lock](crate::stage::Store::post).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Post {
    /// The process, on its machine.
    pub process: u32,
    /// How far it is.
    #[serde(flatten)]
    pub progress: Progress,
    /// When that was, in seconds since 1970.
    pub at: f64,
    /// What was done when it began to count.
    first: u64,
    /// When that was.
    since: f64,
}

impl Post {
    /// What to post of some progress, after what was posted `before`: who counts to another end, or anew, begins anew.
    pub fn new(progress: Progress, before: Option<&Self>) -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let same = |before: &&Self| before.progress.total == progress.total && before.progress.done <= progress.done;
        let (first, since) = before.filter(same).map_or((progress.done, at), |before| (before.first, before.since));
        Self { process: std::process::id(), progress, at, first, since }
    }

    /// How long it will take to the end of what it counts, if it goes on as it has; that need not be the end of the stage.
    pub fn left(&self) -> Option<Duration> {
        let done = self.progress.done.checked_sub(self.first).filter(|done| *done > 0)?;
        let left = self.progress.total.checked_sub(self.progress.done)?;
        Duration::try_from_secs_f64((self.at - self.since) / done as f64 * left as f64).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_goes_by_what_was_done_since_it_was_counted() {
        let progress = |done, total| Progress { done, total, message: String::new() };
        // A training that goes on from a checkpoint begins in the middle.
        let first = Post::new(progress(50, 100), None);
        assert_eq!(first.left(), None);
        let mut second = Post::new(progress(75, 100), Some(&first));
        second.at = first.at + 10.0;
        assert_eq!(second.left().map(|left| left.as_secs_f64().round()), Some(10.0));
        for other in [progress(10, 100), progress(80, 90)] {
            assert_eq!(Post::new(other, Some(&second)).left(), None);
        }
        let text = serde_json::to_string(&second).unwrap();
        assert_eq!(serde_json::from_str::<Post>(&text).unwrap(), second);
    }
}
