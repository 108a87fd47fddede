"""Drives Keybridge with Anthropic's SDK and prints one line per step that held.

Usage: ai_anthropic.py BASE_URL MODELS, where MODELS is a JSON object {"all": [model],
"routed": bool}, routed saying that Keybridge knows which models there are; the
repository key in REPOSITORY_KEY (never an argument: those are readable by every user).
"""

import json
import os
import sys

import anthropic

base, options = sys.argv[1], json.loads(sys.argv[2])
models = options["all"]
key = os.environ["REPOSITORY_KEY"]
clients = {
    "api_key": anthropic.Anthropic(base_url=base, api_key=key, max_retries=0),
    "auth_token": anthropic.Anthropic(base_url=base, auth_token=key, max_retries=0),
    "x-api-key": anthropic.Anthropic(base_url=base, default_headers={"X-Api-Key": key}, max_retries=0),
}
client = clients["api_key"]


def step(name, holds):
    if not holds:
        sys.exit(f"FAILED {name}")
    print(name, flush=True)


def raises(kind, error, call):
    try:
        call()
    except kind as e:
        return e.body["type"] == "error" and e.body["error"]["type"] == error
    return False


def say(words):
    return [{"role": "user", "content": words}]


for how, c in clients.items():
    answer = c.messages.create(model=models[0], max_tokens=100, messages=say("good morning"))
    step(f"message by {how}", answer.content[0].text == "You said: good morning")
for model in models:
    answer = client.messages.create(model=model, max_tokens=100, messages=say([{"type": "text", "text": "hi"}]))
    step(f"message {model}", answer.content[0].text == "You said: hi" and answer.model == model)
    with client.messages.stream(model=model, max_tokens=100, messages=say("one two three")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    step(f"stream {model}", text == "You said: one two three" and final.stop_reason == "end_turn" and final.usage.output_tokens == 5)
    step(f"count {model}", client.messages.count_tokens(model=model, messages=say("one two three")).input_tokens == 3)
step("models", [m.id for m in client.models.list()] == models)
step("models in pages", [m.id for m in client.models.list(limit=1)] == models)
step("model", all(client.models.retrieve(m).id == m for m in models))
answer = client.beta.messages.create(
    model=models[0], max_tokens=100, messages=say("hi"), betas=["interleaved-thinking-2025-05-14", "context-1m-2025-08-07"]
)
step("beta", answer.content[0].text == "You said: hi")
words = "all work and no play " * 100_000
answer = client.messages.create(model=models[0], max_tokens=100, messages=say(words))
step("long message", answer.content[0].text == "You said: " + words)
small = {"max_tokens": 1, "messages": say("x")}
if options["routed"]:
    step("unknown model", raises(anthropic.NotFoundError, "not_found_error", lambda: client.messages.create(model="nobody-has-this", **small)))
stored = {"model": models[0], "betas": ["files-api-2025-04-14"], **small}
step("feature that reaches files", raises(anthropic.BadRequestError, "invalid_request_error", lambda: client.beta.messages.create(**stored)))
step("batches", raises(anthropic.PermissionDeniedError, "permission_error", client.messages.batches.list))
step("files", raises(anthropic.PermissionDeniedError, "permission_error", client.beta.files.list))
wrong = anthropic.Anthropic(base_url=base, api_key=key[:-1] + "!", max_retries=0)
step("wrong key", raises(anthropic.AuthenticationError, "authentication_error", wrong.models.list))
