from collections.abc import Iterator

import pytest

from support import issuer as parts


@pytest.fixture
def issuer() -> Iterator[parts.Issuer]:
    with parts.issuer() as started:
        yield started
