"""Everything that can go wrong, in one tree; the server maps it to HTTP in one table.

SanaError
    InvalidParams           a request that can never be served as asked; names the parameter
    CheckpointError         a model that cannot be loaded
    DeviceError             the device or dtype asked for is not to be had
    QueueFull               more work than the queue holds; try later
    DeadlineExceeded        the request's timeout passed, or cannot be met
    EngineUnavailable       the engine is loading, stopping or gone
    RequestCancelled        the caller gave the request up
    GenerationFailed        the engine could not finish this request
"""


class SanaError(Exception):
    """Base class. The message is one line, fit to be shown to a user."""


class InvalidParams(SanaError):
    """A request that can never be served as asked.

    Args:
        message: what is wrong and what would have been right.
        param: name of the parameter at fault, as the API spells it.
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
    """The device or dtype asked for is not to be had."""


class QueueFull(SanaError):
    """More work than the queue holds.

    Args:
        message: how full it is.
        retry_after: seconds after which there should be room.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type["QueueFull"], tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class DeadlineExceeded(SanaError):
    """The request's timeout passed, or the queue is so long that it cannot be met."""


class EngineUnavailable(SanaError):
    """The engine is loading, stopping or gone."""


class RequestCancelled(SanaError):
    """The caller gave the request up."""


class GenerationFailed(SanaError):
    """The engine could not finish this request."""
