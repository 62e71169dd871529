"""``mlaas4hep token``: an access token for scripts."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from mlaas4hep.core.errors import UsageError

SECRET = "MLAAS4HEP_CLIENT_SECRET"  # noqa: S105 (its name)


def token(
    issuer: Annotated[
        str,
        typer.Option(
            envvar="MLAAS4HEP_ISSUER", help="Address of the identity provider (OpenID Connect)."
        ),
    ],
    client_id: Annotated[
        str, typer.Option(help="Client id of this command at the issuer.")
    ] = "mlaas4hep",
    scope: Annotated[
        str,
        typer.Option(help="Scopes, separated by blanks; offline_access gives a long session."),
    ] = "openid",
    audience: Annotated[
        str, typer.Option(help="Service that the token is for, if the issuer requires it.")
    ] = "",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Sign in again, ignoring kept tokens.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Remove the kept tokens of this issuer and client.")
    ] = False,
) -> None:
    """Print an access token for scripts: sign in once in a browser, on any device.

    The address to visit and the code to enter are printed on stderr. Tokens are kept in
    ~/.local/state/mlaas4hep/tokens and refreshed; sign in again only when the session ends.
    A robot sets MLAAS4HEP_CLIENT_SECRET, the secret of its client, and gives --client-id.

    For example:

        TOKEN=$(mlaas4hep token --issuer https://issuer.example.org)

        curl -H "Authorization: Bearer $TOKEN" https://mlaas4hep.example.org/jobs
    """
    from mlaas4hep.client.sign_in import SignIn

    secret = os.environ.get(SECRET, "")
    if secret and client_id == "mlaas4hep":
        raise UsageError(
            f"{SECRET} is set, but no client is named",
            f"Give the robot's --client-id; a person unsets {SECRET}.",
        )
    sign_in = SignIn(issuer, client_id, scope, audience, secret)
    if forget:
        count = sign_in.forget()
        typer.echo(
            f"{count or 'no'} kept sign-in{'s' * (count != 1)} of {issuer} removed", err=True
        )
        return
    typer.echo(sign_in.token(fresh))
