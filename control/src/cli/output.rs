//! What is printed, and where: results to standard output, notes and errors to standard error.

use super::args::{Global, OutputFormat};
use crate::api::ApiError;
use crate::error_kind::ErrorKind;
use serde::Serialize;
use std::io::{self, IsTerminal as _, Write as _};

/// How this command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    quiet: bool,
    /// Colours on standard output.
    pub paint: Paint,
    /// Colours on standard error.
    paint_errors: Paint,
}

impl Output {
    /// As the options and the environment say.
    pub fn new(global: &Global) -> Self {
        // https://no-color.org: set and not empty means no colour.
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            json: global.output == OutputFormat::Json,
            quiet: global.quiet,
            paint: Paint(colour && io::stdout().is_terminal()),
            paint_errors: Paint(colour && io::stderr().is_terminal()),
        }
    }

    /// Prints what was asked for: `value` as JSON, or what `table` makes of it.
    ///
    /// # Errors
    /// `Io` when standard output cannot be written; not when its reader has gone.
    pub fn result<T: Serialize>(
        &self,
        value: &T,
        table: impl FnOnce(Paint) -> String,
    ) -> Result<(), ApiError> {
        if self.json {
            let json = serde_json::to_string_pretty(value).map_err(|error| {
                ApiError::new(ErrorKind::Internal, format!("result is no JSON: {error}"))
            })?;
            print(&json)
        } else {
            print(table(self.paint).trim_end_matches('\n'))
        }
    }

    /// Prints the outcome of something that was done: as JSON, or as a line that `--quiet` leaves out.
    ///
    /// # Errors
    /// As for [`Self::result`].
    pub fn done<T: Serialize>(
        &self,
        value: &T,
        line: impl FnOnce() -> String,
    ) -> Result<(), ApiError> {
        if self.json || !self.quiet {
            self.result(value, |_| line())
        } else {
            Ok(())
        }
    }

    /// Says something to people, on standard error.
    pub fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            // Nobody is left to be told when standard error is gone.
            let _ = writeln!(io::stderr(), "{text}");
        }
    }

    /// Reports a failure, on standard error.
    pub fn error(&self, error: &ApiError) {
        let text = if self.json {
            serde_json::to_string(error).unwrap_or_else(|_| error.message.clone())
        } else {
            error_text(error, self.paint_errors)
        };
        let _ = writeln!(io::stderr(), "{text}");
    }
}

fn print(text: &str) -> Result<(), ApiError> {
    if text.is_empty() {
        return Ok(());
    }
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        // `bedplate image list | head -1` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(ApiError::new(
            ErrorKind::Io,
            format!("standard output cannot be written: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

/// Three short lines: what, where, what to do.
pub fn error_text(error: &ApiError, paint: Paint) -> String {
    let mut text = format!("{} {}", paint.bad("error:"), error.message);
    let mut details = Vec::new();
    let mut detail = |label: &str, value: String| {
        // What the sentence says already is not said twice.
        if !error.message.contains(&value) {
            details.push(format!("{label} {value}"));
        }
    };
    if let Some(object) = &error.object {
        detail("object", object.clone());
    }
    if let Some(disk) = &error.disk {
        detail("disk", disk.clone());
    }
    if let Some(offset) = error.offset {
        detail("byte", offset.to_string());
    }
    if let Some(errno) = error.errno {
        let meaning = nix::errno::Errno::from_raw(errno).desc();
        // Where the sentence has the meaning, the number is for programs: JSON has it.
        if !error.message.contains(meaning) {
            detail("errno", format!("{errno} ({meaning})"));
        }
    }
    if !details.is_empty() {
        text.push_str("\n  at: ");
        text.push_str(&details.join(", "));
    }
    if let Some(remedy) = &error.remedy {
        text.push_str("\n  try: ");
        text.push_str(remedy);
    }
    text
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    /// As it should be.
    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Worth a look, or on its way.
    pub fn fair(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Wrong.
    pub fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_what_to_do() {
        let error = ApiError::new(ErrorKind::Corrupt, "block does not match its checksum")
            .object("debian-13")
            .disk("/dev/nvme0n1")
            .offset(1_052_672)
            .errno(5)
            .remedy("import the image again");
        assert_eq!(
            error_text(&error, Paint(false)),
            "error: block does not match its checksum\n  \
             at: object debian-13, disk /dev/nvme0n1, byte 1052672, errno 5 (I/O error)\n  \
             try: import the image again"
        );
    }

    #[test]
    fn an_error_does_not_say_things_twice() {
        let error =
            ApiError::new(ErrorKind::NotFound, "there is no image debian-13").object("debian-13");
        assert_eq!(
            error_text(&error, Paint(false)),
            "error: there is no image debian-13"
        );
    }
}
