from collections.abc import Iterator

import pytest

from tests.pipeline import PipelineHome, WillingPortal, pipeline_home
from tests.token_server import GuardedPortal, TokenServer


@pytest.fixture
def home() -> Iterator[PipelineHome]:
    with pipeline_home() as made:
        yield made


@pytest.fixture
def portal() -> Iterator[WillingPortal]:
    made = WillingPortal()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    made = TokenServer()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def guarded(tokens: TokenServer) -> Iterator[GuardedPortal]:
    made = GuardedPortal(tokens)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def there(guarded: GuardedPortal, tokens: TokenServer) -> dict[str, str]:
    """Where a job finds the two."""
    return {"SECLEA_PLATFORM_URL": guarded.url, "SECLEA_AUTH_URL": tokens.url}
