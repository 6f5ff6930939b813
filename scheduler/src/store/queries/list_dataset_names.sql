-- Lists the names of datasets, for guesses. Lock: none.
select distinct n.dataset as "dataset!: DatasetName"
from (select dataset from dataset_producer union all select dataset from dataset_consumer) n limit 10000
