"""mosec: a Rust front, one worker, batches of up to 64."""

import io
import os

import model
from mosec import Server, Worker
from PIL import Image


class Infer(Worker):
    """Decode each request, classify the batch."""

    def deserialize(self, data):
        """Open the image in the body."""
        return model.pixels(Image.open(io.BytesIO(data)))

    def forward(self, data):
        """Classify a batch."""
        return [{"label": label} for label in model.labels(model.rows(data))]


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Infer, num=int(os.environ.get("PEER_WORKERS", "1")), max_batch_size=64, max_wait_time=1
    )
    server.run()
