//! A whole data set asked and scored.

use std::collections::BTreeMap;
use std::time::Instant;

use ringmaster_dataset::{Question, QuestionBatch, Questions};
use serde::Serialize;

use super::bench::{Bench, Inquiry, Verdict};
use super::metrics::{Metric, Reference};
use crate::WorkerError;

/// What a model came to on a data set; its field names are a contract.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// How answers were scored.
    pub metric: String,
    /// Mean over the questions, in [0, 1].
    pub score: f64,
    /// Questions asked.
    pub rows: u64,
    /// Rows left out because their content is unusable.
    pub bad_rows: u64,
    /// Answers that are none of those the metric knows; they count as wrong.
    pub unknown_answers: u64,
    /// Questions answered per second, pictures and texts included, the model's loading not.
    pub examples_per_second: f64,
    /// By kind of question, where the data set names kinds.
    pub templates: Vec<TemplateScore>,
}

/// The questions of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TemplateScore {
    /// The kind.
    pub template: String,
    /// Questions of it.
    pub rows: u64,
    /// Mean over them, in [0, 1].
    pub score: f64,
}

/// Asks `bench` all `questions`. `visit` sees each with its verdict, in order.
pub async fn score(
    bench: &Bench,
    questions: &mut Questions,
    metric: Metric,
    mut visit: impl FnMut(Question, Verdict),
) -> Result<Scores, WorkerError> {
    let start = Instant::now();
    let mut tally = Tally::default();
    while let Some(batch) = questions.next().await {
        let QuestionBatch { questions, bad } = batch?;
        tally.bad += bad;
        let inquiries: Result<Vec<Inquiry>, WorkerError> = questions
            .iter()
            .map(|question| inquiry(question, metric))
            .collect();
        let inquiries = inquiries?;
        if inquiries.is_empty() {
            continue;
        }
        let verdicts = bench.verdicts(metric, &inquiries);
        for (question, verdict) in questions.into_iter().zip(verdicts) {
            tally.add(question.template.as_deref(), &verdict, metric);
            visit(question, verdict);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    tally.scores(metric, seconds).ok_or_else(|| {
        WorkerError::Evaluation("no row asks what is scored; check --metric and the data".into())
    })
}

fn inquiry(question: &Question, metric: Metric) -> Result<Inquiry<'_>, WorkerError> {
    if metric == Metric::Vqa2 && question.annotators.is_empty() {
        return Err(WorkerError::Evaluation(format!(
            "question {} lacks the answers of single people, which the metric vqa2 is made of; use \
             --metric exact, or the data set's own files",
            question.id
        )));
    }
    Ok(Inquiry {
        image: &question.image,
        text: &question.text,
        reference: Reference {
            answer: &question.answer,
            annotators: &question.annotators,
        },
    })
}

/// Sums over questions.
#[derive(Debug, Default)]
struct Tally {
    all: Sum,
    templates: BTreeMap<String, Sum>,
    bad: u64,
    unknown: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    rows: u64,
    score: f64,
}

impl Sum {
    fn add(&mut self, score: f64) {
        self.rows += 1;
        self.score += score;
    }

    fn mean(self) -> f64 {
        self.score / self.rows as f64
    }
}

impl Tally {
    fn add(&mut self, template: Option<&str>, verdict: &Verdict, metric: Metric) {
        self.all.add(verdict.score);
        self.unknown += u64::from(!metric.allows(&verdict.answer));
        if let Some(template) = template {
            let sum = self.templates.entry(template.to_owned()).or_default();
            sum.add(verdict.score);
        }
    }

    /// `None` where nothing was asked.
    fn scores(self, metric: Metric, seconds: f64) -> Option<Scores> {
        let of = |(template, sum): (String, Sum)| TemplateScore {
            template,
            rows: sum.rows,
            score: sum.mean(),
        };
        (self.all.rows > 0).then(|| Scores {
            metric: metric.to_string(),
            score: self.all.mean(),
            rows: self.all.rows,
            bad_rows: self.bad,
            unknown_answers: self.unknown,
            examples_per_second: self.all.rows as f64 / seconds,
            templates: self.templates.into_iter().map(of).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_question_counts_once_in_all_and_once_in_its_kind() {
        let mut tally = Tally::default();
        let mut add = |template, answer: &str, score| {
            let answer = answer.to_owned();
            tally.add(template, &Verdict { answer, score }, Metric::SnliVe);
        };
        add(Some("b"), "neutral", 1.0);
        add(Some("a"), "maybe", 0.0);
        add(None, "entailment", 1.0);
        add(Some("b"), "entailment", 0.0);
        let scores = tally.scores(Metric::SnliVe, 2.0).unwrap();
        assert_eq!((scores.rows, scores.score), (4, 0.5));
        assert_eq!(scores.examples_per_second, 2.0);
        assert_eq!(scores.unknown_answers, 1);
        let of = |template: &str, rows, score| TemplateScore {
            template: template.into(),
            rows,
            score,
        };
        assert_eq!(scores.templates, [of("a", 1, 0.0), of("b", 2, 0.5)]);
        assert_eq!(Tally::default().scores(Metric::Exact, 1.0), None);
    }

    #[test]
    fn the_metric_of_ten_answers_refuses_a_question_without_them() {
        let question = Question {
            id: "42".into(),
            ..Question::default()
        };
        let error = inquiry(&question, Metric::Vqa2).unwrap_err().to_string();
        assert!(
            error.contains("question 42") && error.contains("--metric exact"),
            "{error}"
        );
        assert!(inquiry(&question, Metric::Exact).is_ok());
    }
}
