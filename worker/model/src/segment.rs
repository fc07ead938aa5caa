//! A forward pass in segments, and a backward pass that takes them last to first: gradients come piece
//! by piece. A segment keeps its graph, or only its inputs and is computed again: activation
//! checkpointing (Chen et al. 2016).

use std::cell::RefCell;

use burn::tensor::{Gradients, Tensor};

/// The segments of one forward pass, in order.
pub(crate) struct Tape {
    keeps: Keeps,
    segments: RefCell<Vec<Segment>>,
}

/// What the backward pass finds of every segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// Everything that was computed.
    Graph,
    /// What it was computed from.
    Inputs,
}

struct Segment {
    /// A leaf: later segments see it as if it came from nowhere.
    output: Tensor<3>,
    /// The same with the graph it comes from, kept or computed again.
    attached: Box<dyn FnOnce() -> Tensor<3>>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} segments)", self.segments.borrow().len())
    }
}

impl Tape {
    pub(crate) fn new(keeps: Keeps) -> Self {
        Self {
            keeps,
            segments: RefCell::default(),
        }
    }

    /// Takes the segment that has computed `attached`; returns its output for later segments.
    pub(crate) fn record(
        &self,
        inputs: Vec<Tensor<3>>,
        attached: Tensor<3>,
        again: impl Fn(&[Tensor<3>]) -> Tensor<3> + 'static,
    ) -> Tensor<3> {
        let output = attached.clone().detach().require_grad();
        let attached: Box<dyn FnOnce() -> Tensor<3>> = match self.keeps {
            Keeps::Graph => Box::new(move || attached),
            Keeps::Inputs => Box::new(move || again(&inputs)),
        };
        self.segments.borrow_mut().push(Segment {
            output: output.clone(),
            attached,
        });
        output
    }

    /// The backward pass of a loss that was computed over the outputs of these segments. `collect`
    /// gets the gradients of the loss and of every segment in turn; a parameter that several of
    /// them use is in each, and its gradient is their sum.
    pub(crate) fn backward(self, loss: &Tensor<1>, mut collect: impl FnMut(&mut Gradients)) {
        let mut segments = self.segments.into_inner();
        let mut due: Vec<Option<Tensor<3>>> = vec![None; segments.len()];
        let mut gradients = loss.backward();
        loop {
            for (segment, due) in segments.iter().zip(&mut due) {
                if let Some(gradient) = segment.output.grad_remove(&mut gradients) {
                    *due = Some(match due.take() {
                        Some(sum) => sum + gradient,
                        None => gradient,
                    });
                }
            }
            collect(&mut gradients);
            let (segment, gradient) = loop {
                match (segments.pop(), due.pop()) {
                    (Some(segment), Some(Some(gradient))) => break (segment, gradient),
                    // Nothing depends on it.
                    (Some(_), _) => {}
                    (None, _) => return,
                }
            };
            let output = (segment.attached)();
            gradients = (output * Tensor::from_inner(gradient)).sum().backward();
        }
    }
}
