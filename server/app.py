"""Puts the parts together: opens the state, starts the engine, serves the API, and ends in order."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import IO

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import start_http_server
from starlette.exceptions import HTTPException

from reward.types import Prompt
from server.adapters.registry import AdapterRegistry
from server.adapters.rollout import Rollout
from server.adapters.routing import Router
from server.api import adapters as adapters_api
from server.api import chat, feedback, health, operate, training
from server.api.deps import hash_key
from server.api.errors import error_response
from server.api.middleware import Envelope, from_http_exception
from server.config import Config
from server.engine.client import VllmEngine
from server.engine.port import Engine
from server.engine.supervisor import Supervisor
from server.errors import PlumblineError
from server.feedback import FeedbackDesk
from server.ids import new_id
from server.logs import configure_logging
from server.metrics import Metrics
from server.pipeline.admission import Admission
from server.pipeline.assemble import assemble
from server.pipeline.judges import build_judges
from server.pipeline.media import MediaIntake
from server.pipeline.pipeline import Pipeline
from server.pipeline.sanitise import Sanitiser, special_tokens
from server.services import Services
from server.store import keys
from server.store.blobs import BlobStore
from server.store.database import SqliteDatabase
from server.store.migrate import migrate
from server.tokens import Signer, load_secret
from server.wire import ChatMessage, directory_digest


class StartError(Exception):
    """Why the service cannot start, in one line."""


def lock_state(directory: Path) -> IO[str]:
    """Hold the state directory for this process alone; raises `StartError`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = (directory / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StartError(f"{directory} is in use by another server") from None
    except OSError as error:
        raise StartError(f"{directory}: {error.strerror}") from None
    return lock


def open_database(config: Config) -> SqliteDatabase:
    """The migrated, running database."""
    database = SqliteDatabase(
        config.store.directory / "plumbline.db", read_connections=config.store.read_connections
    )
    migrate(database.writer_engine)
    database.start()
    return database
