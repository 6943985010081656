from collections.abc import Iterator

import pytest

from tests.pipeline import PipelineHome, WillingPortal, pipeline_home


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
