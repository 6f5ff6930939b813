-- Dead letters are deleted by age, and pages read the newest.
create index dead_letter_stream_recorded_at_idx on dead_letter (stream, recorded_at);
