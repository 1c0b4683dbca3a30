#!/usr/bin/env bash
# Subject: openai 3.54.0 for Python, errors in the middle of an image stream.
#
# Guess:   an event named "error", or data of type "error" with a message (the shape of the Responses API), raises.
# Actual:  only data with a member "error" raises. The other two shapes arrive as an ImageGenPartialImageEvent
#          whose b64_json is None: an object of the partial image's class, filled from the data without
#          validation. Any event type that the client does not know gets the same class, so isinstance checks pass
#          and the failure shows later, as "NoneType" in base64.b64decode.
# Seen:    {"error": {...}}: APIError; {"type": "error", "message": ...}: ImageGenPartialImageEvent, b64_json None;
#          event: error: the same; {"type": "queue.position"}: the same
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

SHAPES = {
    "nested": 'data: {"type": "error", "error": {"message": "out of memory"}}\n\n',
    "flat": 'data: {"type": "error", "message": "out of memory"}\n\n',
    "event line": 'event: error\ndata: {"message": "out of memory"}\n\n',
    "unknown type": 'data: {"type": "queue.position", "position": 3}\n\n',
}


class StreamingServer(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = SHAPES[request["prompt"]].encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), StreamingServer)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(api_key="none", base_url=f"http://127.0.0.1:{server.server_port}/v1")

seen = {}
for shape in SHAPES:
    try:
        (event,) = client.images.generate(model="gpt-image-1", prompt=shape, stream=True)
        seen[shape] = f"{type(event).__name__} with b64_json {event.b64_json}"
    except openai.APIError as error:
        seen[shape] = f"raises {type(error).__name__}"
    print(f"{shape}: {seen[shape]}")

image = "ImageGenPartialImageEvent with b64_json None"
expected = {"nested": "raises APIError", "flat": image, "event line": image, "unknown type": image}
sys.exit(0 if seen == expected else "the behaviour has changed")
EOF
"$work/venv/bin/python" "$work/check.py"
