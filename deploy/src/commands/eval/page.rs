//! The page of `eval --html`: one file with pictures, questions and answers, and no script.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ringmaster_dataset::Question;
use ringmaster_worker::Verdict;

use super::{Report, percent};

/// Rows that are shown: as many as a person looks at, and a page that loads at once.
const ROWS_MAX: usize = 200;

/// Side of a picture at most, pixels.
const PICTURE_SIDE: u32 = 192;

/// Characters of a text that are shown.
const TEXT_MAX: usize = 300;

/// Filters by the radio buttons above, in plain CSS.
const STYLE: &str = "
:root { color-scheme: light dark; --right: #1a7f37; --part: #9a6700; --wrong: #cf222e; }
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin: 0 0 .5rem; }
.score { font-size: 2rem; font-weight: 600; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .15rem .9rem .15rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
label { margin: 0 1rem 0 .2rem; }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr));
  margin-top: 1rem; }
article { border: 1px solid #8886; border-top: 4px solid; border-radius: 6px; padding: .7rem;
  overflow-wrap: anywhere; }
article.right { border-top-color: var(--right); }
article.part { border-top-color: var(--part); }
article.wrong { border-top-color: var(--wrong); }
article img { display: block; width: 100%; max-width: 12rem; image-rendering: auto; }
article p { margin: .4rem 0 0; }
.question { font-weight: 600; }
.right .answer { color: var(--right); }
.part .answer { color: var(--part); }
.wrong .answer { color: var(--wrong); }
.small { color: #888; font-size: .85rem; }
#only-right:checked ~ main article:not(.right),
#only-part:checked ~ main article:not(.part),
#only-wrong:checked ~ main article:not(.wrong) { display: none; }
";

/// The rows to show, gathered while they are asked.
#[derive(Debug, Default)]
pub(super) struct Page {
    articles: String,
    /// Rows wholly right, partly right, and wrong.
    shown: [usize; 3],
}

impl Page {
    /// Takes in one question; those after the first few hundred are left out.
    pub(super) fn add(&mut self, question: &Question, verdict: &Verdict) {
        if self.shown.iter().sum::<usize>() == ROWS_MAX {
            return;
        }
        let kind = match verdict.score {
            score if score >= 1.0 => 0,
            score if score > 0.0 => 1,
            _ => 2,
        };
        self.shown[kind] += 1;
        let class = ["right", "part", "wrong"][kind];
        let picture = ringmaster_dataset::thumbnail(&question.image, PICTURE_SIDE);
        let picture = STANDARD.encode(picture.unwrap_or_default());
        let partly = match kind {
            1 => format!(" ({})", percent(verdict.score)),
            _ => String::new(),
        };
        let note = [Some(question.id.as_str()), question.template.as_deref()];
        let note = note.into_iter().flatten().collect::<Vec<_>>().join(", ");
        // Writing to a string cannot fail.
        let _written = writeln!(
            self.articles,
            "<article class=\"{class}\"><img alt=\"\" src=\"data:image/png;base64,{picture}\">\
             <p class=\"question\">{}</p><p class=\"answer\">{}{partly}</p><p>{}</p>\
             <p class=\"small\">{}</p></article>",
            shown(&question.text),
            shown(match verdict.answer.trim() {
                "" => "(nothing)",
                answer => answer,
            }),
            shown(&references(question)),
            shown(&note),
        );
    }

    /// The whole page.
    pub(super) fn render(&self, report: &Report) -> String {
        let scores = &report.scores;
        let title = format!("{}, step {}: {}", report.run, report.step, scores.metric);
        let title = shown(&title);
        let [right, part, wrong] = self.shown;
        let all = right + part + wrong;
        let templates: String = scores
            .templates
            .iter()
            .map(|of| {
                format!(
                    "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>\n",
                    shown(&of.template),
                    of.rows,
                    percent(of.score)
                )
            })
            .collect();
        let templates = match templates.as_str() {
            "" => String::new(),
            rows => format!(
                "<table><tr><th>kind</th><th>questions</th><th>score</th></tr>\n{rows}</table>\n"
            ),
        };
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
             <p class=\"score\">{}</p>\n\
             <p>{} questions of {}; checkpoint {}</p>\n{templates}\
             <p class=\"small\">The first {all}, as the model sees them: question, the model's answer, \
             the reference.</p>\n\
             <input type=\"radio\" name=\"show\" id=\"everything\" checked>\
             <label for=\"everything\">all {all}</label>\n\
             <input type=\"radio\" name=\"show\" id=\"only-right\">\
             <label for=\"only-right\">right {right}</label>\n\
             <input type=\"radio\" name=\"show\" id=\"only-part\">\
             <label for=\"only-part\">partly right {part}</label>\n\
             <input type=\"radio\" name=\"show\" id=\"only-wrong\">\
             <label for=\"only-wrong\">wrong {wrong}</label>\n\
             <main>\n{}</main>\n</body>\n</html>\n",
            percent(scores.score),
            scores.rows,
            shown(&report.data),
            shown(&report.digest),
            self.articles,
        )
    }
}

