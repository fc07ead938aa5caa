//! The page of `corpus inspect --html`: pictures with their captions on one sheet, and no script.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringmaster_dataset::{SeenRow, thumbnail};

/// Side of a picture, pixels.
pub(super) const PICTURE_SIDE: u32 = 160;

/// Characters of a text that are shown.
const TEXT_MAX: usize = 200;

const STYLE: &str = "
:root { color-scheme: light dark; }
body { font: 14px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
figure { margin: 0; overflow-wrap: anywhere; }
img { display: block; width: 100%; aspect-ratio: 1; }
.refused { border-top: 4px solid #cf222e; }
.small { color: #888; font-size: .8rem; }
";

/// The page of `seen` rows of the corpus at `url`.
pub(super) fn render(url: &str, seen: &[SeenRow]) -> String {
    let mut figures = String::new();
    for row in seen {
        let size = row
            .picture_size
            .map(|(width, height)| format!("{width} x {height}, "));
        let place = format!(
            "row {} of row group {} of {}",
            row.row, row.row_group, row.shard
        );
        let note = format!("{}{place}", size.unwrap_or_default());
        // Writing to a string cannot fail.
        let _written = match &row.decoded {
            Ok(example) => {
                let picture = thumbnail(&example.image, PICTURE_SIDE).unwrap_or_default();
                let picture = STANDARD.encode(picture);
                let text = example.caption.as_deref().or(example.question.as_deref());
                writeln!(
                    figures,
                    "<figure><img alt=\"\" src=\"data:image/png;base64,{picture}\">{}\
                     <p class=\"small\">{}</p></figure>",
                    shown(text.unwrap_or_default()),
                    shown(&note)
                )
            }
            Err(reason) => writeln!(
                figures,
                "<figure class=\"refused\">{}<p class=\"small\">{}</p></figure>",
                shown(reason),
                shown(&note)
            ),
        };
    }
    let title = shown(url);
    format!(
        "<!doctype html><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>\
         <h1>{title}</h1><main>\n{figures}</main>\n"
    )
}

/// Text as HTML, cut where nobody reads on.
fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.chars().enumerate() {
        match c {
            _ if at == TEXT_MAX => {
                out.push('…');
                break;
            }
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_caption_says_is_text_and_never_markup() {
        let row = SeenRow {
            shard: "<script>".to_owned(),
            row_group: 0,
            row: 0,
            picture_bytes: 0,
            picture_size: None,
            decoded: Err("\"&'<b>".to_owned()),
        };
        let page = render("</title><script>", &[row]);
        assert!(
            !page.contains("<script>") && !page.contains("<b>"),
            "{page}"
        );
        assert!(page.contains("&quot;&amp;'&lt;b&gt;"), "{page}");
    }
}
