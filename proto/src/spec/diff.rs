//! What differs between two specs, and whether a resume may change it.

use serde_json::Value;

use super::RunSpec;

/// One key whose value differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Dotted key.
    pub key: String,
    /// Value in the journal.
    pub before: String,
    /// Value asked for now.
    pub after: String,
    /// Whether a resume may change it.
    pub allowed: bool,
}

impl RunSpec {
    /// Every key in which `after` differs from `self`. Steps, epochs, cache, takeover, overlap, transport,
    /// checkpoint, membership, evaluation and Kubernetes keys may change on resume; nothing else.
    pub fn changes(&self, after: &Self) -> Vec<Change> {
        let json = |spec: &Self| serde_json::to_value(spec).unwrap_or_default();
        let mut changes = Vec::new();
        compare("", &json(self), &json(after), &mut changes);
        changes
    }
}

fn compare(path: &str, before: &Value, after: &Value, changes: &mut Vec<Change>) {
    if let (Value::Object(b), Value::Object(a)) = (before, after) {
        let mut keys: Vec<&String> = b.keys().chain(a.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            let path = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            let of =
                |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            compare(&path, &of(b), &of(a), changes);
        }
        return;
    }
    if before != after {
        changes.push(Change {
            key: path.to_owned(),
            before: before.to_string(),
            after: after.to_string(),
            allowed: may_change(path),
        });
    }
}

fn may_change(key: &str) -> bool {
    const SECTIONS: [&str; 5] = [
        "data.cache.",
        "membership.",
        "checkpoint.",
        "eval.",
        "kubernetes.",
    ];
    const KEYS: [&str; 7] = [
        "data.cache",
        "data.takeover",
        "run.steps",
        "run.epochs",
        "run.store",
        "train.overlap",
        "train.transport",
    ];
    KEYS.contains(&key) || SECTIONS.iter().any(|section| key.starts_with(section))
}
