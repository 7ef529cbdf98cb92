//! Names of objects.

use uuid::Uuid;

use super::ApiError;
use crate::error_kind::ErrorKind;

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The rule, as people and the OpenAPI document read it.
pub const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$";

/// A legal name: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, and no UUID. So it is safe in a path, in a URL and in a unit file, and never means
/// another object, since objects are named by their UUID as well.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName(String);

impl ObjectName {
    /// Checks the rule.
    ///
    /// # Errors
    /// `BadName`, which says what is wrong with it.
    pub fn parse(name: &str) -> Result<Self, ApiError> {
        let wrong = match name.chars().next() {
            None => Some("it is empty".to_owned()),
            Some(first) if !first.is_ascii_alphanumeric() => {
                Some(format!("it begins with {first:?}"))
            }
            Some(_) if name.len() > NAME_BYTES_MAX => {
                Some(format!("it has {} characters", name.chars().count()))
            }
            Some(_) if name.parse::<Uuid>().is_ok() => Some("it is a UUID".to_owned()),
            Some(_) => name
                .chars()
                .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')))
                .map(|c| format!("it contains {c:?}")),
        };
        match wrong {
            None => Ok(Self(name.to_owned())),
            Some(why) => Err(ApiError::new(ErrorKind::BadName, format!("the name {name:?} is not allowed: {why}"))
                .object(name)
                .remedy(format!(
                    "use letters, digits, '.', '_' and '-', beginning with a letter or digit, at most {NAME_BYTES_MAX}"
                ))),
        }
    }

    /// What an object may be asked for by: its name, or its UUID.
    ///
    /// # Errors
    /// `BadName`, as [`Self::parse`].
    pub fn parse_key(key: &str) -> Result<Self, ApiError> {
        if key.parse::<Uuid>().is_ok()
            && key
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        {
            return Ok(Self(key.to_owned()));
        }
        Self::parse(key)
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name itself.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_use_are_legal() {
        for name in [
            "debian-13",
            "ubuntu-22.04",
            "bi-vm1",
            "a",
            "0",
            "A_b.c-d",
            "67e55044-10b1-426f-9247",
            &"x".repeat(128),
        ] {
            assert_eq!(ObjectName::parse(name).expect(name).as_str(), name);
        }
    }

    #[test]
    fn names_that_could_escape_or_confuse_are_refused_and_the_reason_is_given() {
        let table = [
            ("", "it is empty"),
            ("-rf", "begins with '-'"),
            ("..", "begins with '.'"),
            (".hidden", "begins with '.'"),
            ("a/b", "contains '/'"),
            ("a b", "contains ' '"),
            ("a\n", "contains '\\n'"),
            ("a\0", "contains '\\0'"),
            ("größe", "contains 'ö'"),
            (&"x".repeat(129), "129 characters"),
            ("67e55044-10b1-426f-9247-bb680e5fe0c8", "it is a UUID"),
            ("67E5504410B1426F9247BB680E5FE0C8", "it is a UUID"),
        ];
        for (name, why) in table {
            let error = ObjectName::parse(name).expect_err(name);
            assert_eq!(error.kind, ErrorKind::BadName);
            assert!(error.message.contains(why), "{}", error.message);
            assert!(error.remedy.is_some());
        }
    }
}
