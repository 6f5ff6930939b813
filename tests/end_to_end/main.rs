//! End-to-end tests through the binary and the API, in one test binary so that everything is linked once.

mod browser;
mod chaos;
mod cleaning;
mod datasets;
mod emulate;
mod examples;
mod harness;
mod kinds;
mod lake;
mod main_job;
mod notifications;
mod object_store;
mod outage;
mod process;
mod secrets;
mod steering;
mod streaming;
mod tidy;
mod upkeep;
mod worker_death;
