//! What an answer is worth: each metric a pure function of an answer and what people answered.

use std::fmt;
use std::str::FromStr;

use ringmaster_dataset::Asked;

use super::normalise::{plain, vqa, vqa_punctuation};

/// How answers are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// 1 where both are the same after normalisation, else 0.
    Exact,
    /// The official accuracy of VQA2: agreement with ten people (Antol et al., arXiv 1505.00468).
    Vqa2,
    /// The official accuracy of GQA: the same text, but for case and outer spaces.
    Gqa,
    /// Three-way accuracy of SNLI-VE; an answer that is none of the labels is wrong.
    SnliVe,
}

/// What people answered.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// The answer.
    pub answer: &'a str,
    /// Every answer that people gave; only [`Metric::Vqa2`] needs them.
    pub annotators: &'a [String],
}

/// The labels of SNLI-VE.
const LABELS: [&str; 3] = ["entailment", "neutral", "contradiction"];

/// So many people who agree make an answer wholly right.
const AGREE: f64 = 3.0;

impl Metric {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Exact, "exact"),
        (Self::Vqa2, "vqa2"),
        (Self::Gqa, "gqa"),
        (Self::SnliVe, "snli-ve"),
    ];

    /// What is asked about a picture.
    pub fn asks(self) -> Asked {
        match self {
            Self::Exact | Self::Vqa2 | Self::Gqa => Asked::Question,
            Self::SnliVe => Asked::Entailment,
        }
    }

    /// What `answer` is worth, in [0, 1].
    pub fn score(self, answer: &str, reference: Reference) -> f64 {
        let right = |right: bool| if right { 1.0 } else { 0.0 };
        match self {
            Self::Exact => right(plain(answer) == plain(reference.answer)),
            Self::Vqa2 => agreement(answer, reference.annotators),
            Self::Gqa | Self::SnliVe => right(bare(answer) == bare(reference.answer)),
        }
    }

    /// Whether `answer` is one of those there are; only [`Metric::SnliVe`] has a closed set.
    pub fn allows(self, answer: &str) -> bool {
        self != Self::SnliVe || LABELS.contains(&bare(answer).as_str())
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found
            .map(|(metric, _)| *metric)
            .ok_or_else(|| format!("{text:?} is not exact, vqa2, gqa or snli-ve"))
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::ALL.iter().find(|(metric, _)| metric == self);
        f.write_str(found.map_or("", |(_, name)| name))
    }
}

fn bare(text: &str) -> String {
    text.trim().to_lowercase()
}

/// `mean over people i of min(people other than i who gave this answer / 3, 1)`, as vqaEval.py
/// computes it. The people's answers are normalised where they differ, and by the first half of the
/// normaliser alone: in the data set the second half is done. 0 where nobody answered.
fn agreement(answer: &str, annotators: &[String]) -> f64 {
    let answer = vqa(answer);
    let unanimous = annotators.windows(2).all(|pair| pair[0] == pair[1]);
    let agrees = |said: &String| match unanimous {
        true => *said == answer,
        false => vqa_punctuation(said) == answer,
    };
    let agrees: Vec<bool> = annotators.iter().map(agrees).collect();
    let all = agrees.iter().filter(|agrees| **agrees).count();
    let without = |agrees: &bool| {
        let others = all - usize::from(*agrees);
        (others as f64 / AGREE).min(1.0)
    };
    agrees.iter().map(without).sum::<f64>() / agrees.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn people(answers: &[(&str, usize)]) -> Vec<String> {
        let each = |(answer, times): &(&str, usize)| vec![(*answer).to_owned(); *times];
        answers.iter().flat_map(each).collect()
    }

    fn vqa2(answer: &str, annotators: &[String]) -> f64 {
        let reference = Reference {
            answer: "",
            annotators,
        };
        Metric::Vqa2.score(answer, reference)
    }

    /// The definition of the paper: the mean over all nine of the ten.
    #[test]
    fn agreement_is_the_mean_over_the_subsets_of_nine() {
        for agreeing in 0..=10 {
            let annotators = people(&[("yes", agreeing), ("no", 10 - agreeing)]);
            let mut sum = 0.0;
            for left_out in 0..10 {
                let mut nine = annotators.clone();
                nine.remove(left_out);
                let same = nine.iter().filter(|said| *said == "yes").count();
                sum += (same as f64 / 3.0).min(1.0);
            }
            let score = vqa2("yes", &annotators);
            assert!((score - sum / 10.0).abs() < 1e-12, "{agreeing}: {score}");
        }
        let known = [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0)];
        for (agreeing, expected) in known {
            let score = vqa2("yes", &people(&[("yes", agreeing), ("no", 10 - agreeing)]));
            assert!((score - expected).abs() < 1e-12, "{agreeing}: {score}");
        }
    }

    #[test]
    fn people_are_normalised_only_where_they_differ() {
        assert_eq!(
            vqa2("T-shirt", &people(&[("t-shirt", 9), ("shirt", 1)])),
            1.0
        );
        // The official code leaves an answer that all gave as it is.
        assert_eq!(vqa2("t-shirt", &people(&[("t-shirt", 10)])), 0.0);
        assert_eq!(vqa2("Two", &people(&[("2", 10)])), 1.0);
        assert_eq!(vqa2("2", &[]), 0.0);
    }

    fn score(metric: Metric, answer: &str, reference: &str) -> f64 {
        let reference = Reference {
            answer: reference,
            annotators: &[],
        };
        metric.score(answer, reference)
    }

    #[test]
    fn each_metric_forgives_what_it_should() {
        assert_eq!(score(Metric::Exact, "The two dogs.", "2 dogs"), 1.0);
        assert_eq!(score(Metric::Gqa, " Dog ", "dog"), 1.0);
        assert_eq!(score(Metric::Gqa, "the dog", "dog"), 0.0);
        assert_eq!(score(Metric::SnliVe, "Neutral", "neutral"), 1.0);
        assert_eq!(score(Metric::SnliVe, "entailment", "neutral"), 0.0);
        assert!(Metric::SnliVe.allows(" contradiction"));
        assert!(!Metric::SnliVe.allows("yes") && Metric::Exact.allows("yes"));
    }

    #[test]
    fn every_metric_is_read_as_it_is_written() {
        for (metric, _) in Metric::ALL {
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), metric);
        }
        assert!("accuracy".parse::<Metric>().is_err());
    }
}
