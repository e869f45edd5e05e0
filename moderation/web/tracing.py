"""A span for every request, named for its route."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moderation import traces

#: Machines call these every few seconds, and nobody wants to see it.
_QUIET = {"/healthz", "/readyz", "/metrics"}


class Traced:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        carried = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        with traces.span(scope["method"], kind="server", carried=carried) as current:

            async def send_and_note(message: Message) -> None:
                if current is not None and message["type"] == "http.response.start":
                    current.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, send_and_note)
            if current is not None:
                route = getattr(scope.get("route"), "path", "unknown")
                current.update_name(f"{scope['method']} {route}")
                current.set_attribute("http.route", route)
                if "case_id" in scope.get("path_params", {}):
                    traces.about(scope["path_params"]["case_id"])
