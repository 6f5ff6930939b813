"""compare.py ENDPOINT s3://BUCKET/PREFIX FOLDER: compares the dataset that Pinwheel wrote with a peer's Parquet files, row by row."""

import io
import os
import pathlib
import sys

import boto3
import polars as pl
from botocore.config import Config

import rules

endpoint, dataset, folder = sys.argv[1:4]
bucket, prefix = dataset.removeprefix("s3://").split("/", 1)
s3 = boto3.client(
    "s3",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id=os.environ["PINWHEEL_S3_ACCESS_KEY_ID"],
    aws_secret_access_key=os.environ["PINWHEEL_S3_SECRET_ACCESS_KEY"],
    config=Config(s3={"addressing_style": "path"}),
)
keys = [
    item["Key"]
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    for item in page.get("Contents", [])
    if item["Key"].endswith(".parquet") and "dead" not in item["Key"] and "quarantine" not in item["Key"]
]
ours = pl.concat([pl.read_parquet(io.BytesIO(s3.get_object(Bucket=bucket, Key=key)["Body"].read())) for key in keys], how="diagonal")
theirs = pl.concat([pl.read_parquet(file) for file in sorted(pathlib.Path(folder).glob("*.parquet"))])
columns = [name for name in rules.COLUMNS if name in ours.columns]
missing = sorted(set(rules.COLUMNS) - set(columns))
if missing:
    sys.exit(f"Pinwheel wrote no column {', '.join(missing)}")
ours = ours.select(columns).sort("unique_id")
theirs = theirs.select(columns).cast(dict(ours.schema)).sort("unique_id")
if ours.height != theirs.height:
    sys.exit(f"Pinwheel has {ours.height} rows, the peer {theirs.height}")
for name in columns:
    differ = (~ours[name].eq_missing(theirs[name])).arg_true()
    if len(differ) > 0:
        row = differ[0]
        sys.exit(f"{len(differ)} rows differ in `{name}`, the first is {ours['unique_id'][row]}: {ours[name][row]!r} and {theirs[name][row]!r}")
print(f"{ours.height} rows are the same in {len(columns)} columns")
