//! How likely each objective is drawn: by weight, or following how hard it still is.
//!
//! Pure, and part of the training state: each step's reduced losses go in, and every `update_every`
//! steps new probabilities come out, so they are the same on all ranks and after any resume. The
//! arithmetic is plain f64 and a software `pow`, equal on every machine.

use ringmaster_proto::spec::{Sampling as Choice, TaskSpec};

use crate::objective::Objective;

/// How many objectives there are.
const K: usize = Objective::COUNT;

/// Decay of the moving average of a loss, per step in which its objective occurred.
const DECAY: f64 = 0.99;

/// What is known of one objective. Losses are nats per target token, over the global batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Record {
    /// Steps in which it occurred.
    pub seen: u64,
    /// Sum of the losses of the first of those steps; their mean is the reference.
    pub reference_sum: f64,
    /// Moving average of the loss.
    pub loss: f64,
    /// `loss` when the probabilities were computed last, or at first.
    pub loss_before: f64,
    /// Of being drawn for rows that support every objective of the mix.
    pub probability: f64,
}

impl Record {
    /// Names of the words of [`Self::words`].
    pub(crate) const WORDS: [&str; 5] = [
        "seen",
        "reference_sum",
        "loss",
        "loss_before",
        "probability",
    ];

    /// As words that lose no bit.
    pub(crate) fn words(&self) -> [u64; 5] {
        let bits = f64::to_bits;
        [
            self.seen,
            bits(self.reference_sum),
            bits(self.loss),
            bits(self.loss_before),
            bits(self.probability),
        ]
    }

    /// Back from words.
    pub(crate) fn from_words([seen, sum, loss, before, probability]: [u64; 5]) -> Self {
        let value = f64::from_bits;
        Self {
            seen,
            reference_sum: value(sum),
            loss: value(loss),
            loss_before: value(before),
            probability: value(probability),
        }
    }

    fn observe(&mut self, loss: f64, reference_batches: u64) {
        if self.seen == 0 {
            (self.loss, self.loss_before) = (loss, loss);
        } else {
            self.loss = DECAY * self.loss + (1.0 - DECAY) * loss;
        }
        if self.seen < reference_batches {
            self.reference_sum += loss;
        }
        self.seen += 1;
    }
}

/// Everything that is known of the objectives, in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// One for each objective.
    pub records: [Record; K],
}

/// The rule by which probabilities follow losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rule {
    choice: Choice,
    weights: [f64; K],
    gamma: f64,
    floor: f64,
    reference_batches: u64,
    update_every: u64,
}

impl Rule {
    /// The rule of a run of `total_steps`, to which the lengths it does not give are relative: 2 %
    /// for the reference, 1 % between updates.
    pub(crate) fn new(tasks: &TaskSpec, total_steps: u64) -> Self {
        let or = |given: u64, share: u64| match given {
            0 => (total_steps / share).max(1),
            given => given,
        };
        Self {
            choice: tasks.sampling,
            weights: Objective::ALL.map(|objective| objective.weight(tasks)),
            gamma: tasks.gamma,
            floor: tasks.floor,
            reference_batches: or(tasks.reference_batches, 50),
            update_every: or(tasks.update_every, 100),
        }
    }

    /// ```text
    /// p_k = (1 - floor) w_k d_k^gamma / sum_j w_j d_j^gamma + floor / K
    /// ```
    /// over the K objectives of weight above 0; without the floor for the rules that watch no loss.
    fn probabilities(&self, records: &[Record; K]) -> [f64; K] {
        let active = self.weights.map(|weight| f64::from(weight > 0.0));
        let (weights, floor) = match self.choice {
            Choice::Uniform => (active, 0.0),
            Choice::Proportional => (self.weights, 0.0),
            Choice::Difficulty | Choice::Progress => (self.weights, self.floor),
        };
        let scores = std::array::from_fn(|k| {
            if weights[k] > 0.0 {
                weights[k] * power(self.distance(&records[k]), self.gamma)
            } else {
                0.0
            }
        });
        let usable = |scores: &[f64; K]| {
            let sum: f64 = scores.iter().sum();
            sum > 0.0 && sum.is_finite()
        };
        let scores = if usable(&scores) { scores } else { weights };
        let sum: f64 = scores.iter().sum();
        let even = floor / active.iter().sum::<f64>();
        std::array::from_fn(|k| (1.0 - floor) * scores[k] / sum + even * active[k])
    }

