//! End-to-end tests through the binary and the API, in one test binary so that everything is linked once.

mod cleaning;
mod harness;
mod landing;
mod main_job;
mod object_store;
mod streaming;
mod tidy;
