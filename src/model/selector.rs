//! Label selectors, as `kubectl -l` takes them.
//!
//! `kube` can match selectors but reads none from text, and `k8s-openapi` has the structured form only.

use std::fmt;

/// Requirements that labels have to meet, all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSelector(Box<[Requirement]>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: Box<str>,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Box<[Box<str>]>),
    /// Holds without the label, too.
    NotIn(Box<[Box<str>]>),
    Above(i64),
    Below(i64),
}

/// Why a text is no label selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(String);

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements: Result<Box<[Requirement]>, _> = split(text)?.into_iter().map(Requirement::parse).collect();
        Ok(Self(requirements?))
    }

    /// Whether labels, asked for by their key, meet it.
    pub fn matches<'l>(&self, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        self.0.iter().all(|requirement| requirement.is_met_by(label(&requirement.key)))
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Requirement { key, test }) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::Exists => write!(f, "{key}"),
                Test::Absent => write!(f, "!{key}"),
                Test::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
                Test::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
                Test::In(values) => write!(f, "{key} in ({})", values.join(",")),
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
                Test::Above(number) => write!(f, "{key}>{number}"),
                Test::Below(number) => write!(f, "{key}<{number}"),
            }?;
        }
        Ok(())
    }
}

impl Requirement {
    fn parse(text: &str) -> Result<Self, SelectorError> {
        if let Some(key) = text.strip_prefix('!') {
            return Ok(Self { key: label_key(key.trim())?, test: Test::Absent });
        }
        let end = text.find(|c: char| c.is_whitespace() || "=!<>()".contains(c)).unwrap_or(text.len());
        let (key, rest) = (label_key(&text[..end])?, text[end..].trim());
        let one = |value: &str| Ok::<_, SelectorError>(Box::from([label_value(value)?]));
        let test = if rest.is_empty() {
            Test::Exists
        } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
            Test::In(one(value)?)
        } else if let Some(value) = rest.strip_prefix("!=") {
            Test::NotIn(one(value)?)
        } else if let Some(value) = rest.strip_prefix('>') {
            Test::Above(number(value)?)
        } else if let Some(value) = rest.strip_prefix('<') {
            Test::Below(number(value)?)
        } else if let Some(values) = rest.strip_prefix("notin") {
            Test::NotIn(several(values)?)
        } else if let Some(values) = rest.strip_prefix("in") {
            Test::In(several(values)?)
        } else {
            return Err(SelectorError(format!(
                "{text:?} is no requirement (want one as a=b, a!=b, a in (b,c), a or !a)"
            )));
        };
        Ok(Self { key, test })
    }

    fn is_met_by(&self, value: Option<&str>) -> bool {
        let is_among = |values: &[Box<str>]| value.is_some_and(|value| values.iter().any(|known| **known == *value));
        let as_number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => is_among(values),
            Test::NotIn(values) => !is_among(values),
            Test::Above(limit) => as_number().is_some_and(|number| number > *limit),
            Test::Below(limit) => as_number().is_some_and(|number| number < *limit),
        }
    }
}

