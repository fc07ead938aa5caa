//! The built-in corpus: pictures of one to three shapes, each with a caption, a question, the list of
//! its objects and a statement about it.
//!
//! A row is a pure function of (seed, index): nothing is stored, and any row can be made alone.
//! Shapes and colours are distinct within a scene, so that "the circle" and "the red object" name one
//! object. Within each question template all answers are equally likely, so that a constant answer
//! is right about once in as many times as there are answers.

mod draw;
mod render;
#[cfg(test)]
mod tests;
mod text;

use draw::Draw;

pub use render::SIZE;

/// One example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// RGB bytes, row by row, [`SIZE`] x [`SIZE`] x 3.
    pub image: Vec<u8>,
    /// The objects row by row, from left to right.
    pub caption: String,
    /// A question about the picture.
    pub question: String,
    /// Its answer.
    pub answer: String,
    /// Which kind of question it is; the groups of the evaluation.
    pub template: &'static str,
    /// The objects of the caption, one by one.
    pub objects: Vec<String>,
    /// A statement about the picture.
    pub hypothesis: String,
    /// Whether the picture entails it: `entailment`, `neutral` or `contradiction`.
    pub label: &'static str,
}

/// Row `index` of the corpus of `seed`.
pub fn row(seed: u64, index: u64) -> Row {
    let mut draw = Draw::new(seed, index);
    let template = Template::ALL[draw.below(Template::ALL.len())];
    let scene = Scene::draw(&mut draw);
    let (question, answer) = template.ask(&scene, &mut draw);
    let (hypothesis, label) = scene.state(&mut draw);
    Row {
        image: render::render(&scene),
        caption: text::caption(&scene.objects),
        question,
        answer,
        template: template.name(),
        objects: scene.objects.iter().copied().map(text::object).collect(),
        hypothesis,
        label,
    }
}

/// What a picture shows.
#[derive(Clone, Debug)]
struct Scene {
    background: [u8; 3],
    /// Row by row, from left to right.
    objects: Vec<Object>,
}

#[derive(Clone, Copy, Debug)]
struct Object {
    shape: Shape,
    color: Color,
    /// Corner of the square the object fills, pixels.
    left: usize,
    top: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Ring,
    Square,
    Bar,
    Cross,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Color {
    Red,
    Green,
    Blue,
    Yellow,
    Purple,
    Cyan,
}

impl Shape {
    const ALL: [Self; 4] = [Self::Ring, Self::Square, Self::Bar, Self::Cross];

    fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Square => "square",
            Self::Bar => "bar",
            Self::Cross => "cross",
        }
    }

    /// A shape that is not there in this one's colour, which no other object has: seeing the colour
    /// alone does not tell.
    fn another(self, draw: &mut Draw) -> Self {
        let others: Vec<Self> = Self::ALL.into_iter().filter(|s| *s != self).collect();
        others[draw.below(others.len())]
    }
}

impl Color {
    const ALL: [Self; 6] = [
        Self::Red,
        Self::Green,
        Self::Blue,
        Self::Yellow,
        Self::Purple,
        Self::Cyan,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Green => "green",
            Self::Blue => "blue",
            Self::Yellow => "yellow",
            Self::Purple => "purple",
            Self::Cyan => "cyan",
        }
    }
}

/// Side of a cell, pixels. A picture has two rows of two cells with at most one object in each:
/// objects cannot overlap, and their reading order is plain.
const CELL: usize = SIZE / 2;

/// Side of every object, pixels.
const SIDE: usize = 24;

/// Objects stand at multiples of this within their cell, pixels.
const GRID: usize = 8;

impl Scene {
    /// A scene of one to three objects.
    fn draw(draw: &mut Draw) -> Self {
        let base = 16 + draw.below(32) as u8;
        let background = [(); 3].map(|()| base + draw.below(16) as u8);
        let count = 1 + draw.below(3);
        let shapes = draw.distinct(Shape::ALL, count);
        let colors = draw.distinct(Color::ALL, count);
        let mut cells = draw.distinct([0, 1, 2, 3], count);
        cells.sort_unstable();
        let mut objects = Vec::with_capacity(count);
        for ((shape, color), cell) in shapes.into_iter().zip(colors).zip(cells) {
            let mut offset = || GRID * draw.below((CELL - SIDE) / GRID + 1);
            let (left, top) = (cell % 2 * CELL + offset(), cell / 2 * CELL + offset());
            objects.push(Object {
                shape,
                color,
                left,
                top,
            });
        }
        Self {
            background,
            objects,
        }
    }

    /// A statement about the scene and whether it follows from the picture; each label is equally
    /// likely.
    fn state(&self, draw: &mut Draw) -> (String, &'static str) {
        let object = self.objects[draw.below(self.objects.len())];
        match draw.below(3) {
            0 => (text::there_is(object), "entailment"),
            1 => {
                let shape = object.shape.another(draw);
                (text::there_is(Object { shape, ..object }), "contradiction")
            }
            _ => (text::unseen(object, draw), "neutral"),
        }
    }
}

/// The kinds of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Template {
    Color,
    Shape,
    Count,
    Exists,
}

impl Template {
    const ALL: [Self; 4] = [Self::Color, Self::Shape, Self::Count, Self::Exists];

    fn name(self) -> &'static str {
        match self {
            Self::Color => "color",
            Self::Shape => "shape",
            Self::Count => "count",
            Self::Exists => "exists",
        }
    }

    /// A question about `scene` and its answer.
    fn ask(self, scene: &Scene, draw: &mut Draw) -> (String, String) {
        let chosen = draw.below(scene.objects.len());
        let object = scene.objects[chosen];
        match self {
            Self::Color => text::color(object),
            Self::Shape => text::shape(object),
            Self::Count => text::count(scene.objects.len()),
            Self::Exists if draw.below(2) == 0 => text::exists(object.color, object.shape, true),
            Self::Exists => text::exists(object.color, object.shape.another(draw), false),
        }
    }
}
