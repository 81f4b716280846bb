#!/bin/sh
# Reads the secrets from the mounted credentials, so that none stands in the compose file or its environment.
set -eu
LEPTON_NATS_PASSWORD="$(cat /credentials/nats-password)"
LEPTON_JETSTREAM_KEY="$(cat /credentials/jetstream.key)"
export LEPTON_NATS_PASSWORD LEPTON_JETSTREAM_KEY
exec nats-server --config /etc/nats/nats.conf