    /// d: how far an objective still has to go, or how fast it is going; 1 until its reference is
    /// there.
    fn distance(&self, record: &Record) -> f64 {
        let reference = record.reference_sum / self.reference_batches as f64;
        if record.seen < self.reference_batches || reference <= 0.0 {
            return 1.0;
        }
        match self.choice {
            Choice::Uniform | Choice::Proportional => 1.0,
            Choice::Difficulty => record.loss / reference,
            Choice::Progress => ((record.loss_before - record.loss) / reference).max(0.0),
        }
    }
}

/// `d^gamma` with the same bits everywhere, which the platform's `pow` does not promise.
fn power(d: f64, gamma: f64) -> f64 {
    if gamma == 1.0 { d } else { libm::pow(d, gamma) }
}

impl Sampling {
    /// Before the first step.
    pub(crate) fn initial(rule: &Rule) -> Self {
        let mut sampling = Self::default();
        sampling.update(rule);
        sampling
    }

    /// Of each objective, for the next draw.
    pub(crate) fn probabilities(&self) -> [f64; K] {
        self.records.map(|record| record.probability)
    }

    /// Takes in the losses of the objectives that occurred in a step, of which `steps` have now been
    /// consumed.
    pub(crate) fn after_step(&mut self, steps: u64, losses: [Option<f64>; K], rule: &Rule) {
        for (record, loss) in self.records.iter_mut().zip(losses) {
            if let Some(loss) = loss {
                record.observe(loss, rule.reference_batches);
            }
        }
        if steps.is_multiple_of(rule.update_every) {
            self.update(rule);
        }
    }

    fn update(&mut self, rule: &Rule) {
        let probabilities = rule.probabilities(&self.records);
        for (record, probability) in self.records.iter_mut().zip(probabilities) {
            record.probability = probability;
            record.loss_before = record.loss;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CAPTION: usize = Objective::Captioning as usize;
    const ANSWER: usize = Objective::QuestionAnswering as usize;

    /// Captions of weight 1 and answers of weight 3; a reference of two batches, an update every
    /// two steps.
    fn rule(more: &[&str]) -> Rule {
        let given = [
            "tasks.captioning=1",
            "tasks.question_answering=3",
            "tasks.reference_batches=2",
            "tasks.update_every=2",
        ];
        let sets: Vec<String> = given.iter().chain(more).map(|set| (*set).into()).collect();
        let spec = ringmaster_proto::RunSpec::parse("", &sets).unwrap();
        Rule::new(&spec.tasks, 1000)
    }

    /// Probability of captions before the first step and after each of the steps with these losses
    /// of captions and answers; the two probabilities always add up to 1.
    fn shares(rule: &Rule, steps: &[(Option<f64>, Option<f64>)]) -> Vec<f64> {
        let mut sampling = Sampling::initial(rule);
        let mut shares = Vec::new();
        for step in 0..=steps.len() {
            if step > 0 {
                let mut losses = [None; K];
                (losses[CAPTION], losses[ANSWER]) = steps[step - 1];
                sampling.after_step(step as u64, losses, rule);
            }
            let p = sampling.probabilities();
            assert!((p[CAPTION] + p[ANSWER] - 1.0).abs() < 1e-15, "{p:?}");
            assert_eq!(p.iter().filter(|p| **p > 0.0).count(), 2);
            shares.push(p[CAPTION]);
        }
        shares
    }

    /// Captions come to 4 and 2 and 1, answers to 2 and 1. By hand: after two steps captions have a
    /// reference of (4 + 2) / 2 = 3 and an average of 0.99 * 4 + 0.01 * 2 = 3.98, answers have no
    /// reference; after four captions are at 0.99 * 3.98 + 0.01 * 1 = 3.9502, answers at
    /// 0.99 * 2 + 0.01 * 1 = 1.99 with a reference of 1.5.
    const STEPS: [(Option<f64>, Option<f64>); 5] = [
        (Some(4.0), Some(2.0)),
        (Some(2.0), None),
        (None, Some(1.0)),
        (Some(1.0), None),
        (Some(9.0), Some(9.0)),
    ];

    fn assert_shares(more: &[&str], expected: [f64; 3]) {
        let [first, second, third] = expected;
        let expected = [first, first, second, second, third, third];
        for (found, expected) in shares(&rule(more), &STEPS).into_iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{more:?}: {found} {expected}"
            );
        }
    }

