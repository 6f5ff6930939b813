-- Lists files with errors. Lock: none.
select file, report, error_count from dag_file_error order by file
