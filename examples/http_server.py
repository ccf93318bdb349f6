"""Classify over HTTP: python examples/http_server.py BUNDLE PORT

curl -F rgb=@rgb.png -F depth=@depth.png http://127.0.0.1:PORT/classify    (depth: 16-bit PNG in millimetres)
"""

import sys
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse
from starlette.routing import Route

import edgefuse
from edgefuse.io.images import read_depth, read_rgb

bundle, port = sys.argv[1:]


@asynccontextmanager
async def lifespan(app):
    with edgefuse.Classifier(bundle) as classifier:
        yield {"classifier": classifier}


# async, so that it runs in the thread that opened the engine. Starlette runs a plain `def` in a thread pool.
async def classify(request):
    async with request.form() as form:
        rgb, depth = form.get("rgb"), form.get("depth")
        if not (isinstance(rgb, UploadFile) and isinstance(depth, UploadFile)):
            raise edgefuse.EdgefuseError("two files were expected, in the form fields rgb and depth")
        pair = read_rgb(Path("rgb"), await rgb.read()), read_depth(Path("depth"), await depth.read())
    found = request.state.classifier(*pair, depth_unit_m=0.001)
    body = {name: getattr(found, name) for name in ("label", "probability", "gate", "nearest_m", "warning")}
    return JSONResponse({**body, "sensors": found.sensors._asdict()})


async def refuse(request, error):
    return JSONResponse({"error": str(error)}, status_code=400)


routes = [Route("/classify", classify, methods=["POST"])]
app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={edgefuse.EdgefuseError: refuse})
uvicorn.run(app, host="127.0.0.1", port=int(port))
