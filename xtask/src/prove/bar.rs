//! Bars and the figures held against them.

use std::fmt;

use serde_json::Value;

/// What a figure must be for its claim to hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bar {
    Equals(f64),
    AtMost(f64),
    AtLeast(f64),
    /// A word, such as `true`.
    Is(&'static str),
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Figure {
    Number(f64),
    Word(String),
}

impl Bar {
    pub(super) fn holds(self, figure: &Figure) -> bool {
        match (self, figure) {
            (Self::Equals(bar), Figure::Number(figure)) => *figure == bar,
            (Self::AtMost(bar), Figure::Number(figure)) => *figure <= bar,
            (Self::AtLeast(bar), Figure::Number(figure)) => *figure >= bar,
            (Self::Is(bar), Figure::Word(figure)) => figure == bar,
            (Self::Is(_), Figure::Number(_)) | (_, Figure::Word(_)) => false,
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equals(bar) => write!(f, "= {}", Figure::Number(*bar)),
            Self::AtMost(bar) => write!(f, "<= {}", Figure::Number(*bar)),
            Self::AtLeast(bar) => write!(f, ">= {}", Figure::Number(*bar)),
            Self::Is(bar) => write!(f, "is {bar}"),
        }
    }
}

impl Figure {
    /// A number if it reads as one, else a word. Infinity and what is no number are words, which no bar
    /// of numbers accepts.
    pub(super) fn read(text: &str) -> Option<Self> {
        match text.trim() {
            "" => None,
            text => Some(match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Self::Number(number),
                _ => Self::Word(text.to_owned()),
            }),
        }
    }

    /// A number, a word, or `true` and `false` as words.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_f64().map(Self::Number),
            Value::String(word) => Some(Self::Word(word.clone())),
            Value::Bool(truth) => Some(Self::Word(truth.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    pub(super) fn json(&self) -> Value {
        match self {
            Self::Number(number) => Value::from(*number),
            Self::Word(word) => Value::from(word.as_str()),
        }
    }
}

impl fmt::Display for Figure {
    /// At most four digits behind the point, and none that say nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Number(number) => {
                let digits = format!("{number:.4}");
                f.write_str(digits.trim_end_matches('0').trim_end_matches('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_met_on_its_edge() {
        let holds = |bar: Bar, text| bar.holds(&Figure::read(text).unwrap());
        assert!(holds(Bar::Equals(321.0), "321"));
        assert!(!holds(Bar::Equals(321.0), "321.0001"));
        assert!(holds(Bar::AtMost(0.6), "0.6"));
        assert!(!holds(Bar::AtMost(0.6), "0.6000001"));
        assert!(holds(Bar::AtLeast(20_000.0), "20000"));
        assert!(!holds(Bar::AtLeast(20_000.0), "19999.9"));
        assert!(holds(Bar::Is("true"), "true"));
        assert!(!holds(Bar::Is("true"), "false"));
    }

    #[test]
    fn what_is_no_number_meets_no_bar_of_numbers() {
        for text in ["NaN", "inf", "-inf", "none"] {
            let figure = Figure::read(text).unwrap();
            assert_eq!(figure, Figure::Word(text.to_owned()));
            for bar in [
                Bar::Equals(0.0),
                Bar::AtMost(f64::MAX),
                Bar::AtLeast(f64::MIN),
            ] {
                assert!(!bar.holds(&figure), "{text} {bar}");
            }
        }
        assert!(!Bar::Is("1").holds(&Figure::Number(1.0)));
        assert_eq!(Figure::read("  "), None);
    }

    #[test]
    fn both_read_well() {
        assert_eq!(Bar::AtLeast(20_000.0).to_string(), ">= 20000");
        assert_eq!(Bar::AtMost(0.25).to_string(), "<= 0.25");
        assert_eq!(Bar::Equals(0.0).to_string(), "= 0");
        assert_eq!(Bar::Is("true").to_string(), "is true");
        assert_eq!(Figure::Number(1.0 / 3.0).to_string(), "0.3333");
        assert_eq!(Figure::Number(100.0).to_string(), "100");
    }

    #[test]
    fn json_values_are_figures_where_they_can_be() {
        assert_eq!(Figure::of(&Value::from(3)), Some(Figure::Number(3.0)));
        assert_eq!(
            Figure::of(&Value::from(true)),
            Some(Figure::Word("true".to_owned()))
        );
        assert_eq!(Figure::of(&Value::Null), None);
    }
}
