#!/bin/sh
# Creates the namespace and the search attribute that Temper's runs are found by. Safe to run again.
set -eu

temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" > /dev/null 2>&1 \
  || temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention 30d
temporal operator search-attribute list --namespace "$TEMPORAL_NAMESPACE" | grep -q TemperStage \
  || temporal operator search-attribute create --namespace "$TEMPORAL_NAMESPACE" --name TemperStage --type Keyword
