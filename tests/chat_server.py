"""A local server that speaks the protocol of OpenAI's chat completions, and replies as a test's script says."""

import json
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler


def fences(message: str) -> list[tuple[str, str]]:
    "(mark, text) of every fence in a message, as a reader finds them: opening line, and the first line that closes it."
    return re.findall(r"^<(\w+-[0-9a-f]{12})>\n(.*?)\n</\1>$", message, re.S | re.M)


class ChatHandler(BaseHTTPRequestHandler):
    "Answers each request with what `reply` makes of it."

    protocol_version = "HTTP/1.1"

    def reply(self, sent: dict) -> dict | None:
        "The JSON of the model's reply to a request; None: the request is refused."
        raise NotImplementedError

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
        value = self.reply(sent)
        message = {"role": "assistant", "content": json.dumps(value, ensure_ascii=False)}
        usage = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
        whole = {"id": "x", "object": "chat.completion", "created": 0, "model": sent["model"], "usage": usage}
        whole["choices"] = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = b'{"error": {"message": "not now"}}' if value is None else json.dumps(whole).encode()
        self.send_response(400 if value is None else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address, daemon_threads, request_queue_size = True, True, 64


@contextmanager
def serving(handler: type[ChatHandler]) -> Iterator[str]:
    "The address of a server of `handler`, for as long as the block runs."
    with _Threads(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
