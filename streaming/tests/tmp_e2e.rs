mod harness {
    pub(crate) const PINWHEEL: &str = "/tmp/pinwheel-bin";
    pub(crate) fn project() -> &'static std::path::Path {
        std::path::Path::new("/work/main")
    }
}
#[path = "../../tests/end_to_end/streaming.rs"]
mod streaming;
