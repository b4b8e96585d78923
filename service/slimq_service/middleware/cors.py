"""Cross-origin resource sharing (CORS): the sites whose pages may use the service.

It is outside authentication and error handling, so that pages can read those errors, too.
Credentials mode is not needed, since keys are headers and not cookies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from slimq_service.api.v2.framing import LENGTH_NAME
from slimq_service.errors import CrossSiteError
from slimq_service.http.problems import MEDIA_TYPE, problem_of, render
from slimq_service.settings_types import ANY

METHODS = ("GET", "HEAD", "POST")
EXPOSED = (
    *("X-Request-Id", "Retry-After", LENGTH_NAME, "Allow", "WWW-Authenticate"),
    *("ETag", "Accept-Ranges", "Content-Range", "Content-Disposition"),
)
"""Response headers that pages may read besides the safelisted ones."""


class Cors(CORSMiddleware):
    """Starlette's CORS middleware, with problem documents for rejected preflights."""

    def __init__(
        self, app: ASGIApp, origins: Collection[str], count: Callable[[str], None]
    ) -> None:
        """Wraps `app`.

        Args:
            app: the application.
            origins: the allowed origins; `*` allows any.
            count: called with the code of every rejection.
        """
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=(ANY,),
            allow_private_network=True,
            expose_headers=EXPOSED,
        )
        self._count = count

    def preflight_response(self, request_headers: Headers) -> Response:
        """Starlette's response to a preflight, or a problem document if it is rejected."""
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        origin = request_headers["origin"]
        method = request_headers["access-control-request-method"]
        if self.is_allowed_origin(origin):
            expected = " or ".join(METHODS)
            error = CrossSiteError("Access-Control-Request-Method", expected, repr(method))
        else:
            error = CrossSiteError("Origin", "an origin of SLIMQ_CORS_ORIGINS", repr(origin))
        self._count(error.code)
        headers = {**response.headers, "content-type": MEDIA_TYPE}
        del headers["content-length"]
        return Response(render(problem_of(error)), error.status, headers)
