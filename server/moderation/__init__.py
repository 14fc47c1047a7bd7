"""Guard models: how they are asked (`formats`), and over which connection (`guard`)."""

from server.moderation.guard import GuardModel

__all__ = ["GuardModel"]
