#!/bin/sh
# Schemathesis against a running admin API: it makes up requests from openapi.yaml,
# valid and broken ones, in sequences too, and fails on any server error, on any
# answer that the document does not describe, and where a route takes no token.
#
#   schemathesis.sh URL TOKEN_FILE [EXAMPLES] [option of `schemathesis run` …]
#
# PYTHON (default python3) must have the pinned schemathesis. The token must be ADMIN
# of all workspaces; the run makes one workspace and works in it, mostly.
set -eu
url=$1
token=$(cat "$2")
examples=${3:-10}
shift "$(( $# < 3 ? $# : 3 ))"
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# As JSON, without YAML's aliases: schemathesis adds links to what it read, and must
# not add them to several operations at once. Paths and bodies name records that
# exist, and values are mostly of a form that providers have, or hardly any request
# would get past a 404 or 400; what it breaks on purpose it breaks all the same.
SCHEMA_URL=$url SCHEMA_TOKEN=$token "$python" - "$work/openapi.json" <<'EOF'
import json, os, sys, urllib.request, uuid, yaml
url, run = os.environ["SCHEMA_URL"], "schemathesis-" + uuid.uuid4().hex[:8]
def call(path, body=None):
    request = urllib.request.Request(url + path, data=body and json.dumps(body).encode())
    request.add_header("Authorization", "Bearer " + os.environ["SCHEMA_TOKEN"])
    return urllib.request.urlopen(request).read()
def make(path, field, **body):
    return json.loads(call(path, {"name": run + "-" + field} | body))[field]
document = json.loads(json.dumps(yaml.safe_load(call("/openapi.yaml"))))

ws = make("/workspace", "workspace")["id"]
here = {"workspaceId": ws}
bucket = make("/bucket?validate=false", "bucketId", bucket="photos", storageType="S3", key="AK", secret="s", **here)
llm = make("/ai/llm?validate=false", "aiLlmId", aiType="OPENAI", secret="s", **here)
shared = make("/apikeys", "apiKeyId", provider="AWS", key="AK", secret="s", **here)
repo = make("/repo", "repoId", repoBuckets=[{"bucketId": bucket}], repoAiLlms=[{"aiLlmId": llm}], **here)
keys = {path: make("/repo/" + repo + path, "id", accessType="READ", aiType="OPENAI") for path in ("/apikey", "/ai/apikey")}

def one_of(name, *ids):
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": list(ids)}}
records = {"/workspace/": ws, "/bucket/": bucket, "/ai/llm/": llm, "/apikeys/": shared, "/repo/": repo}
for path, item in document["paths"].items():
    for prefix, record in records.items():
        if path.startswith(prefix + "{id}"):
            named = [one_of("id", record)]
            if "{keyId}" in path:
                named.append(one_of("keyId", keys["/ai/apikey" if "/ai/" in path else "/apikey"]))
            # A deletion gets any id, so that the others have something left.
            item.update({m: op | {"parameters": op.get("parameters", []) + named} for m, op in item.items() if m in ("get", "put", "post")})

visible = lambda n: {"type": "string", "pattern": "^[!-~]{1,%d}$" % n}
word = {"type": "string", "pattern": "^[A-Za-z0-9]{3,20}$"}
usual = {"workspaceId": {"enum": [ws]}, "secret": visible(40), "key": word, "name": word, "apiKeyUuid": {"enum": [shared]},
         "endpoint": {"enum": ["https://s3.us-east-1.amazonaws.com", "https://api.example.com"]}, "repoId": {"enum": [repo]},
         "bucketId": {"enum": [bucket]}, "aiLlmId": {"enum": [llm]}}
def settle(schema):
    for name, child in schema.get("properties", {}).items():
        if name in usual:
            schema["properties"][name] = usual[name]
        else:
            settle(child)
    if "items" in schema:
        settle(schema["items"])
for name, schema in document["components"]["schemas"].items():
    if name.endswith(("Create", "Update")):
        settle(schema)
settle(document["paths"]["/ai/models"]["post"]["requestBody"]["content"]["application/json"]["schema"])
document["components"]["parameters"]["validate"]["schema"] = {"enum": ["false"]}  # no call leaves the machine for these
json.dump(document, open(sys.argv[1], "w"))
EOF

cd "$work" # it leaves caches behind
"$python" -c 'from schemathesis.cli import schemathesis; schemathesis()' run openapi.json --url "$url" \
    --header "Authorization: Bearer $token" --no-color --workers 1 --seed 1 --max-examples "$examples" \
    --rate-limit 90/s --request-timeout 30 --continue-on-failure --warnings off --generation-database none \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth,use_after_free \
    "$@"
