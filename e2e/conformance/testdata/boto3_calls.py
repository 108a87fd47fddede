"""Calls an S3 endpoint with boto3 and prints what each call has for an outcome.

Usage: boto3_calls.py ENDPOINT BUCKET, the credential in AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY.
"""

import hashlib
import io
import random
import sys
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, bucket = sys.argv[1:3]
MIB = 1 << 20
random.seed(7)
body = random.randbytes(100_000)
big = random.randbytes(MIB) * 9
odd = "dir/.b/ü €+%2F=&'()~!$@,;:.txt"

s3 = boto3.client(
    "s3", endpoint_url=endpoint, region_name="us-east-1",
    config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, signature_version="s3v4"),
)


def outcome(name, call):
    try:
        print(f"{name}: {call()!r}", flush=True)
    except ClientError as e:
        m = e.response["ResponseMetadata"]
        print(f"{name}: {e.response['Error']['Code']} {m['HTTPStatusCode']}", flush=True)
    except urllib.error.HTTPError as e:
        print(f"{name}: HTTP {e.code}", flush=True)


def digest(b):
    return len(b), hashlib.sha256(b).hexdigest()[:16]


def keys(**args):
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, **args)
    return [(o["Key"], o["Size"], o["ETag"]) for p in pages for o in p.get("Contents", [])]


def read(key, **args):
    o = s3.get_object(Bucket=bucket, Key=key, **args)
    return o["ContentType"], o["Metadata"], o.get("ContentRange"), digest(o["Body"].read())


def fetch(url, data=None):
    with urllib.request.urlopen(urllib.request.Request(url, data=data, method="PUT" if data else "GET")) as r:
        return r.status, digest(r.read())


def put(key, data, **args):
    return s3.put_object(Bucket=bucket, Key=key, Body=data, **args)["ETag"]


def sign(call, key):
    return s3.generate_presigned_url(call, Params={"Bucket": bucket, "Key": key}, ExpiresIn=60)


def multipart():
    args = {"Bucket": bucket, "Key": "parts"}
    upload = s3.create_multipart_upload(**args)["UploadId"]
    args["UploadId"] = upload
    parts = []
    for n, data in enumerate([big[: 5 * MIB], big[5 * MIB :]], 1):
        parts.append({"PartNumber": n, "ETag": s3.upload_part(**args, PartNumber=n, Body=data)["ETag"]})
    listed = [(p["PartNumber"], p["Size"]) for p in s3.list_parts(**args)["Parts"]]
    s3.complete_multipart_upload(**args, MultipartUpload={"Parts": parts})
    return listed


def abort():
    args = {"Bucket": bucket, "Key": "aborted"}
    args["UploadId"] = s3.create_multipart_upload(**args)["UploadId"]
    s3.upload_part(**args, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(**args)


outcome("no such bucket", lambda: keys())
outcome("make bucket", lambda: s3.create_bucket(Bucket=bucket) and None)
outcome("head bucket", lambda: s3.head_bucket(Bucket=bucket) and None)
outcome("put", lambda: put(odd, body, ContentType="text/x-odd", Metadata={"note": "from boto3"}))
outcome("put of nothing", lambda: put("empty", b""))
for algorithm in ["CRC32", "CRC32C", "SHA1", "SHA256", "CRC64NVME"]:
    try:
        outcome(f"put with {algorithm}", lambda: put("sum/" + algorithm, body, ChecksumAlgorithm=algorithm))
    except Exception as e:  # CRC32C and CRC64NVME need the CRT
        print(f"put with {algorithm}: {type(e).__name__}", flush=True)
outcome("put of what is there already", lambda: put("empty", b"x", IfNoneMatch="*"))
outcome("transfer", lambda: s3.upload_fileobj(io.BytesIO(big), bucket, "big", Config=TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)))
outcome("parts", multipart)
outcome("abort", abort)
outcome("get", lambda: read(odd))
outcome("get of big", lambda: read("big"))
outcome("range", lambda: read(odd, Range="bytes=100-199"))
outcome("range beyond", lambda: read(odd, Range="bytes=200000-"))
outcome("if changed", lambda: read(odd, IfNoneMatch='"%s"' % hashlib.md5(body).hexdigest()))
outcome("part 2", lambda: read("parts", PartNumber=2))
outcome("head", lambda: s3.head_object(Bucket=bucket, Key=odd)["ContentLength"])
outcome("head of nothing", lambda: s3.head_object(Bucket=bucket, Key="missing"))
outcome("get of nothing", lambda: read("missing"))
outcome("copy", lambda: s3.copy_object(Bucket=bucket, Key="copied", CopySource={"Bucket": bucket, "Key": odd})["CopyObjectResult"]["ETag"])
outcome("copy of nothing", lambda: s3.copy_object(Bucket=bucket, Key="copied", CopySource={"Bucket": bucket, "Key": "missing"}))
outcome("copy in parts", lambda: s3.copy({"Bucket": bucket, "Key": "big"}, bucket, "big copy", Config=TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)))
outcome("tags", lambda: s3.put_object_tagging(Bucket=bucket, Key=odd, Tagging={"TagSet": [{"Key": "a", "Value": "b c"}]}) and s3.get_object_tagging(Bucket=bucket, Key=odd)["TagSet"])
outcome("list", lambda: keys())
outcome("list in pages", lambda: keys(MaxKeys=3))
outcome("list a folder", lambda: [p["Prefix"] for p in s3.list_objects_v2(Bucket=bucket, Delimiter="/")["CommonPrefixes"]])
outcome("list of old", lambda: [o["Key"] for o in s3.list_objects(Bucket=bucket, Prefix="dir/")["Contents"]])
outcome("uploads", lambda: s3.list_multipart_uploads(Bucket=bucket).get("Uploads"))
outcome("presigned get", lambda: fetch(sign("get_object", odd)))
outcome("presigned put", lambda: fetch(sign("put_object", "by url"), b"by url"))
outcome("presigned, tampered", lambda: fetch(sign("get_object", odd).replace("Expires=60", "Expires=90")))
outcome("bucket that is not empty", lambda: s3.delete_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"])
outcome("delete", lambda: s3.delete_object(Bucket=bucket, Key="copied")["ResponseMetadata"]["HTTPStatusCode"])
outcome("delete of nothing", lambda: s3.delete_object(Bucket=bucket, Key="missing")["ResponseMetadata"]["HTTPStatusCode"])
outcome("delete many", lambda: sorted(d["Key"] for d in s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": k} for k, _, _ in keys()]})["Deleted"]))
outcome("left", lambda: keys())
outcome("remove bucket", lambda: s3.delete_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"])
outcome("remove it again", lambda: s3.delete_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"])
