"""A stand-in for the APIs of OpenStack: what the IM's connector asks, and nothing else.

Keystone, Nova, Neutron, Glance and Cinder at one address, each in its module. What is not known,
be it a path, a query or a field of a body, is answered with 501 and kept in `Cloud.refused`: a test
then fails. Machines, volumes and the enforcement of security groups are those of machines.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import cinder
import glance
import keystone
import neutron
import nova
from answers import problem
from cloud import Cloud
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse


def application(cloud: Cloud) -> FastAPI:
    """The APIs of this cloud."""
    app = FastAPI(openapi_url=None, dependencies=[Depends(known_queries)])

    def refuse(request: Request, why: object) -> JSONResponse:
        said = f"{request.method} {request.url.path}?{request.url.query}: {why}"
        cloud.refused.append(said)
        return problem(501, f"the stand-in does not know {said}")

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def unknown_path(request: Request, error: Exception) -> JSONResponse:
        return refuse(request, "unknown path")

    @app.exception_handler(RequestValidationError)
    async def unknown_field(request: Request, error: RequestValidationError) -> JSONResponse:
        return refuse(request, f"{error.errors()} in {error.body}")

    @app.exception_handler(501)
    async def unknown_query(request: Request, error: HTTPException) -> JSONResponse:
        return refuse(request, error.detail)

    @app.middleware("http")
    async def noted(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        """Every call is noted; one that fails in here is a refusal too."""
        try:
            answer = await go_on(request)
        except Exception as error:
            answer = refuse(request, repr(error))
        cloud.log.append(f"{request.method} {request.url.path} {answer.status_code}")
        return answer

    def signed_in(request: Request) -> None:
        if not cloud.knows(request.headers.get("x-auth-token")):
            raise HTTPException(401, "The request you have made requires authentication.")

    app.include_router(keystone.routes(cloud))
    for service in (nova, neutron, glance, cinder):
        app.include_router(service.routes(cloud), dependencies=[Depends(signed_in)])
    return app


def known_queries(request: Request) -> None:
    """Refuse a query that the path's function does not name."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    if unknown := set(request.query_params) - known:
        raise HTTPException(501, f"unknown query {sorted(unknown)}")
