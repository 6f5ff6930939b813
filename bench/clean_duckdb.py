"""clean_duckdb.py PINS.ndjson FOLDER: cleans pins with DuckDB."""

import pathlib
import sys

import duckdb

import rules

source, folder = sys.argv[1], pathlib.Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)


def text(name, placeholders=()):
    known = ", ".join("'" + value.replace("'", "''") + "'" for value in ["", *placeholders])
    return f"case when \"{name}\" in ({known}) then null else \"{name}\" end"


types = {name: "VARCHAR" for name in rules.COLUMNS} | {"index": "BIGINT", "downloaded": "BIGINT"}
columns = ", ".join(f"'{name}': '{kind}'" for name, kind in types.items())
media = " ".join(f"when '{alias}' then '{kind}'" for alias, kind in rules.MEDIA.items())
query = f"""
copy (
  with pins as (
    select *, row_number() over () as "_offset"
    from read_json('{source}', format = 'newline_delimited', columns = {{{columns}}})
  ), latest as (
    select * from pins qualify row_number() over (partition by lower(unique_id) order by "_offset" desc) = 1
  ), counted as (
    select *, lower({text("follower_count", rules.PERSON)}) as n from latest
  )
  select lower(unique_id) as unique_id, "index", {text("category")} as category, {text("title", rules.TITLE)} as title,
    {text("description", rules.DESCRIPTION)} as description,
    round(rtrim(n, 'kmb')::double * case right(n, 1) when 'k' then 1e3 when 'm' then 1e6 when 'b' then 1e9 else 1 end)::bigint
      as follower_count,
    list_filter(list_transform(string_split({text("tag_list", rules.TAGS)}, ','), lambda tag: trim(tag)), lambda tag: tag <> '')
      as tag_list,
    case is_image_or_video {media} when '' then null else is_image_or_video end as is_image_or_video,
    {text("image_src", rules.IMAGE)} as image_src, downloaded = 1 as downloaded,
    case when starts_with(save_location, 'Local save in ') then nullif(substr(save_location, 15), '') else nullif(save_location, '') end
      as save_location,
    {text("poster_name", rules.PERSON)} as poster_name
  from counted
) to '{folder}/pins.parquet' (format parquet, compression zstd, compression_level 1)
"""
with rules.Measured("duckdb") as measured:
    duckdb.execute("set preserve_insertion_order = true")
    duckdb.execute(query)
    measured.rows = duckdb.sql(f"select count(*) from '{folder}/pins.parquet'").fetchall()[0][0]
