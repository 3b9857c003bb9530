"""Users that send a model's golden images and check every answer's label.

A closed loop: each user sends its next image when the last answer is there. Run by ``headless``, or
by hand with locust's web page: ``locust -f loadtest/locustfile.py --host URL --golden
models/NAME/VERSION``. Reads the version's files itself: locust patches the standard library, so
nothing else is imported here.
"""

import json
import random
from pathlib import Path
from typing import Any

from locust import FastHttpUser, events, stats, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment


def round_response_time(response_time: float) -> float:
    """Keep three significant digits of milliseconds; locust keeps whole ones, too coarse here."""
    return float(f"{response_time:.3g}")


stats.bucket_response_time = round_response_time  # type: ignore[assignment]  # the documented hook


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]
def add_options(parser: LocustArgumentParser, **_: Any) -> None:
    """Add what this file needs to locust's command line."""
    parser.add_argument("--golden", help="directory of the version whose golden images are sent")
    parser.add_argument("--figures", help="file to write the figures to, as JSON")


class ImageUser(FastHttpUser):
    """Sends golden images, one a request, to the version that they belong to."""

    def on_start(self) -> None:
        """Read the images and the labels that the model gave them when it was published."""
        options = self.environment.parsed_options
        assert options is not None, "locust was started without a command line; this is a bug"
        folder = Path(options.golden)
        artifact = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self._path = f"/models/{artifact['name']}/versions/{artifact['version']}/predict"
        self._images = [
            (
                (folder / golden["path"]).read_bytes(),
                max(range(len(artifact["labels"])), key=golden["probabilities"].__getitem__),
            )
            for golden in artifact["golden"]
        ]

    @task
    def predict(self) -> None:
        """Send one image; another label than the recorded one is a failure."""
        image, index = random.choice(self._images)
        with self.client.post(
            f"{self._path}?top=1",
            data=image,
            headers={"Content-Type": "application/octet-stream"},
            name="predict",
            catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(f"expected 200, got {response.status_code}: {response.text}")
                return
            got = response.json()["results"][0]["predictions"][0]["index"]
            if got != index:
                response.failure(f"expected the label of index {index}, got that of {got}")


@events.quitting.add_listener  # type: ignore[untyped-decorator]
def write_figures(environment: Environment, **_: Any) -> None:
    """Write requests/s, percentiles and failures for whoever started locust."""
    options = environment.parsed_options
    if options is None or not options.figures:
        return
    total = environment.stats.total
    figures = {
        "requests": total.num_requests,
        "failures": total.num_failures,
        "requests_per_s": round(total.total_rps, 1),
        **{
            f"p{round(100 * share)}_ms": total.get_response_time_percentile(share)
            for share in (0.5, 0.95, 0.99)
        },
        "causes": {
            str(error.error): error.occurrences for error in environment.stats.errors.values()
        },
    }
    Path(options.figures).write_text(json.dumps(figures), encoding="utf-8")
