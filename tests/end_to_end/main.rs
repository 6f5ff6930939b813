//! End-to-end tests through the binary and the API, in one test binary so that everything is linked once.

mod tidy;
