# Sourced before a runbook: a house as docs/several-hosts.md makes it, with a connector,
# a repository, a key and an object. Functions start what a runbook stops.
listening() { for attempt in $(seq 100); do (exec 3<>"/dev/tcp/${1%:*}/${1#*:}") 2>/dev/null && return; sleep 0.1; done; return 1; }

read -r KEEPER_1 KEEPER_2 KEEPER_3 KEEPER_4 CONTROL ADMIN HEALTH S3_LISTENER AI_LISTENER _ <<<"$TEST_ADDRESSES"
export KEEPER_1 KEEPER_2 KEEPER_3 KEEPER_4 CONTROL ADMIN HEALTH S3_LISTENER AI_LISTENER
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
ALLOW="--allow-endpoint http://127.0.0.1"
BRIDGE=bridge-1 CONTROL_DIR=control
BRIDGE_KEEPERS="--keeper keeper-1=$KEEPER_1 --keeper keeper-2=$KEEPER_2 --keeper keeper-3=$KEEPER_3"

start_control() {
  keybridge control --dir "$CONTROL_DIR" --operator-root ceremony/root.pub --store keybridge.db --admin "$ADMIN" --bridges "$CONTROL" \
    --listener "s3=$S3_LISTENER" --listener "ai=$AI_LISTENER" $ALLOW 2>>control.log &
  CONTROL_PID=$!
  listening "$CONTROL"; listening "$ADMIN"
}
start_bridge() {
  keybridge bridge --dir "$BRIDGE" --operator-root ceremony/root.pub --manifest ceremony/manifest.json --control "$CONTROL" \
    $BRIDGE_KEEPERS --health "$HEALTH" $ALLOW 2>>bridge.log &
  BRIDGE_PID=$!
  keybridge envoy --dir "envoy-$BRIDGE" --bridge "$BRIDGE/ads.sock" 2>>envoy.log &
  ENVOY_PID=$!
  ready
}
stop_bridge() { kill "$BRIDGE_PID" "$ENVOY_PID"; wait "$BRIDGE_PID" "$ENVOY_PID" || true; }
restart_bridge() { stop_bridge; start_bridge; }
ready() { for attempt in $(seq 300); do curl --silent --fail "http://$HEALTH/ready" >/dev/null && return; sleep 0.1; done; curl --silent "http://$HEALTH/ready"; return 1; }
# works: the application's key still gets its object.
works() {
  for attempt in $(seq 50); do
    aws --endpoint-url "http://$S3_LISTENER" s3 cp s3://photos/object.txt - 2>works.err | grep -q "from before" && return; sleep 0.2
  done
  cat works.err; return 1
}

for n in 1 2 3; do
  keybridge keeper key-file keeper-$n.key
  keybridge enrol --role keeper --name keeper-$n --dir keeper-$n --key-file keeper-$n.key
done
keybridge enrol --role control --name control --dir control
keybridge enrol --role bridge --name bridge-1 --dir bridge-1
keybridge keeper key-file root.key
keybridge init --out ceremony --store keybridge.db --key-file root.key --threshold 2 --admin-token-file admin.token \
  --enrolment keeper-1/enrolment.json --enrolment keeper-2/enrolment.json --enrolment keeper-3/enrolment.json \
  --enrolment control/enrolment.json --enrolment bridge-1/enrolment.json
for n in 1 2 3; do
  keybridge keeper accept --dir keeper-$n --operator-root ceremony/root.pub --manifest ceremony/manifest.json \
    --delivery ceremony/keeper-$n.delivery --key-file keeper-$n.key
  address=KEEPER_$n
  keybridge keeper run --dir keeper-$n --operator-root ceremony/root.pub --listen "${!address}" --key-file keeper-$n.key 2>>keeper-$n.log &
  declare KEEPER_${n}_PID=$!
  listening "${!address}"
done
start_control
start_bridge
export KEYBRIDGE_ADMIN="http://$ADMIN" KEYBRIDGE_TOKEN_FILE=admin.token KEYBRIDGE_OPERATOR_ROOT=ceremony/root.pub
keybridge workspace create team-a
printf '%s\n' "$TEST_S3_SECRET" > provider-secret.txt
for attempt in $(seq 50); do # the bridge's report is on its way
  keybridge connector create photos --type S3 --bucket photos --endpoint "$TEST_S3" --key "$TEST_S3_KEY_ID" --secret-file provider-secret.txt && break || sleep 0.2
done
keybridge repo create web --connector photos
eval "$(keybridge key create --repo web --name host --access ADMIN --env)"
echo "from before" > object.txt
for attempt in $(seq 50); do aws --endpoint-url "http://$S3_LISTENER" s3 cp object.txt s3://photos/object.txt 2>/dev/null && break || sleep 0.2; done
export ROOT="--root ceremony/root.key.age --key-file root.key"
export CEREMONY="$ROOT --control $CONTROL --keeper keeper-1=$KEEPER_1 --keeper keeper-2=$KEEPER_2 --keeper keeper-3=$KEEPER_3"
works
