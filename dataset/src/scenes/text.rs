//! Captions, questions and answers.

use super::{Color, Object, Shape};

/// "a red circle, a blue square and a green cross".
pub(super) fn caption(objects: &[Object]) -> String {
    let mut caption = String::new();
    for (i, object) in objects.iter().enumerate() {
        let joint = match i {
            0 => "",
            _ if i + 1 == objects.len() => " and ",
            _ => ", ",
        };
        let (color, shape) = (object.color.name(), object.shape.name());
        caption.push_str(&format!("{joint}a {color} {shape}"));
    }
    caption
}

pub(super) fn color(object: Object) -> (String, String) {
    let question = format!("what color is the {}?", object.shape.name());
    (question, object.color.name().into())
}

pub(super) fn shape(object: Object) -> (String, String) {
    let question = format!("what shape is the {} object?", object.color.name());
    (question, object.shape.name().into())
}

pub(super) fn count(objects: usize) -> (String, String) {
    let number = ["no", "one", "two", "three"][objects];
    ("how many objects are there?".into(), number.into())
}

pub(super) fn exists(color: Color, shape: Shape, truth: bool) -> (String, String) {
    let question = format!("is there a {} {}?", color.name(), shape.name());
    (question, if truth { "yes" } else { "no" }.into())
}
