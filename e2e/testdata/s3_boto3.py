"""Drives an S3 endpoint with boto3 and prints one line per step that held.

Usage: s3_boto3.py ENDPOINT BUCKET PREFIX, the credential in AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY (never an argument: those are readable by every user).
"""

import hashlib
import io
import os
import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, bucket, prefix = sys.argv[1:4]
MIB = 1 << 20

s3 = boto3.client(
    "s3",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
    aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
)


def step(name, holds):
    if not holds:
        sys.exit(f"FAILED {name}")
    print(name, flush=True)


def digest(stream):
    h = hashlib.sha256()
    for piece in iter(lambda: stream.read(MIB), b""):
        h.update(piece)
    return h.hexdigest()


# A key with what SigV4 and URLs treat specially.
small = prefix + "a/.b/..c/ü €+%2F=&'()*~!$.txt"
body = os.urandom(100_000)

put = s3.put_object(Bucket=bucket, Key=small, Body=body, ContentType="text/plain", Metadata={"note": "from boto3"})
step("put", put["ETag"] == '"%s"' % hashlib.md5(body).hexdigest())
got = s3.get_object(Bucket=bucket, Key=small)
step("get", got["Body"].read() == body and got["Metadata"] == {"note": "from boto3"} and got["ContentType"] == "text/plain")
step("range", s3.get_object(Bucket=bucket, Key=small, Range="bytes=10-19")["Body"].read() == body[10:20])
step("head", s3.head_object(Bucket=bucket, Key=small)["ContentLength"] == len(body))
s3.put_object(Bucket=bucket, Key=prefix + "empty", Body=b"")
listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix)
step("list", len(listed["Contents"]) == 2)

big = os.urandom(MIB) * 64
big_digest = hashlib.sha256(big).hexdigest()
transfer = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB, max_concurrency=4)
s3.upload_fileobj(io.BytesIO(big), bucket, prefix + "big", Config=transfer)
head = s3.head_object(Bucket=bucket, Key=prefix + "big")
step("multipart put", head["ContentLength"] == len(big) and head["ETag"].strip('"').endswith("-8"))
step("multipart get", digest(s3.get_object(Bucket=bucket, Key=prefix + "big")["Body"]) == big_digest)

upload = s3.create_multipart_upload(Bucket=bucket, Key=prefix + "aborted")["UploadId"]
s3.upload_part(Bucket=bucket, Key=prefix + "aborted", UploadId=upload, PartNumber=1, Body=b"x" * 5 * MIB)
s3.abort_multipart_upload(Bucket=bucket, Key=prefix + "aborted", UploadId=upload)
step("multipart abort", True)

for o in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
    s3.delete_object(Bucket=bucket, Key=o["Key"])
try:
    s3.get_object(Bucket=bucket, Key=small)
    step("delete", False)
except ClientError as e:
    step("delete", e.response["Error"]["Code"] == "NoSuchKey")
