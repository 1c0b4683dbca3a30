#!/usr/bin/env bash
# Subject: openai 3.54.0 for Python, images.generate(stream=True).
#
# Guess:   when a server that does not stream answers stream=True with an ordinary 200 JSON body, the client raises an
#          error or hands the finished image on.
# Actual:  the client reads the JSON as a stream of events, finds none, and the loop over the events ends at once:
#          no event, no image, no exception. The image has been generated and paid for.
#          The caller can only tell by the response's content type or by counting events.
# Seen:    the same body: without stream one image, with stream=True zero events, no exception
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.54.0

cat >"$work/check.py" <<'EOF'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import openai

ANSWER = json.dumps({"created": 1, "data": [{"b64_json": "AAAA"}]}).encode()


class PlainServer(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), PlainServer)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}/v1")

images = client.images.generate(model="gpt-image-1", prompt="a lighthouse").data
stream = client.images.generate(model="gpt-image-1", prompt="a lighthouse", stream=True)
content_type = stream.response.headers["content-type"]
events = list(stream)
print(f"stream=False: {len(images)} image; stream=True: {len(events)} events, content type {content_type}")
sys.exit(0 if len(images) == 1 and events == [] else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
