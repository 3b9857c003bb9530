"""LitServe: one worker, batches of up to 64, multipart upload."""

import os

import litserve
import model
from PIL import Image


class Api(litserve.LitAPI):
    """Decode, batch, predict, as LitServe's documentation has it."""

    def setup(self, device):
        """Nothing: the session is loaded on import."""

    def decode_request(self, request):
        """Open the uploaded file."""
        return model.pixels(Image.open(request["images"].file))

    def batch(self, inputs):
        """Stack images."""
        return model.rows(inputs)

    def predict(self, x):
        """Classify a batch."""
        return model.labels(x)

    def unbatch(self, output):
        """One label a request."""
        return output

    def encode_response(self, output):
        """Answer."""
        return {"label": output}


if __name__ == "__main__":
    litserve.LitServer(
        Api(max_batch_size=64, batch_timeout=0.001),
        accelerator="cpu",
        workers_per_device=int(os.environ.get("PEER_WORKERS", "1")),
        timeout=30,
    ).run(
        port=int(os.environ["PEER_PORT"]),
        generate_client_file=False,
        log_level="warning",
        num_api_servers=int(os.environ.get("PEER_WORKERS", "1")),
    )
