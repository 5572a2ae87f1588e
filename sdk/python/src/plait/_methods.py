"""What the broker enforces for the methods that a client submits: asked once a method, and
remembered."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import grpc
from google.protobuf.message import DecodeError, Message

from plait import _keys, _statuses, errors, retry
from plait._descriptors import descriptor_set, find_method
from plait._submission import Submission
from plait.v1 import contract_service_pb2, contract_service_pb2_grpc

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, ServiceDescriptor

_log = logging.getLogger(__name__)

# The fields of MethodInfo that say where a key is.
_KEYS: Final[tuple[Literal["idempotency_key", "ordering_key", "limit_key"], ...]] = (
    "idempotency_key",
    "ordering_key",
    "limit_key",
)


class Method:
    """One method as its submitters need it."""

    def __init__(self, path: str) -> None:
        self.path = path
        # None: the broker has not been asked, or has forgotten it.
        self.info: contract_service_pb2.MethodInfo | None = None
        # Submissions that wait for the answer.
        self.waiting: list[Submission] = []
        self.resolving: asyncio.Task[None] | None = None
        # How keys are read from messages, by type; the bytes serve where a type does not fit.
        self._extractors: dict[type, tuple[_keys.Extractor | None, ...]] = {}
        self._has_keys = False

    @property
    def route(self) -> str:
        """What its submissions name, so that only workers that can take them do."""
        return (self.info.route if self.info else "") or self.path

    @property
    def name(self) -> str:
        """ "package.Service/Method"."""
        return self.path.lstrip("/")

    def fill_keys(self, submission: Submission, request: Any) -> grpc.aio.AioRpcError | None:
        """Sets the keys of a submission that were not given, from its request or its payload.

        Answers the error KEY_MISSING when the policy asks for a key and there is none.
        """
        info = self.info
        if info is None:
            raise RuntimeError(f"{self.path} is not resolved")
        if not self._has_keys:
            return None
        try:
            keys = self._read(request, submission.payload)
        except (DecodeError, UnicodeDecodeError) as error:
            return _invalid(f"the request of {self.path} cannot be read: {error}")
        idempotency_key, ordering_key, limit_key = keys
        if submission.idempotency_key is None:
            submission.idempotency_key = idempotency_key
        if submission.ordering_key is None:
            submission.ordering_key = ordering_key
        submission.limit_key = limit_key
        return self._missing(submission)

    def _missing(self, submission: Submission) -> grpc.aio.AioRpcError | None:
        for kind, found in (
            ("idempotency", submission.idempotency_key),
            ("ordering", submission.ordering_key),
            ("limit", submission.limit_key),
        ):
            if found == "":
                return errors.new(
                    grpc.StatusCode.INVALID_ARGUMENT,
                    errors.Reason.KEY_MISSING,
                    f"{self.path} needs an {kind} key and the request has none",
                    {"method": self.path, "key": kind},
                )
        return None

    def _read(self, request: Any, payload: bytes) -> tuple[str | None, ...]:
        extractors = self._extractors.get(type(request))
        if extractors is None:
            extractors = self._extractors[type(request)] = self._compile(request)
        subject = request if isinstance(request, Message) else payload
        return tuple(None if each is None else each(subject) for each in extractors)

    def _compile(self, request: Any) -> tuple[_keys.Extractor | None, ...]:
        info = self.info
        assert info is not None
        return tuple(
            self._extractor(getattr(info, name), request) if info.HasField(name) else None
            for name in _KEYS
        )

    @staticmethod
    def _extractor(path: contract_service_pb2.KeyPath, request: Any) -> _keys.Extractor:
        from_bytes = _keys.by_numbers(path)
        if not isinstance(request, Message):
            return from_bytes
        try:
            return _keys.by_descriptor(path, cast("Descriptor", request.DESCRIPTOR))
        except LookupError:
            # The broker's contract is newer: the field may be among those that this program does
            # not know.
            return lambda message: from_bytes(message.SerializeToString())

    def resolved(self, info: contract_service_pb2.MethodInfo) -> None:
        """The broker's answer."""
        self.info = info
        self._has_keys = any(info.HasField(name) for name in _KEYS)
        self._extractors = {}


