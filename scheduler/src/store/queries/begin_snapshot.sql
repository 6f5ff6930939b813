-- Lets every statement of this transaction see the same moment, and write nothing. Lock: none.
set transaction isolation level repeatable read, read only
