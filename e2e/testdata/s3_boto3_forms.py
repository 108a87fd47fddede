"""Drives the other forms of S3 requests with boto3: presigned URLs, virtual-host
style, copies, listing buckets. Prints one line per step that held.

Usage: s3_boto3_forms.py ENDPOINT BUCKET OTHER FOREIGN PREFIX, the credential in
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (never an argument: those are readable by
every user). OTHER is a bucket of the same repository, FOREIGN one of another.
"""

import os
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, bucket, other, foreign, prefix = sys.argv[1:6]
MIB = 1 << 20

# What a DNS wildcard does for a real domain. glibc resolves subdomains of localhost
# only with nss-myhostname.
resolve = socket.getaddrinfo


def loopback(host, *args, **kwargs):
    return resolve("127.0.0.1" if str(host).endswith(".localhost") else host, *args, **kwargs)


socket.getaddrinfo = loopback


def client(url, style):
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        # Without signature_version boto3 presigns with SigV2 at endpoints that are not AWS's.
        config=Config(signature_version="s3v4", s3={"addressing_style": style}, retries={"total_max_attempts": 1}),
    )


def step(name, holds):
    if not holds:
        sys.exit(f"FAILED {name}")
    print(name, flush=True)


def ask(method, url, body=None, **headers):
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read()


def refused(code, call, **kwargs):
    try:
        call(**kwargs)
        return False
    except ClientError as e:
        return e.response["Error"]["Code"] == code


def forms(s3, style):
    """Every step in one addressing style."""
    key = f"{prefix}{style}/ü €+%2F=&'()*~!$.txt"
    body = os.urandom(50_000)

    def presign(operation, expires=3600, **kwargs):
        return s3.generate_presigned_url(operation, Params={"Bucket": bucket, "Key": key, **kwargs}, ExpiresIn=expires)

    status, _, _ = ask("PUT", presign("put_object", ContentType="text/x-test", Metadata={"note": "presigned"}), body,
                       **{"Content-Type": "text/x-test", "x-amz-meta-note": "presigned"})
    step(f"{style}: presigned put", status == 200)
    status, headers, got = ask("GET", presign("get_object", expires=604800, ResponseContentDisposition='attachment; filename="a b.txt"'))
    step(f"{style}: presigned get", status == 200 and got == body and headers["x-amz-meta-note"] == "presigned"
         and headers["Content-Disposition"] == 'attachment; filename="a b.txt"')
    status, headers, _ = ask("HEAD", presign("head_object", expires=1))
    step(f"{style}: presigned head", status == 200 and headers["Content-Length"] == str(len(body)))

    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    parts = []
    for number, part in enumerate((b"a" * 5 * MIB, b"b"), 1):
        status, headers, _ = ask("PUT", presign("upload_part", UploadId=upload, PartNumber=number), part)
        parts.append({"PartNumber": number, "ETag": headers["ETag"]})
    s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
    step(f"{style}: presigned parts", s3.head_object(Bucket=bucket, Key=key)["ContentLength"] == 5 * MIB + 1)

    url = presign("get_object")
    status, _, got = ask("GET", url.replace("X-Amz-Expires=3600", "X-Amz-Expires=3601"))
    step(f"{style}: presigned, tampered", status == 403 and b"<Code>SignatureDoesNotMatch</Code>" in got)
    status, _, got = ask("GET", presign("get_object", expires=604801))
    step(f"{style}: presigned, too long", status == 400 and b"<Code>AuthorizationQueryParametersError</Code>" in got)
    status, _, _ = ask("DELETE", presign("delete_object"))
    step(f"{style}: presigned delete", status == 204 and refused("404", s3.head_object, Bucket=bucket, Key=key))

    s3.put_object(Bucket=bucket, Key=key, Body=body, Metadata={"note": "put"})
    step(f"{style}: put and get", s3.get_object(Bucket=bucket, Key=key)["Body"].read() == body)
    copied = key + " copy"
    s3.copy_object(Bucket=other, Key=copied, CopySource={"Bucket": bucket, "Key": key})
    got = s3.get_object(Bucket=other, Key=copied)
    step(f"{style}: copy to another bucket", got["Body"].read() == body and got["Metadata"] == {"note": "put"})
    s3.copy_object(Bucket=bucket, Key=key, CopySource={"Bucket": bucket, "Key": key}, MetadataDirective="REPLACE", Metadata={"note": "new"})
    step(f"{style}: copy onto itself", s3.head_object(Bucket=bucket, Key=key)["Metadata"] == {"note": "new"})
    big = b"c" * 11 * MIB
    s3.put_object(Bucket=bucket, Key=key, Body=big)
    s3.copy({"Bucket": bucket, "Key": key}, other, copied, Config=TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB))
    head = s3.head_object(Bucket=other, Key=copied)
    step(f"{style}: copy in parts", head["ContentLength"] == len(big) and head["ETag"].strip('"').endswith("-3"))
    step(f"{style}: copy from a foreign bucket", refused("AccessDenied", s3.copy_object, Bucket=bucket, Key=key,
                                                         CopySource={"Bucket": foreign, "Key": "present"}))
    listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}{style}/")["Contents"]
    step(f"{style}: list", [o["Key"] for o in listed] == [key])
    for b, k in ((bucket, key), (other, copied)):
        s3.delete_object(Bucket=b, Key=k)


path = client(endpoint, "path")
forms(path, "path")
port = urllib.parse.urlsplit(endpoint).port
forms(client(f"http://localhost:{port}", "virtual"), "virtual")

names = [b["Name"] for b in path.list_buckets()["Buckets"]]
step("list buckets", names == sorted([bucket, other]))
pages = [[b["Name"] for b in page["Buckets"]]
         for page in path.get_paginator("list_buckets").paginate(PaginationConfig={"PageSize": 1})]
step("list buckets in pages", sum(pages, []) == names and len(pages) == 2)
