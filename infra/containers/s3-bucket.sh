#!/bin/sh
# Creates the artifact store's bucket. Safe to run again.
set -eu

aws s3api head-bucket --bucket "$BUCKET" 2> /dev/null || aws s3api create-bucket --bucket "$BUCKET"
