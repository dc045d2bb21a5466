"""The peer of the reward service: pickled rollouts over HTTP, and no checks, as flow_grpo's server does it.

Prints its port. `python -m benchmarks.pickle_server`
"""

import pickle
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from benchmarks.probe_reward import Probe

REWARD = Probe()


class Handler(BaseHTTPRequestHandler):
    """Scores what it is sent."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One rollout in, one number out."""
        rollout = pickle.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = pickle.dumps(REWARD.score(rollout).value)
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
