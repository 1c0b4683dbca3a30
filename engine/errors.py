"""Errors of the engine, in one hierarchy; the server maps it to HTTP in one table.

SanaError
    InvalidParams           a request that can never be served; names the parameter
    CheckpointError         a model that cannot be loaded
    DeviceError             the requested device or dtype is not available
    QueueFull               the queue has no room for the request; try again later
    DeadlineExceeded        the request's timeout has passed, or cannot be met
    EngineUnavailable       the engine is loading, stopping or has ended
    RequestCancelled        the caller cancelled the request
    GenerationFailed        the engine could not finish this request
"""


class SanaError(Exception):
    """Base class. The message is one line and may be shown to a user."""


class InvalidParams(SanaError):
    """A request that can never be served.

    Args:
        message: what is wrong, what was received, and what would be right.
        param: name of the invalid parameter in the API.
        code: machine-readable reason, as in OpenAI's errors.
    """

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.param = param
        self.code = code

    def __reduce__(self) -> tuple[type["InvalidParams"], tuple[str, str | None, str]]:
        return type(self), (str(self), self.param, self.code)


class CheckpointError(SanaError):
    """A model that cannot be loaded: the message names the file, key or setting."""


class DeviceError(SanaError):
    """The requested device or dtype is not available."""


class QueueFull(SanaError):
    """The queue has no room for the request.

    Args:
        message: how much work is queued, and the limit.
        retry_after: seconds after which there should be room.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["QueueFull"], tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class DeadlineExceeded(SanaError):
    """The request's timeout has passed, or the queue is too long to meet it."""


class EngineUnavailable(SanaError):
    """The engine is loading, stopping or has ended."""


class RequestCancelled(SanaError):
    """The caller cancelled the request."""


class GenerationFailed(SanaError):
    """The engine could not finish this request."""
