"""A stand-in of the webui's API around our routes, as far as clients use it, and a server for it.

After api.py of 1.10.1: the same paths, the same error bodies, the same order of arguments; nothing is painted.
"""

import base64
import io
import json
import threading
from contextlib import contextmanager
from types import SimpleNamespace

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBasic
from PIL import Image
from pydantic import BaseModel

from host import infotext as pictures
from host.process import Processing, Run
from ldznet.webui import infotext
from ldznet.webui.api import routes
from ldznet.webui.api.guard import authorize
from ldznet.webui.controls import AUTOMATIC_THRESHOLD, CONTROLS
from ldznet.webui.settings_page import OF_CONTROLS


class Img2Img(BaseModel):
    """The fields of StableDiffusionImg2ImgProcessingAPI that matter here."""

    init_images: list
    alwayson_scripts: dict = {}
    infotext: str | None = None
    override_settings: dict | None = None


def application(webui, *, api_auth=None, with_api=True):
    """Return what `create_api` and the callback `on_app_started` make."""
    webui.shared.cmd_opts.api, webui.shared.cmd_opts.api_auth = with_api, api_auth
    app = FastAPI()

    @app.exception_handler(HTTPException)
    async def refused(_request, why):
        body = {"error": "HTTPException", "detail": why.detail, "body": "", "errors": str(why)}
        return JSONResponse(body, why.status_code, headers=why.headers)

    def allowed(request: Request):
        authorize(webui.shared.cmd_opts.api_auth, request.headers.get("authorization", ""))

    fields = infotext.fields([SimpleNamespace(value=control.default) for control in CONTROLS])
    asked = [Depends(allowed), Depends(HTTPBasic(auto_error=False))] if api_auth else []

    @app.get("/sdapi/v1/scripts", dependencies=asked)
    def scripts():
        return {"txt2img": [], "img2img": ["ld-znet segment"]}

    @app.post("/sdapi/v1/img2img", dependencies=asked)
    def img2img(body: Img2Img):
        from modules.call_queue import queue_lock

        # The API's defaults come from components without a value where a request says what is meant.
        left_open = (*OF_CONTROLS, "threshold", AUTOMATIC_THRESHOLD)
        args = [*(None if control.name in left_open else control.default for control in CONTROLS), ""]
        override = {}
        if body.infotext:
            args[:-1] = pictures.by_api(fields, body.infotext)
            named = pictures.read(body.infotext).get("LD-ZNet template")
            override = {} if named is None else {"ldznet_template": named}
        override |= body.override_settings or {}
        named = {name.lower(): value for name, value in body.alwayson_scripts.items()}
        given = named.get("ld-znet segment", {}).get("args", [])
        for place in range(min(len(given), len(args))):
            args[place] = given[place]
        p = Processing(webui.model, [picture(text) for text in body.init_images], is_api=True)
        opts = vars(webui.shared.opts)
        with queue_lock:
            before = dict(opts)
            opts |= override  # for all who read them meanwhile
            try:
                processed = Run(webui.hooks).once(p, args)
            finally:
                opts.clear()
                opts |= before
        info = {"extra_generation_params": processed.extra_generation_params, "infotexts": processed.infotexts}
        return {"images": [base64_of(one) for one in processed.images], "parameters": {}, "info": json.dumps(info)}

    routes.register(app, webui.session, webui.session.app)
    return app


def picture(text):
    """Return the image in base64, or in a data URL, as the webui reads it."""
    return Image.open(io.BytesIO(base64.b64decode(text.rpartition(",")[2])))


def base64_of(image, kind="PNG", **more):
    file = io.BytesIO()
    image.save(file, kind, **more)
    return base64.b64encode(file.getvalue()).decode()


@contextmanager
def serve(app):
    """Serve the application during the block; yield the server's address."""
    import socket

    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