    #[test]
    fn difficulty_follows_the_hand_computed_sequence() {
        let share = |captions: f64, answers: f64| 0.9 * captions / (captions + answers) + 0.05;
        let ds = (3.98 / 3.0, 3.9502 / 3.0, 1.99 / 1.5);
        assert_shares(
            &["tasks.sampling=difficulty"],
            [share(1.0, 3.0), share(ds.0, 3.0), share(ds.1, 3.0 * ds.2)],
        );
        let square = |d: f64| d * d;
        assert_shares(
            &["tasks.sampling=difficulty", "tasks.gamma=2"],
            [
                share(1.0, 3.0),
                share(square(ds.0), 3.0),
                share(square(ds.1), 3.0 * square(ds.2)),
            ],
        );
        assert_shares(
            &["tasks.sampling=difficulty", "tasks.floor=1"],
            [0.5, 0.5, 0.5],
        );
    }

    #[test]
    fn progress_follows_the_hand_computed_sequence() {
        let share = |captions: f64, answers: f64| 0.9 * captions / (captions + answers) + 0.05;
        let captions = (0.02 / 3.0, 0.0298 / 3.0);
        assert_shares(
            &["tasks.sampling=progress"],
            [
                share(1.0, 3.0),
                share(captions.0, 3.0),
                share(captions.1, 3.0 * 0.01 / 1.5),
            ],
        );
        // Losses that only rise: nothing tells the objectives apart but their weights.
        let rising = [
            (Some(1.0), Some(1.0)),
            (Some(2.0), Some(2.0)),
            (Some(3.0), Some(3.0)),
        ];
        let shares = shares(
            &rule(&["tasks.sampling=progress", "tasks.update_every=1"]),
            &rising,
        );
        assert!((shares[3] - share(1.0, 3.0)).abs() < 1e-12, "{shares:?}");
    }

    #[test]
    fn weights_alone_decide_where_no_loss_is_watched() {
        assert_shares(&["tasks.sampling=proportional"], [0.25; 3]);
        assert_shares(&["tasks.sampling=uniform"], [0.5; 3]);
    }

    #[test]
    fn scores_beyond_all_numbers_fall_back_to_the_weights() {
        let rule = rule(&["tasks.sampling=difficulty", "tasks.gamma=1e300"]);
        let share = 0.9 * 0.25 + 0.05;
        let shares = shares(&rule, &STEPS);
        assert!(
            shares.iter().all(|found| (found - share).abs() < 1e-12),
            "{shares:?}"
        );
    }

    #[test]
    fn lengths_that_are_not_given_follow_the_run() {
        let spec = ringmaster_proto::RunSpec::parse("", &[]).unwrap();
        let lengths = |total| {
            let rule = Rule::new(&spec.tasks, total);
            (rule.reference_batches, rule.update_every)
        };
        assert_eq!(lengths(300_000), (6000, 3000));
        assert_eq!(lengths(30), (1, 1));
    }
}
