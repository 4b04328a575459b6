"""A server of a real checkpoint as a process of its own: what vLLM does with token ids, stops, salts and new weights.

    python model_server.py FOLDER PORT_FILE [--delay SECONDS]

One token at a time, the context computed anew for each: for models of a few thousand parameters.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import safetensors.torch
import torch

from asyncthink.engines.checkpoint import load_checkpoint
from asyncthink.engines.detokenize import Detokenizer, TokenBytes
from asyncthink.engines.llama import Llama


class Handler(BaseHTTPRequestHandler):
    """Requests, each in a thread of its own."""

    protocol_version = "HTTP/1.1"
    model: ClassVar[Llama]
    table: ClassVar[TokenBytes]
    eos: ClassVar[frozenset[int]]
    delay: ClassVar[float]
    sglang: ClassVar[bool]
    """Whether new weights come by SGLang's route instead of vLLM's."""
    lock: ClassVar = Lock()
    requests: ClassVar[list[dict[str, Any]]] = []
    reloads: ClassVar[list[str]] = []

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            entry = {
                "id": "policy",
                "object": "model",
                "owned_by": "sglang" if self.sglang else "vllm",
                "max_model_len": 512,
            }
            self.answer(200, {"object": "list", "data": [entry]})
        elif self.path == "/seen":
            self.answer(200, {"requests": self.requests, "reloads": self.reloads})
        else:
            self.answer(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if self.path == "/v1/completions":
            with suppress(OSError):  # a client that has what it wants leaves
                self.complete(body)
        elif self.path == ("/update_weights_from_disk" if self.sglang else "/collective_rpc"):
            path = Path(body["model_path"] if self.sglang else body["kwargs"]["weights_path"])
            assert self.sglang or body["method"] == "reload_weights"
            with self.lock:
                tensors = safetensors.torch.load_file(path / "model.safetensors")
                own = dict(self.model.named_parameters())
                for name, tensor in tensors.items():
                    own[name].data.copy_(tensor)
                self.reloads.append(str(path))
            self.answer(200, {"results": [None]})
        elif self.path == "/reset_prefix_cache" and not self.sglang:
            self.answer(200, {})
        else:
            self.answer(404, {})

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def complete(self, body: dict[str, Any]) -> None:
        if not body.get("return_token_ids") or body.get("seed") is not None:
            self.answer(400, {"error": {"message": "token ids and no seed, please"}})
            return
        if not body.get("stream"):  # somebody wants to know whether ids are told
            choice = {"index": 0, "text": "", "token_ids": body["prompt"][:1], "finish_reason": "length"}
            self.answer(200, {"choices": [choice]})
            return
        self.requests.append({"salt": body.get("cache_salt"), "tokens": len(body["prompt"])})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        text, finish, count = "", "length", 0
        spell = Detokenizer(self.table)
        ids = list(body["prompt"])
        while count < body["max_tokens"]:
            time.sleep(self.delay)
            with self.lock, torch.inference_mode():
                inputs = torch.tensor([ids])
                logits = self.model(inputs, torch.arange(len(ids))[None])[0, -1].float()
                chances = torch.log_softmax(logits, -1)
                token = int(torch.multinomial(chances.exp(), 1))
            ids.append(token)
            count += 1
            new = "" if token in self.eos else spell.feed(token)
            text += new
            choice = {
                "index": 0,
                "text": new,
                "token_ids": [token],
                "logprobs": {"tokens": [new], "token_logprobs": [float(chances[token])]},
                "finish_reason": None,
            }
            self.event({"choices": [choice], "usage": usage(body, count)})
            if token in self.eos or any(stop in text for stop in body.get("stop", ())):
                finish = "stop"
                break
        last = {"index": 0, "text": "", "logprobs": None, "finish_reason": finish}
        self.event({"choices": [last], "usage": usage(body, count)})
        self.event({"choices": [], "usage": usage(body, count)})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def event(self, data: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(data).encode() + b"\n\n")
        self.wfile.flush()


def usage(body: dict[str, Any], count: int) -> dict[str, int]:
    prompt = len(body["prompt"])
    return {"prompt_tokens": prompt, "completion_tokens": count, "total_tokens": prompt + count}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("port_file", type=Path)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--sglang", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(arguments.folder)
    Handler.sglang = arguments.sglang
    Handler.model, Handler.delay = checkpoint.model, arguments.delay
    Handler.table, Handler.eos = TokenBytes(checkpoint.tokenizer), frozenset(checkpoint.eos)
    server = ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler)
    server.daemon_threads = True
    part = arguments.port_file.with_suffix(".part")
    part.write_text(str(server.server_address[1]))
    part.rename(arguments.port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
