"""What ``foveal serve`` leaves out of BentoML, in a process that has imported nothing yet."""

import subprocess
import sys

from tests.places import ROOT

START = (
    "import sys\n"
    "from service.workers.left_out import LATER, LEFT_OUT, leave_out\n"
    "assert not any(name.startswith('bentoml') for name in sys.modules)\n"
    "leave_out()\n"
)


def ran(code: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", START + code],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_every_part_is_one_that_bentoml_would_import() -> None:
    """An upgrade that moves one, or imports it no longer, fails here."""
    code = (
        "from bentoml_cli.serve import serve_command\n"
        "import _bentoml_impl.server.app, bentoml._internal.bento.build_config\n"
        "import _bentoml_impl.client\n"
        "print(sorted({*LEFT_OUT, *LATER} - sys.modules.keys()))"
    )
    assert ran(code).strip() == "[]"


def test_what_comes_later_is_whole_once_it_is_used() -> None:
    code = (
        "import httpx, jinja2\n"
        "assert 'httpx._client' not in sys.modules and 'jinja2.environment' not in sys.modules\n"
        "print(httpx.Client.__name__, jinja2.Environment().from_string('{{ 6 * 7 }}').render())"
    )
    assert ran(code).strip() == "Client 42"


def test_what_is_left_out_says_so_when_it_is_used() -> None:
    code = (
        "from bentoml._internal.cloud.client import RestApiClient\n"
        "try: RestApiClient('https://cloud', 'token')\n"
        "except NotImplementedError as error: print(error)"
    )
    assert ran(code).strip() == (
        "bentoml._internal.cloud.client.RestApiClient: a service needs none, so `foveal serve` "
        "leaves it out; this is a bug"
    )
