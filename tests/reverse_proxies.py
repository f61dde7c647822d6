"""Proxies of other makers before a gateway: nginx and HAProxy, where they are installed.

Both keep one connection to the gateway for whoever asks next, and deny `/admin` as an operator would.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

NGINX = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 32m; large_client_header_buffers 4 64k;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream gateway {{ server 127.0.0.1:{behind}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    location /admin {{ return 403; }}
    location / {{
      proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host x; proxy_buffering off; proxy_request_buffering off;
      proxy_read_timeout 4s; proxy_next_upstream off;
    }}
  }}
}}
"""
HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 4s
  timeout server 4s
  option http-keep-alive
  http-reuse always
  retries 0
listen gateway
  bind 127.0.0.1:{port}
  http-request deny if {{ path_beg /admin }}
  server gateway 127.0.0.1:{behind} pool-max-conn 1
"""
PROXIES = {"nginx": NGINX, "haproxy": HAPROXY}


@contextmanager
def run_proxy(name: str, port: int, behind: int, folder: Path) -> Generator[None]:
    """That proxy on `port` before `behind`; skips the test, saying so, where it is not installed."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install nginx-light haproxy)")
    config = folder / f"{name}.conf"
    config.write_text(PROXIES[name].format(port=port, behind=behind, folder=folder), encoding="utf-8")
    argv = [program, "-c" if name == "nginx" else "-f", str(config)]
    with (folder / f"{name}.log").open("w") as log, subprocess.Popen(argv, stderr=log, stdout=log) as running:
        try:
            _wait_for(port)
            yield
        finally:
            running.terminate()


def _wait_for(port: int) -> None:
    ends_at = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.05)
        else:
            return
