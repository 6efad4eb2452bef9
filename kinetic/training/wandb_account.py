"""Where Weights & Biases would log to: the mode, the account, the server, and what it takes for a project."""

import os
import re
import socket
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit

from kinetic.errors import KineticError
from kinetic.training.aside import Aside

WandbMode = Literal["auto", "online", "offline", "disabled"]

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
FORBIDDEN = "/\\#?%:"  # in the name of a project, says wandb
LONGEST = 128  # characters of a project's name
CONNECT = 2.0  # seconds to see whether there is a network


def check_project(name: str) -> None:
    """Refuse a name that wandb refuses for a project."""
    if not name.strip() or len(name) > LONGEST or set(name) & set(FORBIDDEN):
        shown = name if len(name) <= 40 else f"{name[:40]}..."
        raise KineticError(
            f"project {shown!r} cannot be the name of a W&B project: 1 to {LONGEST} characters, none of "
            f"{' '.join(FORBIDDEN)}; pass another as --run.project, or --run.wandb disabled"
        )


def wandb_mode(wanted: WandbMode) -> tuple[Literal["online", "offline", "disabled"], str | None]:
    """Decide how W&B logs, and give the reason in one line where it is not what it could be.

    "auto" is what WANDB_MODE says, else online where there is an account and a network, else offline.
    """
    stated = os.environ.get("WANDB_MODE", "")
    if wanted == "auto" and stated and stated not in MODES:
        return "offline", f"WANDB_MODE is {stated!r}, not online, offline or disabled"
    mode = MODES.get(stated) if wanted == "auto" else wanted
    if mode in ("offline", "disabled"):
        return mode, None  # type: ignore[return-value]
    if mode is None and os.environ.get("CI"):
        return "offline", "CI is set"
    try:
        host = account_host()
    except Exception as error:
        return "offline", brief(error)
    if host is None:
        return "offline", "no account is set up"
    return ("online", None) if reachable(host) else ("offline", f"there is no network to {urlsplit(host).netloc}")


def account_host() -> str | None:
    """Address of the server that wandb would log to, None where no account for it is set up.

    Raises what wandb raises for settings that it cannot read, and for a key that cannot be one.
    """
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    with environment({"WANDB_SILENT": "true", "WANDB_MODE": "online"}):
        try:
            host = str(wandb_setup.singleton().settings.base_url)
            found = wbauth.authenticate_session(host=host, source="kinetic", prompt=False, update_session=False)
        finally:
            wandb_setup.teardown()  # what was read is read again, in the mode that the run starts in
    return host if found else None


def reachable(address: str) -> bool:
    """Whether a server can be connected to; with a proxy in between nobody knows, and it counts as reachable."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    if urllib.request.getproxies().get(parts.scheme) and not urllib.request.proxy_bypass(host):
        return True
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        Aside()(lambda: socket.create_connection((host, port), timeout=CONNECT).close(), CONNECT)
    except OSError:
        return False
    return True


def brief(error: BaseException) -> str:
    """One short line of an error of wandb's."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    details = getattr(error, "errors", None)  # pydantic's
    if callable(details):
        first = details()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:160]
    text = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    if "<no message>" in text or re.search(r"\b401\b", text):
        return "the server refuses the account's key"
    if "deadline exceeded" in text:
        return "the server does not answer"
    return text[:160]


@contextmanager
def environment(values: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables of the environment, or remove those that are None, while the block runs."""
    before = {name: os.environ.get(name) for name in values}
    _assign(values)
    try:
        yield
    finally:
        _assign(before)


def _assign(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
