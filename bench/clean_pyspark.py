"""clean_pyspark.py PINS.ndjson FOLDER: cleans pins with Spark, local[*]."""

import sys

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as f
from pyspark.sql.types import LongType, StringType, StructField, StructType

import rules

source, folder = sys.argv[1:3]
schema = StructType(
    [StructField(name, LongType() if name in ("index", "downloaded") else StringType()) for name in rules.COLUMNS]
)


def text(name, placeholders=()):
    return f.when(f.col(name).isin(["", *placeholders]), None).otherwise(f.col(name))


with rules.Measured("pyspark") as measured:
    spark = SparkSession.builder.master("local[*]").config("spark.ui.enabled", False).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    pins = spark.read.schema(schema).json(source).withColumn("_offset", f.monotonically_increasing_id())
    latest = Window.partitionBy(f.lower("unique_id")).orderBy(f.desc("_offset"))
    count = f.lower(text("follower_count", rules.PERSON))
    unit = f.when(count.endswith("k"), 1e3).when(count.endswith("m"), 1e6).when(count.endswith("b"), 1e9).otherwise(1.0)
    media = f.create_map(*[f.lit(part) for pair in rules.MEDIA.items() for part in pair])
    place = text("save_location")
    cleaned = pins.withColumn("_latest", f.row_number().over(latest)).where("_latest = 1").select(
        f.lower("unique_id").alias("unique_id"),
        "index",
        text("category").alias("category"),
        text("title", rules.TITLE).alias("title"),
        text("description", rules.DESCRIPTION).alias("description"),
        f.round(f.regexp_replace(count, "[kmb]$", "").cast("double") * unit).cast("long").alias("follower_count"),
        f.filter(f.transform(f.split(text("tag_list", rules.TAGS), ","), f.trim), lambda tag: tag != "").alias("tag_list"),
        f.coalesce(media[text("is_image_or_video")], text("is_image_or_video")).alias("is_image_or_video"),
        text("image_src", rules.IMAGE).alias("image_src"),
        (f.col("downloaded") == 1).alias("downloaded"),
        f.regexp_replace(place, "^Local save in ", "").alias("save_location"),
        text("poster_name", rules.PERSON).alias("poster_name"),
    )
    cleaned.write.mode("overwrite").option("compression", "zstd").parquet(folder)
    measured.rows = spark.read.parquet(folder).count()
    measured.peak_of(spark.sparkContext._gateway.proc.pid)
