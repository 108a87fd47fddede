"""Seals a provider's secret as SECURITY.md and package seal document it, with
nothing of Keybridge's own code.

Usage: seal_record.py vectors RECORDS.json CUSTODY.json
       seal_record.py bucket ADMIN ROOT < request.json

"vectors" holds this implementation against the frozen test vectors. "bucket" checks
the manifest that the admin API at ADMIN shows under the operator root in the file
ROOT, seals "secret" of the request to its current key, and posts the request with
the sealed record in its place; it prints the id of the connector. The admin token is
in ADMIN_TOKEN.
"""

import base64
import hashlib
import json
import os
import struct
import sys
import urllib.parse
import urllib.request
import uuid

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SUITE = 1  # AES-256-GCM, its key wrapped by RSA-OAEP-SHA256 of 3072 bits


def string(s):
    raw = s.encode()
    return struct.pack(">H", len(raw)) + raw


def canonical(h):
    """The one encoding of a record's header (seal.Header.Canonical)."""
    b = h["binding"]
    return b"".join(
        [
            string("keybridge record"),
            struct.pack(">H", h["format"]),
            string(h["workspace"]),
            string(h["type"]),
            string(h["record"]),
            struct.pack(">Q", h["version"]),
            string(b["use"]),
            string(b.get("key", "")),
            string(b.get("scheme", "")),
            string(b.get("host", "")),
            struct.pack(">H", b.get("port", 0)),
            string(b.get("ca", "")),
            string(b.get("scope", "")),
            string(b.get("repository", "")),
        ]
    )


def label(header, suite, key_id):
    return header + struct.pack(">H", suite) + string(key_id)


def oaep(of):
    return padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=of)


def spki(pem):
    key = serialization.load_pem_public_key(pem.encode())
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return key, hashlib.sha256(der).hexdigest()


def encode(b):
    return base64.b64encode(b).decode()


def seal(pem, header, secret):
    public, key_id = spki(pem)
    if public.key_size != 3072:
        raise ValueError("the sealing key is not RSA-3072")
    aad = canonical(header)
    dek, iv = os.urandom(32), os.urandom(12)
    body = AESGCM(dek).encrypt(iv, secret, aad)
    wrap = public.encrypt(dek, oaep(label(aad, SUITE, key_id)))
    return {
        "header": header,
        "key": {"suite": SUITE, "keyId": key_id, "value": encode(wrap)},
        "iv": encode(iv),
        "authTag": encode(body[-16:]),
        "message": encode(body[:-16]),
    }


def unseal(private, sealed):
    aad = canonical(sealed["header"])
    k = sealed["key"]
    dek = private.decrypt(base64.b64decode(k["value"]), oaep(label(aad, k["suite"], k["keyId"])))
    body = base64.b64decode(sealed["message"]) + base64.b64decode(sealed["authTag"])
    return AESGCM(dek).decrypt(base64.b64decode(sealed["iv"]), body, aad)


def verify(root, signed):
    """The manifest in a signed document; raises unless the operator root signed it."""
    payload = base64.b64decode(signed["payload"], validate=True)
    domain = b"keybridge manifest v1\n"
    Ed25519PublicKey.from_public_bytes(root).verify(base64.b64decode(signed["signature"]), domain + payload)
    manifest = json.loads(payload)
    if manifest["format"] != 1:
        raise ValueError("unknown manifest format")
    for key in manifest["sealingKeys"]:
        if spki(key["pem"])[1] != key["id"]:
            raise ValueError("a sealing key's id is not its digest")
    return manifest


def current(manifest):
    (key,) = [k for k in manifest["sealingKeys"] if k.get("current")]
    return key


def parse_root(text):
    if text.startswith("-----BEGIN"):
        key = serialization.load_pem_public_key(text.encode())
        return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return base64.b64decode(text.strip())


def equal(what, got, want):
    if got != want:
        sys.exit(f"{what}: {got!r}, want {want!r}")


def vectors(records_file, custody_file):
    with open(records_file) as f:
        records = json.load(f)
    private = serialization.load_der_private_key(bytes.fromhex(records["privateKey"]), None)
    equal("key id", spki(records["publicKey"])[1], records["keyId"])
    for r in records["records"]:
        sealed = r["json"]
        header = canonical(sealed["header"])
        equal(r["name"] + ": canonical header", header.hex(), r["canonicalHeader"])
        start = label(header, sealed["key"]["suite"], sealed["key"]["keyId"]).hex()
        equal(r["name"] + ": label", r["binary"][: len(start)], start)
        equal(r["name"] + ": plaintext", unseal(private, sealed).hex(), r["plaintext"])
        again = seal(records["publicKey"], sealed["header"], bytes.fromhex(r["plaintext"]))
        equal(r["name"] + ": sealed here", unseal(private, again).hex(), r["plaintext"])
    with open(custody_file) as f:
        custody = json.load(f)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    root = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(custody["root"])).public_key()
    root = root.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    for name in "Manifest", "Minimal":
        signed = json.loads(custody[name])
        equal(name + ": set", verify(root, signed)["set"], custody["set"])
        payload = bytearray(base64.b64decode(signed["payload"]))
        payload[-2] ^= 1
        signed["payload"] = encode(payload)
        try:
            verify(root, signed)
        except Exception as e:  # noqa: BLE001: whatever it is, it was not accepted
            del e
        else:
            sys.exit(name + ": an altered manifest verifies")
    print("vectors hold:", len(records["records"]), "records, 2 manifests")


def call(method, url, body=None):
    request = urllib.request.Request(url, method=method, data=None if body is None else json.dumps(body).encode())
    request.add_header("Authorization", "Bearer " + os.environ["ADMIN_TOKEN"])
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        sys.exit(f"{method} {url}: {e.code} {e.read().decode()}")


def bucket(admin, root_file):
    request = json.load(sys.stdin)
    with open(root_file) as f:
        root = parse_root(f.read())
    answer = call("GET", admin + "/sealing-key")
    key = current(verify(root, answer["manifest"]))
    equal("the sealing key that the API names", answer["keyId"], key["id"])
    endpoint = urllib.parse.urlsplit(request["endpoint"])
    record = str(uuid.uuid4())
    header = {
        "format": 1,
        "workspace": request["workspaceId"],
        "type": "credential",
        "record": record,
        "version": 1,
        "binding": {
            "use": "s3",
            "key": request["key"],
            "scheme": endpoint.scheme,
            "host": endpoint.hostname,
            "port": endpoint.port or {"https": 443, "http": 80}[endpoint.scheme],
            "scope": request["bucket"],
        },
    }
    request["id"] = record
    request["sealedSecret"] = seal(key["pem"], header, request.pop("secret").encode())
    print(call("POST", admin + "/bucket", request)["bucketId"])


if __name__ == "__main__":
    {"vectors": vectors, "bucket": bucket}[sys.argv[1]](*sys.argv[2:])
