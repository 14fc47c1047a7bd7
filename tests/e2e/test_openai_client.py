"""The stock `openai` client, unchanged, against the real service on real vLLM."""

import httpx
import openai
import pytest

from clients.demo.scenes import scene
from tests.e2e.conftest import ALIAS, Service

pytestmark = pytest.mark.engine


def messages(seed: int = 5, text: str = "Describe the image.") -> list[dict[str, object]]:
    image = {"type": "image_url", "image_url": {"url": scene(seed).data_url()}}
    return [{"role": "user", "content": [image, {"type": "text", "text": text}]}]


def test_best_of_n_with_an_image(service: Service) -> None:
    """One request, several candidates, one answer, and why it was chosen."""
    reply = service.openai().chat.completions.create(
        model=ALIAS,
        messages=messages(),
        max_tokens=32,
        seed=3,
        logprobs=True,
        extra_body={"best_of": 4, "plumbline": {"explain": True}},
    )
    assert reply.choices[0].message.content
    assert reply.choices[0].logprobs.content
    assert len(reply.plumbline["explanation"]["candidates"]) == 4
    assert reply.usage.prompt_tokens > 9


@pytest.mark.parametrize("best_of", [1, 3])
def test_streaming(service: Service, best_of: int) -> None:
    """The client's stream iterator reads ours; the last chunk tells the ids."""
    stream = service.openai().chat.completions.create(
        model=ALIAS,
        messages=messages(),
        max_tokens=24,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"best_of": best_of},
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text
    assert chunks[-1].usage.completion_tokens > 0
    assert chunks[-1].plumbline["feedback_token"]


def test_errors_are_the_client_s_own(service: Service) -> None:
    """Each refusal arrives as the exception class that apps already handle."""
    client = service.openai()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=messages())
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=ALIAS, messages=messages(), extra_body={"best_of": 10_000})
    assert refused.value.param == "best_of"
    assert refused.value.request_id
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model=ALIAS, messages=messages(text="word " * 4000))
    assert too_long.value.code == "context_length_exceeded"
    assert client.chat.completions.create(model=ALIAS, messages=messages(), max_tokens=4).choices


def test_models_and_metrics(service: Service) -> None:
    """Apps find the alias; Prometheus finds the metrics, on their own listener only."""
    assert ALIAS in [model.id for model in service.openai().models.list()]
    scraped = httpx.get(service.metrics_url).text
    assert 'plumbline_engine_probe_success{replica="0"} 1.0' in scraped
    assert httpx.get(f"{service.url}/metrics").status_code == 404
