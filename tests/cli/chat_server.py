"""A scripted server of chat completions on localhost, as tests of `features explain` need one."""
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def verdicts(question, yes):
    """An answer to a question about numbered texts: 1 where `yes(text)`."""
    texts = re.split(r"\nText \d+: ", question)[1:]
    return str([int(yes(text)) for text in texts])


class ChatServer:
    """`answer(messages)` gives the text; `trouble(n)`, asked before the n-th request (from 0) is answered, None or
    (status, headers, body), or "hang", "drop", or ("raw", body) for a body of status 200."""

    def __init__(self, answer, trouble=lambda n: None, port=0):
        self.requests, self.keys, self.paths = [], [], []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.requests)
                    outer.requests.append(body)
                    outer.keys.append(self.headers.get("Authorization"))
                    outer.paths.append(self.path)
                found = trouble(number)
                if found == "hang":
                    time.sleep(3)
                    return
                if found == "drop":
                    self.connection.close()
                    return
                status, headers, reply = 200, {}, None
                if found is not None:
                    status, headers, reply = (200, {}, found[1]) if found[0] == "raw" else found
                if reply is None:
                    content = answer(body["messages"])
                    reply = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": content}}]})
                reply = reply.encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(reply)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply)

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
