//! Parameters and gradients as one flat buffer of f32.
//!
//! burn's parameter ids are random per process; the order of declaration and the dotted path are
//! not. They are the only names that workers and checkpoints share.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};

/// Where one parameter lies in the flat buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Dotted path of fields and list positions; unique.
    pub path: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// First element in the buffer.
    pub offset: usize,
    /// Number of elements.
    pub len: usize,
    /// Whether weight decay applies: to matrices and the token table; not to norms, gates, latents,
    /// positions, combination weights and biases.
    pub decay: bool,
}

/// Every parameter in order of declaration, end to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// One slot per parameter.
    pub slots: Vec<Slot>,
    /// Elements in all.
    pub total: usize,
}

/// The layout of a model: the same for equal specs, on every machine.
pub fn layout(model: &impl Module) -> Layout {
    let mut collect = Collect {
        path: Vec::new(),
        layout: Layout {
            slots: Vec::new(),
            total: 0,
        },
    };
    model.visit(&mut collect);
    collect.layout
}

/// Moves every gradient into its slot of `flat`, which has `layout.total` elements; a parameter
/// without a gradient gets zeros.
pub fn gradients_into(
    model: &impl Module,
    mut gradients: Gradients,
    layout: &Layout,
    flat: &mut [f32],
) {
    flat.fill(0.0);
    add_gradients(model, &mut gradients, layout, flat);
}

/// Adds every gradient that is there to its slot of `flat`, which has `layout.total` elements.
/// Returns the numbers of those slots, ascending.
pub fn add_gradients(
    model: &impl Module,
    gradients: &mut Gradients,
    layout: &Layout,
    flat: &mut [f32],
) -> Vec<usize> {
    assert_fits(layout, flat);
    let mut add = Add {
        gradients,
        rest: flat,
        slot: 0,
        added: Vec::new(),
    };
    model.visit(&mut add);
    add.added
}

/// Every value, flat.
pub fn parameters(model: &impl Module, layout: &Layout) -> Vec<f32> {
    let mut read = Read {
        values: Vec::with_capacity(layout.total),
    };
    model.visit(&mut read);
    read.values
}

/// The model with every value taken from `flat`, which has `layout.total` elements.
pub fn with_parameters<M: Module>(model: M, layout: &Layout, flat: &[f32]) -> M {
    assert_fits(layout, flat);
    model.map(&mut Write { rest: flat })
}

struct Collect {
    path: Vec<String>,
    layout: Layout,
}

impl ModuleVisitor for Collect {
    fn enter_module(&mut self, name: &str, kind: &str) {
        if !is_choice(kind) {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _name: &str, kind: &str) {
        if !is_choice(kind) {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let shape = parameter.lazy_shape().to_vec();
        let len = shape.iter().product();
        let leaf = self.path.last().map_or("", String::as_str);
        let decay = matches!(leaf, "weight" | "table");
        let (path, offset) = (self.path.join("."), self.layout.total);
        self.layout.slots.push(Slot {
            path,
            shape,
            offset,
            len,
            decay,
        });
        self.layout.total += len;
    }
}

fn assert_fits(layout: &Layout, flat: &[f32]) {
    assert_eq!(
        flat.len(),
        layout.total,
        "the buffer is as long as the layout"
    );
}

/// Whether a module is one of an enum's variants, which have no place in a path.
fn is_choice(kind: &str) -> bool {
    kind.starts_with("Enum:")
}

struct Add<'a> {
    gradients: &'a mut Gradients,
    rest: &'a mut [f32],
    /// Number of the next slot.
    slot: usize,
    added: Vec<usize>,
}

impl ModuleVisitor for Add<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let len = parameter.lazy_shape().iter().product();
        let (slot, rest) = std::mem::take(&mut self.rest).split_at_mut(len);
        if let Some(gradient) = parameter.val().grad_remove(self.gradients) {
            for (sum, g) in slot.iter_mut().zip(floats(&gradient.into_data())) {
                *sum += g;
            }
            self.added.push(self.slot);
        }
        self.slot += 1;
        self.rest = rest;
    }
}

struct Read {
    values: Vec<f32>,
}

impl ModuleVisitor for Read {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        self.values
            .extend_from_slice(floats(&parameter.val().into_data()));
    }
}

struct Write<'a> {
    rest: &'a [f32],
}

impl ModuleMapper for Write<'_> {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (shape, device) = (parameter.lazy_shape().to_vec(), parameter.lazy_device());
        let (values, rest) = self.rest.split_at(shape.iter().product());
        self.rest = rest;
        let (id, _, mapper) = parameter.consume();
        let value = Tensor::from_data(TensorData::new(values.to_vec(), shape), &device);
        let value = if device.is_autodiff() {
            value.require_grad()
        } else {
            value
        };
        Param::from_mapped_value(id, value, mapper)
    }
}

/// The values of a tensor of this crate: all of them are f32.
fn floats(data: &TensorData) -> &[f32] {
    match data.as_slice() {
        Ok(values) => values,
        Err(error) => panic!("parameters and gradients are f32: {error:?}"),
    }
}
