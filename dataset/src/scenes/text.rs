//! Captions, questions and answers, and statements.

use super::draw::Draw;
use super::{Color, Object, Shape};

/// What no picture of shapes tells.
const UNSEEN: [&str; 4] = ["heavy", "old", "soft", "warm"];

/// "a red circle, a blue square and a green cross".
pub(super) fn caption(objects: &[Object]) -> String {
    let mut caption = String::new();
    for (i, object) in objects.iter().enumerate() {
        let joint = match i {
            0 => "",
            _ if i + 1 == objects.len() => " and ",
            _ => ", ",
        };
        caption.push_str(&format!("{joint}a {}", self::object(*object)));
    }
    caption
}

/// "red circle".
pub(super) fn object(object: Object) -> String {
    format!("{} {}", object.color.name(), object.shape.name())
}

/// "there is a red circle".
pub(super) fn there_is(object: Object) -> String {
    format!("there is a {}", self::object(object))
}

/// "the red circle is heavy".
pub(super) fn unseen(object: Object, draw: &mut Draw) -> String {
    let quality = UNSEEN[draw.below(UNSEEN.len())];
    format!("the {} is {quality}", self::object(object))
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
