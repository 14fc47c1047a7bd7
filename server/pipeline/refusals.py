"""What is said about an image that is not taken. Never what a name resolved to, nor what a library said."""

from __future__ import annotations

from server.errors import BadRequest


def invalid(reason: str, code: str = "invalid_image") -> BadRequest:
    return BadRequest(f"The image cannot be used: {reason}.", param="messages", code=code)


def forbidden(reason: str) -> BadRequest:
    """The address is none that this installation fetches from."""
    return BadRequest(f"The image's address is not allowed: {reason}.", param="messages", code="image_url_forbidden")


def not_fetched(reason: str) -> BadRequest:
    """The address is allowed, and no image came from it."""
    return BadRequest(f"The image could not be fetched: {reason}.", param="messages", code="image_fetch_failed")
