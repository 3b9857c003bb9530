"""What most people write: FastAPI and onnxruntime, one image a request, no batching."""

import io

import model
from fastapi import FastAPI, Request
from PIL import Image

app = FastAPI()


@app.post("/predict")
async def predict(request: Request):
    """Classify the image in the body."""
    image = model.pixels(Image.open(io.BytesIO(await request.body())))
    return {"label": model.labels(model.rows([image]))[0]}
