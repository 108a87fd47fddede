"""Drives two buckets, each limited to a folder, with boto3. Prints one line per step
that held.

Usage: s3_boto3_folder.py ENDPOINT BUCKET FOLDER OTHER OTHERFOLDER, the credential in
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (never an argument: those are readable by
every user). The key "other" is in both buckets, beside the folders.
"""

import io
import os
import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, bucket, folder, other, other_folder = sys.argv[1:6]
MIB = 1 << 20
options = {
    "endpoint_url": endpoint,
    "region_name": "us-east-1",
    "config": Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
}
s3 = boto3.client("s3", **options)


def step(name, holds):
    if not holds:
        sys.exit(f"FAILED {name}")
    print(name, flush=True)


def refused(call, **kwargs):
    try:
        call(**kwargs)
        return False
    except ClientError as e:
        return e.response["ResponseMetadata"]["HTTPStatusCode"] == 403 and e.response["Error"]["Code"] in ("AccessDenied", "403")


keys = sorted(folder + "boto3/" + name for name in ("a", "ü €+%2F=&'()*~!$<>\".txt", "sub/b", "sub/c"))
for key in keys:
    s3.put_object(Bucket=bucket, Key=key, Body=b"mine")
step("put", all(s3.get_object(Bucket=bucket, Key=k)["Body"].read() == b"mine" for k in keys))
step("list", [o["Key"] for o in s3.list_objects(Bucket=bucket)["Contents"]] == keys)
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1})
step("list in pages", [o["Key"] for page in pages for o in page["Contents"]] == keys)
by = s3.list_objects_v2(Bucket=bucket, Prefix=folder + "boto3/", Delimiter="/")
step("list by directories", [p["Prefix"] for p in by["CommonPrefixes"]] == [folder + "boto3/sub/"] and len(by["Contents"]) == 2)
big = os.urandom(6 * MIB)
transfer = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
s3.upload_fileobj(io.BytesIO(big), bucket, folder + "boto3/big", Config=transfer)
step("multipart", s3.get_object(Bucket=bucket, Key=folder + "boto3/big")["Body"].read() == big)
s3.copy({"Bucket": bucket, "Key": folder + "boto3/big"}, other, other_folder + "big", Config=transfer)
step("copy", s3.head_object(Bucket=other, Key=other_folder + "big")["ContentLength"] == len(big))

out = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k in keys]})
step("delete objects", sorted(d["Key"] for d in out["Deleted"]) == keys and "Errors" not in out)
for name in (bucket, other):
    boto3.resource("s3", **options).Bucket(name).objects.all().delete()  # lists, then DeleteObjects
step("delete all", all("Contents" not in s3.list_objects_v2(Bucket=name) for name in (bucket, other)))

step("outside", refused(s3.get_object, Bucket=bucket, Key="other") and refused(s3.head_object, Bucket=bucket, Key="other")
     and refused(s3.list_objects_v2, Bucket=bucket, Prefix="o") and refused(s3.put_object, Bucket=bucket, Key="new", Body=b""))
step("delete outside", refused(s3.delete_objects, Bucket=bucket, Delete={"Objects": [{"Key": keys[0]}, {"Key": "other"}]}))
step("copy outside", refused(s3.copy_object, Bucket=bucket, Key=folder + "x", CopySource={"Bucket": other, "Key": "other"}))
