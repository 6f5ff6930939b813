-- Reads how long the panes of a stream's windows are, of those that have some. Takes no lock.
select window_name, slide_s
from stream_window
where stream = $1
    and slide_s is not null
    and exists (select from window_count as pane where pane.stream = stream_window.stream and pane.window_name = stream_window.window_name)
