//! Activation checkpointing (Chen et al. 2016): a forward pass in segments that keep only their
//! inputs, and a backward pass that computes each of them again, last to first.

use std::cell::RefCell;

use burn::tensor::{Gradients, Tensor};

type Block = Box<dyn Fn(&[Tensor<3>]) -> Tensor<3>>;

/// The segments of one forward pass, in order.
#[derive(Default)]
pub(crate) struct Tape {
    segments: RefCell<Vec<Segment>>,
}

struct Segment {
    inputs: Vec<Tensor<3>>,
    /// A leaf: later segments see it as if it came from nowhere.
    output: Tensor<3>,
    again: Block,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tape({} segments)", self.segments.borrow().len())
    }
}

impl Tape {
    pub(crate) fn record(
        &self,
        inputs: Vec<Tensor<3>>,
        output: Tensor<3>,
        again: impl Fn(&[Tensor<3>]) -> Tensor<3> + 'static,
    ) {
        self.segments.borrow_mut().push(Segment {
            inputs,
            output,
            again: Box::new(again),
        });
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
            let output = (segment.again)(&segment.inputs);
            gradients = (output * Tensor::from_inner(gradient)).sum().backward();
        }
    }
}
