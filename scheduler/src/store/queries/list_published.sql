-- Lists what is published from which file, so that unchanged files are left alone. Lock: none.
select d.dag_id as "dag_id: DagId", d.file, d.present, v.content_hash
from dag d join dag_version v on v.version_id = d.current_version
