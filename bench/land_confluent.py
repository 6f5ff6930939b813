"""land_confluent.py BROKERS ENDPOINT BUCKET PINS.ndjson: puts the pins on a topic of its own, then lands it as many teams do:
confluent-kafka in batches, each one gzip object by boto3, offsets committed afterwards. At least once, not exactly once."""

import gzip
import os
import sys
import uuid

import boto3
from botocore.config import Config
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

import rules

brokers, endpoint, bucket, source = sys.argv[1:5]
topic = f"pinwheel_peer_{uuid.uuid4().hex[:8]}"
admin = AdminClient({"bootstrap.servers": brokers})
admin.create_topics([NewTopic(topic, 4, 1)])[topic].result()
try:
    producer = Producer({"bootstrap.servers": brokers, "acks": "all", "linger.ms": 20, "compression.type": "zstd"})
    rows = 0
    with open(source, "rb") as pins:
        for pin in pins:
            while True:
                try:
                    producer.produce(topic, pin.rstrip(b"\n"))
                    break
                except BufferError:
                    producer.poll(0.1)
            rows += 1
    producer.flush()
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=os.environ["PINWHEEL_S3_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["PINWHEEL_S3_SECRET_ACCESS_KEY"],
        config=Config(s3={"addressing_style": "path"}),
    )
    settings = {"bootstrap.servers": brokers, "group.id": topic, "auto.offset.reset": "earliest",
                "enable.auto.commit": False, "fetch.queue.backoff.ms": 5}
    with rules.Measured("confluent-kafka and boto3") as measured:
        consumer = Consumer(settings)
        # Assigned, because joining a group takes seconds that have nothing to do with landing.
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(4)])
        part = 0
        while measured.rows < rows:
            batch = consumer.consume(min(20_000, rows - measured.rows), timeout=1)
            if not batch:
                continue
            body = gzip.compress(b"\n".join(message.value() for message in batch), compresslevel=1)
            s3.put_object(Bucket=bucket, Key=f"peers/{topic}/{part}.ndjson.gz", Body=body)
            consumer.commit(asynchronous=False)
            measured.rows += len(batch)
            part += 1
        consumer.close()
finally:
    admin.delete_topics([topic])[topic].result()
