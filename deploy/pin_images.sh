#!/bin/sh
# Writes the images of others into .env by digest, so that the same bytes run until this is called again:
# deploy/pin_images.sh [FILE]. Asks the registries; names that are not in docker-compose.yml any more stay as they are.
set -eu
file=${1:-.env}
umask 077
touch "$file"
sed -n 's/.*\${\([A-Z]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' docker-compose.yml | sort -u | while read -r name image; do
    digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image" </dev/null)
    grep -v "^$name=" "$file" >"$file.new" || true
    echo "$name=${image%:*}@$digest" >>"$file.new"
    cat "$file.new" >"$file"
    rm "$file.new"
    echo "$name=${image%:*}@$digest"
done
