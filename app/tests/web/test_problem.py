from __future__ import annotations

import json

from mlaas4hep.core.errors import (
    ArchiveError,
    BundleError,
    BusyError,
    ConflictError,
    ForbiddenError,
    LimitError,
    MlaasError,
    ModelError,
    NotFoundError,
    SignInError,
    UsageError,
)
from mlaas4hep.web.problem import problem, status_of


def test_errors_have_their_status() -> None:
    found = {
        kind: status_of(kind("x"))
        for kind in (UsageError, ArchiveError, BundleError, NotFoundError, ConflictError,
                     LimitError, ModelError, BusyError, MlaasError, SignInError, ForbiddenError)
    }  # fmt: skip
    assert list(found.values()) == [400, 400, 400, 404, 409, 413, 422, 503, 400, 401, 403]


def test_a_problem_is_rfc_9457() -> None:
    response = problem(503, "too much", "come again", retry_after="1")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    assert json.loads(response.body) == {
        "title": "too much", "status": 503, "detail": "come again"
    }  # fmt: skip