class Methods:
    """The methods of a client."""

    def __init__(self, channel: grpc.aio.Channel, submit: Callable[[Submission], None]) -> None:
        self._stub = contract_service_pb2_grpc.ContractServiceStub(channel)
        self._submit = submit
        self._methods: dict[str, Method] = {}
        self._closed = False

    def get(self, path: str) -> Method:
        """The method with this path."""
        method = self._methods.get(path)
        if method is None:
            method = self._methods[path] = Method(path)
        return method

    async def known(self, path: str) -> Method:
        """The method, once the broker has said what it enforces for it. Errors as of a
        submission."""
        method = self.get(path)
        if method.info is None:
            method.resolved(await self._ask(path))
        return method

    def submit(self, submission: Submission, request: Any) -> None:
        """Passes a submission on with its keys, once its method is known; in order for each
        method."""
        method = submission.method
        if method.info is None:
            self._wait(submission)
            return
        error = method.fill_keys(submission, request)
        if error is None:
            self._submit(submission)
        else:
            submission.finish(b"", error)

    def submit_again(self, submission: Submission) -> bool:
        """Asks the broker anew for the method of a submission that it refused; False if that was
        done before."""
        if submission.retried:
            return False
        submission.retried = True
        submission.method.info = None
        self._wait(submission)
        return True

    async def close(self) -> None:
        """Ends what is under way."""
        self._closed = True
        tasks = [each.resolving for each in self._methods.values() if each.resolving is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _wait(self, submission: Submission) -> None:
        if self._closed:
            submission.finish(b"", _statuses.closed())
            return
        method = submission.method
        method.waiting.append(submission)
        if method.resolving is None:
            method.resolving = asyncio.get_running_loop().create_task(
                self._resolve(method), name=f"plait-resolve-{method.name}"
            )

    async def _resolve(self, method: Method) -> None:
        error: grpc.aio.AioRpcError | None = None
        try:
            method.resolved(await self._ask(method.path))
        except grpc.aio.AioRpcError as raised:
            error = raised
        except asyncio.CancelledError:
            error = _statuses.closed()
            raise
        except Exception as raised:
            # A fault of ours: nobody may wait for ever because of it.
            _log.exception("cannot resolve %s", method.path)
            error = _statuses.from_parts(grpc.StatusCode.INTERNAL.value[0], repr(raised), b"")
        finally:
            method.resolving = None
            waiting, method.waiting = method.waiting, []
            for submission in waiting:
                if error is not None:
                    submission.finish(b"", error)
                elif not submission.done:
                    self.submit(submission, None)

    async def _ask(self, path: str) -> contract_service_pb2.MethodInfo:
        """The broker's answer for a method: under the contract that this program has, if any, so
        that its tasks go to workers that know what it knows. Else, or while nobody can decide on
        it, under the one in force."""
        descriptor = find_method(path)
        async for trial in retry.connection():
            with trial:
                try:
                    if descriptor is not None:
                        return await self._announce(path, descriptor.containing_service)
                except grpc.aio.AioRpcError as error:
                    if errors.reason(error) != errors.Reason.SCHEDULER_UNAVAILABLE:
                        raise
                    info = await self._resolve_known(path)
                    if info is None:
                        raise
                    return info
                info = await self._resolve_known(path)
                if info is None:
                    raise errors.new(
                        grpc.StatusCode.FAILED_PRECONDITION,
                        errors.Reason.METHOD_UNKNOWN,
                        f"no contract declares {path}, and this program has no descriptor of it",
                        {"method": path},
                    )
                return info
        raise AssertionError("retrying ends with an answer or an error")

    async def _resolve_known(self, path: str) -> contract_service_pb2.MethodInfo | None:
        request = contract_service_pb2.ResolveMethodsRequest(methods=[path])
        answer = await self._stub.ResolveMethods(request, wait_for_ready=True)
        return answer.methods[0] if answer.methods else None

    async def _announce(
        self, path: str, service: "ServiceDescriptor"
    ) -> contract_service_pb2.MethodInfo:
        request = contract_service_pb2.AnnounceContractRequest(
            descriptor_set=descriptor_set([service]), services=[service.full_name]
        )
        answer = await self._stub.AnnounceContract(request, wait_for_ready=True)
        for info in answer.methods:
            if info.method == path:
                return info
        raise _statuses.from_parts(
            grpc.StatusCode.INTERNAL.value[0], f"the announcement's answer lacks {path}", b""
        )


def _invalid(message: str) -> grpc.aio.AioRpcError:
    return errors.new(
        grpc.StatusCode.INVALID_ARGUMENT,
        errors.Reason.INVALID_REQUEST,
        message,
        {"field": "request"},
    )
