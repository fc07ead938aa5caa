//! Which column of a shard is the picture, the caption, the question and the answer.

use arrow::datatypes::{DataType, Schema};
use ringmaster_proto::spec::Columns;

use crate::error::DatasetError;

/// Field of an image struct that holds the encoded picture (the form Hugging Face `datasets` and
/// pyarrow users write: struct{bytes, path}).
pub(crate) const IMAGE_BYTES: &str = "bytes";

/// The columns of one shard. At least one of `caption` and `question` is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ColumnMap {
    pub(crate) image: String,
    pub(crate) caption: Option<String>,
    /// Question and answer come together.
    pub(crate) question: Option<(String, String)>,
    pub(crate) template: Option<String>,
}

impl ColumnMap {
    /// Finds the columns of `shard` (a URL) by the names of the run file, else by convention.
    pub(crate) fn find(
        shard: &str,
        schema: &Schema,
        asked: &Columns,
    ) -> Result<Self, DatasetError> {
        let search = Search { shard, schema };
        let text = |name: &Option<String>, conventions: &[&str], key| {
            search.find(name, conventions, key, is_text, "text")
        };
        let image = search
            .find(
                &asked.image,
                &["image"],
                "data.columns.image",
                is_image,
                "binary",
            )?
            .ok_or_else(|| search.missing("there is no column image", "data.columns.image"))?;
        let caption = text(&asked.caption, &["caption", "text"], "data.columns.caption")?;
        let question = text(&asked.question, &["question"], "data.columns.question")?;
        let answer = text(&asked.answer, &["answer"], "data.columns.answer")?;
        let template = text(&asked.template, &["template"], "data.columns.template")?;
        let question = match (question, answer) {
            (Some(question), Some(answer)) => Some((question, answer)),
            (Some(_), None) if asked.question.is_some() => {
                return Err(search.missing("there is no answer column", "data.columns.answer"));
            }
            (None, Some(_)) if asked.answer.is_some() => {
                return Err(search.missing("there is no question column", "data.columns.question"));
            }
            _ => None,
        };
        if caption.is_none() && question.is_none() {
            let what = "there is no column caption or text, nor question with answer";
            return Err(search.missing(what, "data.columns.caption"));
        }
        Ok(Self {
            image,
            caption,
            question,
            template,
        })
    }
}

struct Search<'a> {
    shard: &'a str,
    schema: &'a Schema,
}

impl Search<'_> {
    /// A named column must be there and of the right type; by convention, a column of another type
    /// is refused too, because it is far likelier a mistake than a coincidence.
    fn find(
        &self,
        asked: &Option<String>,
        conventions: &[&str],
        key: &'static str,
        fits: fn(&DataType) -> bool,
        kind: &str,
    ) -> Result<Option<String>, DatasetError> {
        let field = match asked {
            Some(name) => {
                let missing = || self.missing(&format!("there is no column {name}"), key);
                Some(self.schema.field_with_name(name).map_err(|_| missing())?)
            }
            None => {
                let mut names = conventions.iter();
                names.find_map(|name| self.schema.field_with_name(name).ok())
            }
        };
        match field {
            Some(field) if !fits(field.data_type()) => {
                let what = format!(
                    "column {} is {}, not {kind}",
                    field.name(),
                    field.data_type()
                );
                Err(self.missing(&what, key))
            }
            field => Ok(field.map(|field| field.name().clone())),
        }
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
