"""One interceptor that surrounds every call, whichever of the four kinds it is."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, aclosing
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

HEALTH_PREFIX = "/grpc.health.v1.Health/"
# Generic in their type stubs alone.
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Guard: TypeAlias = "Callable[[str, Context], AbstractAsyncContextManager[None]]"
Check = Callable[[Message], None]
Writing = Callable[[], AbstractContextManager[None]]


class SurroundingInterceptor(grpc.aio.ServerInterceptor):
    """Serves each call inside `guard(method, context)`, having passed each request through `check`.

    Streamed responses come from asynchronous generators; each is sent inside `writing()`.

    Health checks are served as they are: they need no token, and logs of them help nobody.
    """

    def __init__(self, guard: Guard, check: Check, writing: Writing) -> None:
        self._guard = guard
        self._check = check
        self._writing = writing

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Return the surrounded handler of the method called."""
        handler = await continuation(handler_call_details)
        # An unknown method has no handler: grpc answers UNIMPLEMENTED itself.
        if handler is None or handler_call_details.method.startswith(HEALTH_PREFIX):
            return handler
        return self._surround(handler, handler_call_details.method)

    def _surround(self, handler: Any, method: str) -> Handler:
        # A handler has one behaviour; the others are None.
        behaviour = (
            handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
        )
        serve = self._streamed if handler.response_streaming else self._single
        makers: dict[tuple[bool, bool], Any] = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }
        make = makers[bool(handler.request_streaming), bool(handler.response_streaming)]
        surrounded: Handler = make(
            serve(behaviour, method), handler.request_deserializer, handler.response_serializer
        )
        return surrounded

    def _single(self, behaviour: Any, method: str) -> Any:
        async def serve(request: Any, context: Context) -> Any:
            async with self._guard(method, context):
                return await behaviour(self._checked(request), context)

        return serve

    def _streamed(self, behaviour: Any, method: str) -> Any:
        # A coroutine that writes, not a generator: grpc leaves a generator suspended when the call is
        # cancelled while it sends, and the guard would end whenever the garbage collector gets to it.
        async def serve(request: Any, context: Context) -> None:
            async with (
                self._guard(method, context),
                aclosing(behaviour(self._checked(request), context)) as responses,
            ):
                async for response in responses:
                    with self._writing():
                        await context.write(response)

        return serve

    def _checked(self, request: Any) -> Any:
        # A stream of requests, or one: grpc hands either over in the same place.
        if not isinstance(request, Message):
            return self._checked_stream(request)
        self._check(request)
        return request

    async def _checked_stream(self, requests: AsyncIterator[Message]) -> AsyncIterator[Message]:
        async for request in requests:
            self._check(request)
            yield request
