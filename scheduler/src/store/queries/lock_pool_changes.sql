-- Lets one change of pools happen at a time, so that what it reads of a pool stays so; claims and publications go on. Lock: the table pool SHARE UPDATE EXCLUSIVE.
lock table pool in share update exclusive mode
