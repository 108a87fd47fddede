"""Drives Keybridge with OpenAI's SDK and prints one line per step that held.

Usage: ai_openai.py BASE_URL MODELS, where MODELS is a JSON object {"all": [model],
"chat": [model], "embed": [model], "routed": bool}, routed saying that Keybridge
knows which models there are; the repository key in OPENAI_API_KEY (never an
argument: those are readable by every user).
"""

import json
import sys

import openai

base, models = sys.argv[1], json.loads(sys.argv[2])
client = openai.OpenAI(base_url=base, max_retries=0)


def step(name, holds):
    if not holds:
        sys.exit(f"FAILED {name}")
    print(name, flush=True)


def raises(kind, code, call):
    try:
        call()
    except kind as e:
        return e.code == code
    return False


def say(words):
    return [{"role": "user", "content": words}]


listed = list(client.models.list())
step("models", [m.id for m in listed] == models["all"] and all(m.object == "model" for m in listed))
step("model", all(client.models.retrieve(m).id == m for m in models["all"]))
for model in models["chat"]:
    answer = client.chat.completions.create(model=model, messages=say("good morning"))
    step(f"chat {model}", answer.choices[0].message.content == "You said: good morning" and answer.model == model)
    text, usage = "", None
    for chunk in client.chat.completions.create(
        model=model, messages=say("one two three"), stream=True, stream_options={"include_usage": True}
    ):
        text += "".join(c.delta.content or "" for c in chunk.choices)
        usage = chunk.usage or usage
    step(f"stream {model}", text == "You said: one two three" and usage.completion_tokens == 5)
for model in models["embed"]:
    answer = client.embeddings.create(model=model, input=["a", "b", "a"], encoding_format="float")
    vectors = [d.embedding for d in answer.data]
    step(f"embeddings {model}", len(vectors) == 3 and vectors[0] == vectors[2] != vectors[1])
words = "all work and no play " * 100_000
answer = client.chat.completions.create(messages=say(words), model=models["chat"][0])
step("long chat", answer.choices[0].message.content == "You said: " + words)
if models["routed"]:
    unknown = {"model": "nobody-has-this", "messages": say("x")}
    step("unknown model", raises(openai.NotFoundError, "model_not_found", lambda: client.chat.completions.create(**unknown)))
step("files", raises(openai.PermissionDeniedError, "operation_not_allowed", client.files.list))
wrong = openai.OpenAI(base_url=base, api_key=client.api_key[:-1] + "!", max_retries=0)
step("wrong key", raises(openai.AuthenticationError, "invalid_api_key", wrong.models.list))
