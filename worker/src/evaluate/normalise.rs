//! When two answers are the same answer: the forms that metrics compare.

/// Words for numbers, at the place of their number.
const NUMBERS: [&str; 11] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
];

const ARTICLES: [&str; 3] = ["a", "an", "the"];

/// Open-vocabulary comparison: lower case, no punctuation, no articles, digits for number words,
/// single spaces.
pub(super) fn plain(text: &str) -> String {
    let letters = |c: char| if c.is_alphanumeric() { c } else { ' ' };
    let text: String = text.to_lowercase().chars().map(letters).collect();
    let words = text
        .split_whitespace()
        .filter(|word| !ARTICLES.contains(word));
    let words: Vec<String> = words.map(digits).collect();
    words.join(" ")
}

/// Digits for a word that is a number.
fn digits(word: &str) -> String {
    let number = NUMBERS.iter().position(|number| *number == word);
    number.map_or_else(|| word.to_owned(), |number| number.to_string())
}

/// Characters that the official VQA evaluation takes for punctuation. Apostrophes, colons and
/// periods are not among them; periods have a rule of their own.
const PUNCTUATION: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',',
    '?', '!',
];

/// The first half of the official VQA normaliser (`processPunctuation` of vqaEval.py).
///
/// A punctuation mark becomes a space, or nothing where the text has one of its kind beside a space,
/// or where the text has a comma between digits anywhere. A period goes unless a digit follows.
pub(super) fn vqa_punctuation(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let thousands = chars
        .windows(3)
        .any(|of| of[0].is_ascii_digit() && of[1] == ',' && of[2].is_ascii_digit());
    let beside_space = |mark: char| {
        chars
            .windows(2)
            .any(|pair| pair == [mark, ' '] || pair == [' ', mark])
    };
    let replaced = |c: &char| match *c {
        c if !PUNCTUATION.contains(&c) => Some(c),
        c if thousands || beside_space(c) => None,
        _ => Some(' '),
    };
    let marked: Vec<char> = chars.iter().filter_map(replaced).collect();
    let digit_follows = |at: usize| marked.get(at + 1).is_some_and(char::is_ascii_digit);
    let kept = |(at, c): (usize, &char)| (*c != '.' || digit_follows(at)).then_some(*c);
    marked.iter().enumerate().filter_map(kept).collect()
}

/// Words that the official VQA evaluation gives an apostrophe back to, where exactly one is left out.
/// Its table spells four more with capitals, which the lower case that is looked up never matches.
const CONTRACTIONS: [&str; 92] = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "ma'am",
    "might've",
    "mightn't",
    "mightn't've",
    "must've",
    "mustn't",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "'ow's'at",
    "shan't",
    "she'd've",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'd've",
    "y'all'll",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
];

/// The whole official VQA normaliser: [`vqa_punctuation`], then `processDigitArticle`: lower case,
/// digits for number words and "none", no articles, apostrophes where they belong.
pub(super) fn vqa(text: &str) -> String {
    let text = text.replace(['\n', '\t'], " ");
    let text = vqa_punctuation(text.trim()).to_lowercase();
    let words = text.split_whitespace().map(|word| match word {
        "none" => "0".to_owned(),
        word => digits(word),
    });
    let words = words.filter(|word| !ARTICLES.contains(&word.as_str()));
    let words: Vec<String> = words.map(contraction).collect();
    words.join(" ")
}

/// The word with the one apostrophe that is left out of it.
fn contraction(word: String) -> String {
    if word == "somebody'd" {
        // The one entry of the table that takes an apostrophe away.
        return "somebodyd".to_owned();
    }
    let missing = |whole: &&&str| {
        let apostrophes = whole.match_indices('\'');
        let mut without = apostrophes.map(|(at, _)| [&whole[..at], &whole[at + 1..]].concat());
        without.any(|without| without == word)
    };
    let whole = CONTRACTIONS.iter().find(missing);
    whole.map_or(word, |whole| (*whole).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_compared_without_case_articles_punctuation_and_number_words() {
        assert_eq!(plain(" The Red,  circle."), "red circle");
        assert_eq!(plain("Two of a kind"), "2 of kind");
        assert_ne!(plain("red"), plain("blue"));
    }

    /// Pairs worked out by hand from vqaEval.py.
    #[test]
    fn the_official_normaliser_of_vqa_is_followed() {
        let pairs = [
            ("Two", "2"),
            ("none", "0"),
            ("an apple", "apple"),
            ("a the an", ""),
            // A mark inside a word parts it; beside a space, marks of its kind just go.
            ("t-shirt", "t shirt"),
            ("red/white", "red white"),
            ("red / white/blue", "red whiteblue"),
            ("yes!", "yes"),
            ("what?no", "what no"),
            // A comma between digits takes every mark out without a space.
            ("1,000", "1000"),
            ("1,000-2,000 up-down", "10002000 updown"),
            ("red,white", "red white"),
            // A period stays before a digit alone.
            ("2.5", "2.5"),
            (".5", ".5"),
            ("u.s.a.", "usa"),
            ("5. 6", "5 6"),
            ("a.?5", "5"),
            // Apostrophes and colons are no punctuation.
            ("10:30", "10:30"),
            ("men's", "men's"),
            // Apostrophes that are left out come back.
            ("dont know", "don't know"),
            ("couldnt've", "couldn't've"),
            ("couldn'tve", "couldn't've"),
            ("couldntve", "couldntve"),
            ("yall'd've", "y'all'd've"),
            ("twas", "'twas"),
            ("somebody'd", "somebodyd"),
            ("lets", "lets"),
            ("on\nthe\ttable", "on table"),
            ("  Blue   AND green ", "blue and green"),
        ];
        for (said, normal) in pairs {
            assert_eq!(vqa(said), normal, "{said:?}");
        }
    }
}