/// What people answered: the answer, or each of several with how many gave it.
fn references(question: &Question) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for answer in &question.annotators {
        *counts.entry(answer).or_default() += 1;
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    match counts.as_slice() {
        [] => question.answer.clone(),
        counts => {
            let each = counts
                .iter()
                .map(|(answer, count)| format!("{answer} ×{count}"));
            each.collect::<Vec<_>>().join(", ")
        }
    }
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
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use ringmaster_worker::{Scores, TemplateScore};

    use super::*;

    fn report() -> Report {
        let template = "<b>colour</b>".to_owned();
        Report {
            run: "r".into(),
            step: 7,
            digest: "abc".into(),
            data: "a<b".into(),
            scores: Scores {
                metric: "vqa2".into(),
                score: 0.5,
                rows: 2,
                templates: vec![TemplateScore {
                    template,
                    rows: 2,
                    score: 0.5,
                }],
                ..Scores::default()
            },
        }
    }

    fn add(page: &mut Page, text: &str, answer: &str, score: f64) {
        let question = Question {
            text: text.into(),
            answer: "yes".into(),
            image: vec![7; 3 * 4],
            ..Question::default()
        };
        let answer = answer.to_owned();
        page.add(&question, &Verdict { answer, score });
    }

    #[test]
    fn nothing_that_is_shown_can_be_markup() {
        let mut page = Page::default();
        let evil = "<script>alert(1)</script>\"'&";
        add(&mut page, evil, evil, 0.0);
        let html = page.render(&report());
        assert!(
            !html.contains("<script") && !html.contains("<b>colour"),
            "{html}"
        );
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;"));
    }

    #[test]
    fn rows_are_marked_by_their_score_and_bounded_in_number() {
        let mut page = Page::default();
        for (answer, score) in [("yes", 1.0), ("maybe", 0.3), ("no", 0.0), ("", 0.0)] {
            add(&mut page, "is it?", answer, score);
        }
        let html = page.render(&report());
        let count = |text: &str| html.matches(text).count();
        assert_eq!(count("<article class=\"right\">"), 1);
        assert_eq!(count("<article class=\"part\">"), 1);
        assert_eq!(count("<article class=\"wrong\">"), 2);
        assert_eq!(count("src=\"data:image/png;base64,iVBOR"), 4);
        assert!(html.contains("maybe (30.0%)") && html.contains("(nothing)"));
        assert_eq!(count("http"), 0, "nothing is loaded from anywhere");
        for _ in 0..2 * ROWS_MAX {
            add(&mut page, "is it?", "no", 0.0);
        }
        assert_eq!(page.render(&report()).matches("<article").count(), ROWS_MAX);
    }

    #[test]
    fn the_answers_of_several_people_are_counted() {
        let mut question = Question {
            answer: "yes".into(),
            ..Question::default()
        };
        assert_eq!(references(&question), "yes");
        question.annotators = ["no", "yes", "yes"].map(String::from).into();
        assert_eq!(references(&question), "yes ×2, no ×1");
    }
}
