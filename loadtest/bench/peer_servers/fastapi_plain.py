"""What most people write: FastAPI and onnxruntime, one image a request, no batching."""

import io
import os

import model
from fastapi import FastAPI, Request
from PIL import Image

app = FastAPI()


@app.post("/predict")
async def predict(request: Request):
    """Classify the image in the body."""
    image = Image.open(io.BytesIO(await request.body()))
    if os.environ.get("PEER_RESIZE"):
        image = image.convert("RGB").resize(model.row_shape[1::-1])
    return {"label": model.labels(model.rows([image]))[0]}
