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
# not add them to several operations at once. Bodies name a workspace that exists, or
# hardly any would get past the 404.
SCHEMA_URL=$url SCHEMA_TOKEN=$token "$python" - "$work/openapi.json" <<'EOF'
import json, os, sys, urllib.request, uuid, yaml
url = os.environ["SCHEMA_URL"]
def call(path, body=None):
    request = urllib.request.Request(url + path, data=body and json.dumps(body).encode())
    request.add_header("Authorization", "Bearer " + os.environ["SCHEMA_TOKEN"])
    return urllib.request.urlopen(request).read()
document = yaml.safe_load(call("/openapi.yaml"))
workspace = json.loads(call("/workspace", {"name": "schemathesis " + str(uuid.uuid4())}))["workspace"]["id"]
document = json.loads(json.dumps(document))
for name, schema in document["components"]["schemas"].items():
    if name.endswith(("Create", "Update")) and "workspaceId" in schema.get("properties", {}):
        schema["properties"]["workspaceId"] = {"enum": [workspace]}
json.dump(document, open(sys.argv[1], "w"))
EOF

cd "$work" # it leaves caches behind
"$python" -c 'from schemathesis.cli import schemathesis; schemathesis()' run openapi.json --url "$url" \
    --header "Authorization: Bearer $token" --no-color --workers 1 --seed 1 --max-examples "$examples" \
    --rate-limit 90/s --request-timeout 30 --continue-on-failure --warnings off --generation-database none \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,unsupported_method,ignored_auth,use_after_free \
    "$@"
