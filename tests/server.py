"""An OpenAI-compatible server for tests, with a fixed latency, a number of slots, and faults.

    python server.py [--latency SECONDS] [--slots N] [--faults SHARE] [--log FILE]

It prints its port and serves until its standard input ends. An answer depends on the request alone. A fault depends on
the request and on how often it came, so a run can be repeated. The log has a line for each request that came
("asked DIGEST") and for each one that got a whole answer of the model ("answered DIGEST").
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
from collections import Counter

# Before the model answers: the request gets no answer, so asking again is right.
NO_ANSWER = (
    "429",
    "429 in a moment",
    "500",
    "503",
    "hang up",
    "cut body",
    "error under 200",
    "no choices",
    "html",
    "trickle",
)
# The model answered, badly: it is for the reader of replies to make something of it.
BAD_ANSWER = ("cut json", "wrong types", "prose", "fence", "duplicate keys", "length")
HEAD = b"HTTP/1.1 %s X\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
WORDS = ("Nairobi", "Oslo", "Wangari Maathai", "ออสโล", "الخرطوم")


def good_answer(digest: str) -> dict:
    "The model's answer to a request: three mentions."
    numbers = bytes.fromhex(digest)[:6]
    return {
        "entities": [
            {"text": WORDS[a % len(WORDS)], "label": f"type {b % 9}"}
            for a, b in zip(numbers[::2], numbers[1::2], strict=True)
        ]
    }


def answer(digest: str, fault: str) -> tuple[str, str]:
    "(text, finish_reason) as the model writes it."
    whole = json.dumps(good_answer(digest), ensure_ascii=False)
    return {
        "cut json": (whole[:-9], "stop"),
        "wrong types": (whole.replace('"type', '5, "more": "type', 1), "stop"),
        "prose": (f"Here are the entities:\n\n{whole}\n\nLet me know!", "stop"),
        "fence": (f"```json\n{whole}\n```", "stop"),
        "duplicate keys": (whole.replace('{"entities"', '{"entities": [], "entities"'), "stop"),
        "length": (whole[: len(whole) // 2], "length"),
    }.get(fault, (whole, "stop"))


class Server:
    def __init__(self, latency: float, slots: int, faults: float, log: str):
        self.latency, self.slots, self.faults = latency, asyncio.Semaphore(slots), faults
        self.log = open(log, "a", buffering=1) if log else None
        self.came = Counter()  # how often each request came

    def fault(self, digest: str) -> str:
        'The fault of this request at this coming, or "".'
        self.came[digest] += 1
        number = int.from_bytes(hashlib.sha256(f"{digest} {self.came[digest]}".encode()).digest()[:8], "big")
        if number / 2**64 >= self.faults:
            return ""
        kinds = NO_ANSWER + BAD_ANSWER if self.came[digest] == 1 else NO_ANSWER
        return kinds[number % len(kinds)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                sent = await reader.readexactly(length)
                if not await self.respond(sent, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def respond(self, sent: bytes, writer: asyncio.StreamWriter) -> bool:
        "Answers one request; False ends the connection."
        request = json.loads(sent)
        digest = hashlib.sha256(json.dumps([request["messages"], request.get("max_tokens")]).encode()).hexdigest()
        self.note("asked", digest)
        fault = self.fault(digest)
        if fault in ("429", "429 in a moment", "500", "503"):
            extra = b"retry-after-ms: 30\r\n" if fault == "429 in a moment" else b""
            return await self.send(writer, b'{"error": {"message": "not now"}}', status=fault[:3].encode(), extra=extra)
        if fault == "hang up":
            return False
        async with self.slots:
            await asyncio.sleep(self.latency)
        if fault == "html":
            return await self.send(writer, b"<html>Bad gateway</html>")
        if fault == "error under 200":
            return await self.send(writer, b'{"error": {"message": "upstream failed", "code": 502}}')
        text, finish = answer(digest, fault)
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
        completion = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "usage": {"prompt_tokens": 100, "completion_tokens": 30},
            "choices": [] if fault == "no choices" else [choice],
        }
        whole = json.dumps(completion).encode()
        if fault in ("cut body", "trickle"):
            sent_bytes, pause = (200, 0.1) if fault == "trickle" else (9, 0)
            writer.write(HEAD % (b"200", b"", len(whole)))
            for byte in whole[:sent_bytes]:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(pause)
            return False
        goes_on = await self.send(writer, whole)
        if completion["choices"]:
            self.note("answered", digest)
        return goes_on

    async def send(
        self, writer: asyncio.StreamWriter, whole: bytes, *, status: bytes = b"200", extra: bytes = b""
    ) -> bool:
        "Sends an answer with the body `whole`; True: the connection stays."
        writer.write(HEAD % (status, extra, len(whole)) + whole)
        await writer.drain()
        return True

    def note(self, event: str, digest: str) -> None:
        if self.log:
            self.log.write(f"{event} {digest}\n")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--slots", type=int, default=1000)
    parser.add_argument("--faults", type=float, default=0.0)
    parser.add_argument("--log", default="")
    server = Server(**vars(parser.parse_args()))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, limit=2**24, backlog=2048)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