/// At the commas outside of parentheses.
fn split(text: &str) -> Result<Vec<&str>, SelectorError> {
    let (mut parts, mut begin, mut is_inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '(' | ')' if is_inside == (c == '(') => {
                return Err(SelectorError(format!("{text:?} has a parenthesis too many")));
            }
            '(' | ')' => is_inside = c == '(',
            ',' if !is_inside => {
                parts.push(text[begin..at].trim());
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[begin..].trim());
    match is_inside {
        true => Err(SelectorError(format!("{text:?} lacks a closing parenthesis"))),
        false => Ok(parts),
    }
}

/// `(a,b)`
fn several(text: &str) -> Result<Box<[Box<str>]>, SelectorError> {
    let inner = text.trim().strip_prefix('(').and_then(|text| text.strip_suffix(')'));
    let values = inner.filter(|inner| !inner.trim().is_empty() && !inner.contains(['(', ')']));
    let values = values.ok_or_else(|| SelectorError(format!("{text:?} is no list of values (want one as (a,b))")))?;
    values.split(',').map(label_value).collect()
}

fn number(text: &str) -> Result<i64, SelectorError> {
    text.trim().parse().map_err(|_| SelectorError(format!("{:?} is not a number", text.trim())))
}

/// A name, maybe behind a domain and a slash.
fn label_key(text: &str) -> Result<Box<str>, SelectorError> {
    let (domain, name) = text.split_once('/').map_or((None, text), |(domain, name)| (Some(domain), name));
    let is_domain = |domain: &str| {
        let is_part = |part: &str| is_word(part) && !part.contains(['_', '.']) && part.len() <= 63;
        domain.len() <= 253 && domain.split('.').all(is_part) && !domain.contains(|c: char| c.is_ascii_uppercase())
    };
    let is_key = is_word(name) && name.len() <= 63 && domain.is_none_or(is_domain);
    is_key.then(|| text.into()).ok_or_else(|| SelectorError(format!("{text:?} is not the key of a label")))
}

fn label_value(text: &str) -> Result<Box<str>, SelectorError> {
    let text = text.trim();
    let is_value = text.is_empty() || (is_word(text) && text.len() <= 63);
    is_value.then(|| text.into()).ok_or_else(|| SelectorError(format!("{text:?} is not the value of a label")))
}

/// Letters, digits, `-`, `_` and `.`, with a letter or digit at both ends.
fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &'static str)]) -> bool {
        let selector = LabelSelector::parse(selector).expect("a selector");
        selector.matches(|key| labels.iter().find(|(known, _)| *known == key).map(|(_, value)| *value))
    }

    #[test]
    fn selectors_mean_what_they_mean_to_kubectl() {
        let labels = [("a", "b"), ("topology.kubernetes.io/zone", "z-1"), ("size", "5"), ("empty", "")];
        for text in [
            "a=b",
            "a == b",
            "a",
            "a!=c",
            "none!=c",
            "a in (b,c)",
            "a in(c, b)",
            "a notin (c)",
            "none notin (c)",
            "!none",
            "! none",
            "a=b,topology.kubernetes.io/zone=z-1 , !none,size>4",
            "size<6",
            "empty=",
            "empty in (,x)",
        ] {
            assert!(matches(text, &labels), "{text}");
        }
        for text in [
            "a=c",
            "none",
            "a!=b",
            "a in (c)",
            "none in (c)",
            "a notin (b)",
            "!a",
            "a=b,none",
            "size>5",
            "a<9",
            "empty",
        ] {
            assert_eq!(matches(text, &labels), text == "empty", "{text}");
        }
    }

    #[test]
    fn what_kubectl_refuses_is_refused() {
        for text in [
            "",
            "a=b,",
            ",",
            "=b",
            "a in",
            "a in b",
            "a in ()",
            "a in (b",
            "a in b)",
            "a in ((b))",
            "a (b)",
            "a b",
            "a=b c",
            "-a=b",
            "a=-b",
            "a>x",
            "a/b/c=d",
            "/a=b",
            "A.b/=c",
            "A/b=c",
            "!",
            "a~b",
            "a = (b)",
            "a\n=b\u{1b}",
        ] {
            assert!(LabelSelector::parse(text).is_err(), "{text:?}");
        }
        assert!(LabelSelector::parse(&format!("a={}", "b".repeat(64))).is_err());
    }

    #[test]
    fn the_text_reads_back() {
        let text = "a=b,c!=d,e in (f,g),h,!i,j notin (k,l),m>-3,n<4,o=";
        assert_eq!(LabelSelector::parse(text).expect("a selector").to_string(), text);
        assert_eq!(LabelSelector::parse("a==b , c in(d)").expect("a selector").to_string(), "a=b,c=d");
    }
}
