#!/usr/bin/env bash
# What a physicist's script does, with curl alone, on the routes of the prototype:
#   SERVER=URL TFAAS=URL [ISSUER=URL PERSON=COMMAND WHO=WORDS] user.sh NAME FOLDER
# With ISSUER it signs in by the device flow: the command PERSON gets the address that a person opens in a browser, and WHO it is.
# FOLDER has upload/ and events.json; predictions.json, bundle.tar.gz and log.txt are written there.
# Prints "PHASE SECONDS" after each phase; with KEEP=1 folder and model stay.
set -euo pipefail
name=$1 folder=$2 started=$(date +%s.%N)

ask() { # a request; an answer that is no success is shown and ends the script
  local answer status
  answer=$(mktemp)
  status=$(curl -sS ${TOKEN:+-H "Authorization: Bearer $TOKEN"} -o "$answer" -w '%{http_code}' "$@")
  if [[ $status != 2* ]]; then
    echo "$status from ${*: -1}: $(cat "$answer")" >&2
    return 1
  fi
  cat "$answer" && rm "$answer"
}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
phase() {
  local now
  now=$(date +%s.%N)
  python3 -c 'import sys; print(sys.argv[1], round(float(sys.argv[3]) - float(sys.argv[2]), 2))' "$1" "$started" "$now"
  started=$now
}

if [[ -n ${ISSUER:-} ]]; then
  client=(-d "client_id=${CLIENT:-mlaas4hep-cli}")
  issuer=$(curl -sSf "$ISSUER/.well-known/openid-configuration")
  device=$(curl -sSf "${client[@]}" -d scope=openid "$(field device_authorization_endpoint <<<"$issuer")")
  # shellcheck disable=SC2086 # words, on purpose
  $PERSON "$(field verification_uri_complete <<<"$device")" $WHO >&2
  sleep "$(field interval <<<"$device")"
  TOKEN=$(curl -sSf "${client[@]}" -d grant_type=urn:ietf:params:oauth:grant-type:device_code \
    -d "device_code=$(field device_code <<<"$device")" "$(field token_endpoint <<<"$issuer")" | field access_token)
  phase sign-in
fi

tar -C "$folder/upload" -czf "$folder/upload.tar.gz" .
ask -F "file=@$folder/upload.tar.gz" "$SERVER/upload?name=$name" >/dev/null
phase upload

job=$(ask -H 'Content-Type: application/json' -d "{\"name\": \"$name\", \"device\": \"cpu\", \"memory\": \"2gb\",
  \"cpus\": \"2\", \"files\": \"files.txt\", \"labels\": \"labels.txt\", \"model\": \"model.py\",
  \"params\": \"params.json\"}" "$SERVER/submit" | field process_name)
echo "job $job"
while state=$(ask "$SERVER/status_docker?process_name=$job" | field status); [[ $state != Exited* && $state != exited* ]]; do
  sleep 0.5
done
ask "$SERVER/logs?process_name=$job" >"$folder/log.txt"
ask "$SERVER/jobs/$job" >"$folder/job.json"
phase train

ask "$SERVER/model?process_name=$job" >"$folder/bundle.tar.gz"
tar -tzf "$folder/bundle.tar.gz" >"$folder/bundle.txt"
phase fetch

python3 -c 'import json, sys; asked = {"model": sys.argv[1], "events": json.load(open(sys.argv[2]))["events"]}; print(json.dumps(asked))' \
  "$job" "$folder/events.json" >"$folder/asked.json"
ask -d "@$folder/asked.json" "$TFAAS/predict/events" >"$folder/predictions.json"
phase predict

if [[ -z ${KEEP:-} ]]; then
  ask -X DELETE "$TFAAS/delete/$job" >/dev/null
  ask -X DELETE "$SERVER/folders/$name" >/dev/null
  phase delete
fi
