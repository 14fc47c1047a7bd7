"""What an app does with LiteLLM's SDK; run by `test_stock_clients` in LiteLLM's own environment. Prints JSON."""

import json
import sys

import litellm

base_url, model, image, schema = sys.argv[1:]
content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": "Describe the image."}]
common = {
    "model": f"openai/{model}",
    "api_base": base_url,
    "api_key": "local",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}],
    "max_tokens": 24,
    "seed": 3,
}

answer = litellm.completion(**common)
chunks = list(litellm.completion(**common, stream=True, stream_options={"include_usage": True}))
wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": json.loads(schema), "strict": True}}
structured = litellm.completion(**(common | {"max_tokens": 64}), response_format=wanted)
try:
    litellm.completion(**(common | {"model": "openai/nobody"}))
    refused = ""
except litellm.NotFoundError as error:
    refused = str(error)

json.dump(
    {
        "text": answer.choices[0].message.content,
        "finish_reason": answer.choices[0].finish_reason,
        "tokens": answer.usage.completion_tokens,
        "streamed": "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices),
        "structured": structured.choices[0].message.content,
        "refused": refused,
    },
    sys.stdout,
)
