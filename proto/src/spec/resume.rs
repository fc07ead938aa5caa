//! `checkpoint.resume`: which state a run goes on from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Step;

/// Which state a run goes on from. Anything but [`Resume::Latest`] is done once, when the run is
/// started with it first: whoever starts the run again goes on from where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Resume {
    /// The newest that there is.
    #[default]
    Latest,
    /// The checkpoint of that step; what the run did after it never happened.
    Step(Step),
    /// A checkpoint of another run, or the newest below that run's root, by URL or path: optimizer,
    /// position in the corpus and all. It is copied.
    Url(String),
}

impl FromStr for Resume {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.strip_prefix("step ").map(str::trim);
        match (text, number) {
            ("latest", _) => Ok(Self::Latest),
            (_, Some(number)) => match number.parse() {
                Ok(step) => Ok(Self::Step(Step(step))),
                Err(_) => Err(format!("{number:?} is no step; write \"step 400\"")),
            },
            _ if text.contains('/') => Ok(Self::Url(text.to_owned())),
            _ => Err(format!(
                "{text:?} is neither \"latest\", nor like \"step 400\", nor a URL or path"
            )),
        }
    }
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Step(step) => write!(f, "step {step}"),
            Self::Url(url) => f.write_str(url),
        }
    }
}

impl TryFrom<String> for Resume {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Resume> for String {
    fn from(resume: Resume) -> Self {
        resume.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for text in ["latest", "step 400", "s3://bucket/runs/other", "./other"] {
            let read: Result<Resume, String> = text.parse();
            assert_eq!(read.map(|resume| resume.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_it_may_be() {
        for text in ["", "newest", "step", "step -1", "step x", "400"] {
            let refused = text.parse::<Resume>().err();
            assert!(
                refused.is_some_and(|why| why.contains("step 400")),
                "{text}"
            );
        }
    }
}
