"""Malformed bodies through the real server: some of those the handlers meet in their own."""

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server import RunningServer, assert_error
from tests.service.protocols.v2.test_fuzz import IMAGES, INFER, bodies, valid, written
from tests.tiny import tiny_logits

pytestmark = pytest.mark.e2e


@pytest.mark.thorough
def test_malformed_bodies_leave_the_service_answering(two_wires: RunningServer) -> None:
    with httpx.Client(base_url=two_wires.url, timeout=30) as client:

        @settings(
            max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(st.one_of(bodies(), st.tuples(st.binary(max_size=300), st.just([]))))
        def ask(sent: tuple[bytes, list[tuple[str, str]]]) -> None:
            headers: list[Any] = [(name, value.encode("latin-1")) for name, value in sent[1]]
            answer = client.post(INFER, content=sent[0], headers=headers)
            if answer.status_code != 200:
                assert 400 <= answer.status_code < 500, answer.text
                assert_error(answer, answer.status_code, ".")

        ask()
        body, headers = written(*valid("binary"))
        said = client.post(INFER, content=body, headers=headers).json()["outputs"]
    assert said[0]["data"] == tiny_logits(IMAGES).ravel().tolist()
