//! Which column of a shard is the picture, and which hold its texts.

use arrow::datatypes::{DataType, Schema};
use ringmaster_proto::spec::Columns;

use crate::error::DatasetError;

/// Field of an image struct that holds the encoded picture (the form Hugging Face `datasets` and
/// pyarrow users write: struct{bytes, path}).
pub(crate) const IMAGE_BYTES: &str = "bytes";

/// The columns of one shard. At least one of `caption`, `question`, `objects` and `statement` is
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnMap {
    pub(crate) image: String,
    pub(crate) caption: Option<String>,
    /// Question and answer come together.
    pub(crate) question: Option<(String, String)>,
    pub(crate) template: Option<String>,
    pub(crate) objects: Option<String>,
    /// Hypothesis and label come together.
    pub(crate) statement: Option<(String, String)>,
}

impl ColumnMap {
    /// Finds the columns of `shard` (a URL) by the names of the run file, else by convention.
    pub(crate) fn find(
        shard: &str,
        schema: &Schema,
        asked: &Columns,
    ) -> Result<Self, DatasetError> {
        let search = Search { shard, schema };
        let wanted = |asked, names, key, kind| Wanted {
            asked,
            names,
            key,
            kind,
        };
        let image = wanted(&asked.image, &["image"], "data.columns.image", IMAGE);
        let caption = wanted(
            &asked.caption,
            &["caption", "text"],
            "data.columns.caption",
            TEXT,
        );
        let question = wanted(
            &asked.question,
            &["question"],
            "data.columns.question",
            TEXT,
        );
        let answer = wanted(&asked.answer, &["answer"], "data.columns.answer", TEXT);
        let template = wanted(
            &asked.template,
            &["template"],
            "data.columns.template",
            TEXT,
        );
        let objects = wanted(
            &asked.objects,
            &["objects"],
            "data.columns.objects",
            TEXT_LIST,
        );
        let hypothesis = wanted(
            &asked.hypothesis,
            &["hypothesis"],
            "data.columns.hypothesis",
            PERHAPS_TEXT,
        );
        let label = wanted(&asked.label, &["label"], "data.columns.label", PERHAPS_TEXT);
        let map = Self {
            image: search
                .find(&image)?
                .ok_or_else(|| search.missing("there is no column image", image.key))?,
            caption: search.find(&caption)?,
            question: search.pair(&question, &answer)?,
            template: search.find(&template)?,
            objects: search.find(&objects)?,
            statement: search.pair(&hypothesis, &label)?,
        };
        let texts = [map.caption.is_some(), map.question.is_some()];
        if texts.contains(&true) || map.objects.is_some() || map.statement.is_some() {
            return Ok(map);
        }
        let what = "there is no column caption or text, nor question with answer, nor objects, nor \
                    hypothesis with label";
        Err(search.missing(what, caption.key))
    }
}

/// What a column must hold.
struct Kind {
    name: &'static str,
    fits: fn(&DataType) -> bool,
    /// Whether a column found by convention is refused if it holds something else, which is far
    /// likelier a mistake than a coincidence. Only for names that are common for other things, as
    /// `objects` is for boxes and `label` for class numbers, it is passed over.
    strict: bool,
}

const IMAGE: Kind = Kind {
    name: "binary",
    fits: is_image,
    strict: true,
};

const TEXT: Kind = Kind {
    name: "text",
    fits: is_text,
    strict: true,
};

const PERHAPS_TEXT: Kind = Kind {
    strict: false,
    ..TEXT
};

const TEXT_LIST: Kind = Kind {
    name: "a list of texts",
    fits: is_text_list,
    strict: false,
};

/// A column to look for.
struct Wanted<'a> {
    /// Its name in the run file.
    asked: &'a Option<String>,
    /// Its names by convention.
    names: &'static [&'static str],
    /// Where the run file names it.
    key: &'static str,
    kind: Kind,
}

struct Search<'a> {
    shard: &'a str,
    schema: &'a Schema,
}

impl Search<'_> {
    /// A named column must be there and of the right kind.
    fn find(&self, wanted: &Wanted) -> Result<Option<String>, DatasetError> {
        let Wanted {
            asked, names, key, ..
        } = wanted;
        let field = match asked {
            Some(name) => {
                let missing = || self.missing(&format!("there is no column {name}"), key);
                Some(self.schema.field_with_name(name).map_err(|_| missing())?)
            }
            None => {
                let mut names = names.iter();
                names.find_map(|name| self.schema.field_with_name(name).ok())
            }
        };
        match field {
            Some(field) if !(wanted.kind.fits)(field.data_type()) => {
                if asked.is_none() && !wanted.kind.strict {
                    return Ok(None);
                }
                let what = format!(
                    "column {} is {}, not {}",
                    field.name(),
                    field.data_type(),
                    wanted.kind.name
                );
                Err(self.missing(&what, key))
            }
            field => Ok(field.map(|field| field.name().clone())),
        }
    }

    /// Two columns that mean nothing without each other: one that is named needs the other.
    fn pair(&self, a: &Wanted, b: &Wanted) -> Result<Option<(String, String)>, DatasetError> {
        match (self.find(a)?, self.find(b)?) {
            (Some(a), Some(b)) => Ok(Some((a, b))),
            (Some(_), None) if a.asked.is_some() => Err(self.no_partner(b)),
            (None, Some(_)) if b.asked.is_some() => Err(self.no_partner(a)),
            _ => Ok(None),
        }
    }

    fn no_partner(&self, wanted: &Wanted) -> DatasetError {
        let name = wanted.names.first().copied().unwrap_or_default();
        self.missing(&format!("there is no {name} column"), wanted.key)
    }

    fn missing(&self, what: &str, key: &'static str) -> DatasetError {
        let fields = self.schema.fields().iter();
        let found: Vec<String> = fields
            .map(|field| format!("{} ({})", field.name(), field.data_type()))
            .collect();
        DatasetError::Columns {
            shard: self.shard.to_owned(),
            what: what.to_owned(),
            found: if found.is_empty() {
                "none".to_owned()
            } else {
                found.join(", ")
            },
            key,
        }
    }
}

fn is_binary(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView
    )
}

fn is_image(kind: &DataType) -> bool {
    match kind {
        DataType::Struct(fields) => fields
            .iter()
            .any(|field| field.name() == IMAGE_BYTES && is_binary(field.data_type())),
        kind => is_binary(kind),
    }
}

fn is_text(kind: &DataType) -> bool {
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

fn is_text_list(kind: &DataType) -> bool {
    match kind {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => is_text(item.data_type()),
        _ => false,
    }
}
