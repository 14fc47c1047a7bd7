"""The command tree. Each command is a thin call of the SDK; `up` runs the stack."""

from __future__ import annotations

import typer

from clients.cli import configuration, exchange, keys, methods, operate, privacy, reward, rounds, talk, up

app = typer.Typer(
    name="plumbline",
    help="Run and operate Plumbline: aligned answers from a vision-language model that learns from its users.",
    epilog="The server and the key come from --url and --key, or PLUMBLINE_URL and PLUMBLINE_KEY. "
    "Exit status: 0 done, 1 refused or failed, 2 wrong arguments, 3 no connection.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

app.command()(up.up)
operate.register(app)
talk.register(app)
exchange.register(app)
privacy.register(app)
keys.register(app)
reward.register(app)
configuration.register(app)
rounds.register(app)
methods.register(app)
