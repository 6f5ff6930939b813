//! What the binary tells a person when it cannot do what was asked, and the exit code that a program reads.

use std::{error::Error as StdError, fmt, process::ExitCode};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode, SourceSpan};

/// What went wrong, as the exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The thing that was asked for failed: a run failed, the demo disagreed, a role broke.
    Failed = 1,
    /// The command line, a setting or a file is wrong; nothing was done.
    Invalid = 2,
    /// A service that is needed cannot be reached; the same command may succeed later.
    Unreachable = 3,
}

/// Why a command ended without doing what was asked: a message, the next step, and the exit code's class.
#[derive(Debug)]
pub(crate) struct Failure {
    class: Class,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    /// Boxed: it is rare, and a `Result` is as large as its failure.
    place: Option<Box<Place>>,
}

#[derive(Debug)]
struct Place {
    text: NamedSource<String>,
    span: SourceSpan,
    label: String,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Class::Failed, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Class::Invalid, message)
    }

    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(Class::Unreachable, message)
    }

    fn new(class: Class, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
            hint: None,
            source: None,
            place: None,
        }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Shows the place in a file.
    #[must_use]
    pub(crate) fn at(
        mut self,
        file: &str,
        text: &str,
        span: std::ops::Range<usize>,
        label: &str,
    ) -> Self {
        let text = NamedSource::new(file, text.to_owned());
        self.place = Some(Box::new(Place {
            text,
            span: span.into(),
            label: label.to_owned(),
        }));
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.class as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}

impl Diagnostic for Failure {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint
            .as_ref()
            .map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place
            .as_ref()
            .map(|place| &place.text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(
            Some(place.label.clone()),
            place.span,
        ))))
    }
}
