"""clean_polars.py PINS.ndjson FOLDER: cleans pins with Polars, by its streaming engine."""

import pathlib
import sys

import polars as pl

import rules

source, folder = sys.argv[1], pathlib.Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
schema = {name: pl.String for name in rules.COLUMNS} | {"index": pl.Int64, "downloaded": pl.Int64}


def text(name, placeholders=()):
    column = pl.col(name)
    return pl.when(column.is_in(["", *placeholders])).then(None).otherwise(column).alias(name)


count = text("follower_count", rules.PERSON).str.to_lowercase()
unit = count.str.extract(r"([kmb])$").replace_strict({"k": 1e3, "m": 1e6, "b": 1e9}, default=1.0, return_dtype=pl.Float64)
tags = text("tag_list", rules.TAGS).str.split(",").list.eval(pl.element().str.strip_chars())

with rules.Measured("polars") as measured:
    pins = (
        pl.scan_ndjson(source, schema=schema)
        .with_row_index("_offset")
        .with_columns(
            pl.col("unique_id").str.to_lowercase(),
            text("category"),
            text("title", rules.TITLE),
            text("description", rules.DESCRIPTION),
            (count.str.strip_suffix("k").str.strip_suffix("m").str.strip_suffix("b").cast(pl.Float64) * unit)
            .round()
            .cast(pl.Int64)
            .alias("follower_count"),
            tags.list.eval(pl.element().filter(pl.element() != "")).alias("tag_list"),
            text("is_image_or_video").replace(rules.MEDIA),
            text("image_src", rules.IMAGE),
            pl.col("downloaded") == 1,
            text("save_location").str.strip_prefix("Local save in "),
            text("poster_name", rules.PERSON),
        )
        .sort("_offset")
        .unique("unique_id", keep="last", maintain_order=False)
        .select(rules.COLUMNS)
    )
    pins.sink_parquet(folder / "pins.parquet", compression="zstd", compression_level=1)
    measured.rows = pl.scan_parquet(folder / "pins.parquet").select(pl.len()).collect().item()
