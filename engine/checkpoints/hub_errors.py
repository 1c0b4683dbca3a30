"""One line for every way in which the hub or its client fails, with the remedy."""

import errno
from collections.abc import Iterator

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)


def explain(error: Exception, name: str) -> str:
    """What went wrong with model `name`, and what to do about it."""
    for cause in causes(error):
        reason = explain_disk(cause, name) or explain_answer(cause, name) or explain_connection(cause)
        if reason:
            return reason
    text = str(error).strip().splitlines() or [type(error).__name__]
    return f"downloading {name} failed: {text[0]}"


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The exception, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_answer(error: Exception) -> bool:
    """Whether the hub has answered, so that being in the local cache is not the question."""
    return any(getattr(cause, "response", None) is not None for cause in causes(error))


def explain_disk(error: BaseException, name: str) -> str | None:
    """Reason for an error of the local disk."""
    cache = constants.HF_HUB_CACHE
    number = error.errno if isinstance(error, OSError) else None
    # The client compares the file's size with the free space before a download, in words of its own.
    if number in (errno.ENOSPC, errno.EDQUOT) or "Not enough free disk space" in str(error):
        return f"the disk is full while downloading {name} to {cache}: free space, or set HF_HOME to a larger disk"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) and not isinstance(error, ConnectionError):
        return f"{name} cannot be downloaded to {cache}, which is not writable: set HF_HOME to a folder that is"
    return None


def explain_answer(error: BaseException, name: str) -> str | None:
    """Reason for an HTTP status of the hub."""
    if isinstance(error, HFValidationError):
        return f"{name!r} is not a hub id: it must be ORG/NAME of letters, digits, '-', '_' and '.'"
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status is None:
        return None
    hub, repo = constants.ENDPOINT, name.partition("@")[0]
    if isinstance(error, GatedRepoError):
        return f"{name} is gated ({status}): accept its licence at {hub}/{repo} and set HF_TOKEN to your token"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no revision {name.partition('@')[2] or 'main'!r} on the hub: see {hub}/{repo}/tree/main"
    if isinstance(error, DisabledRepoError):
        return f"{name} is disabled on the hub ({status}): use a copy of it in a local folder"
    if status == 401 and get_token():
        return f"the hub refused the token for {name} (401): correct HF_TOKEN or, for a public model, unset it"
    if status in (401, 404):
        return f"no model {name!r} on the hub ({status}): check its spelling; a private one needs a token in HF_TOKEN"
    if status == 403:
        return f"the hub forbids access to {name} (403): its token in HF_TOKEN needs the right to read this model"
    if status == 407:
        return f"the proxy wants a login before it lets {name} through (407): put it into HTTPS_PROXY"
    if status == 429:
        wait = response.headers.get("Retry-After") if response is not None else None
        after = f" after {wait} s" if wait else " later"
        return f"the hub limits requests (429): try {name} again{after}; a token in HF_TOKEN raises the limit"
    if status >= 500:
        return f"the hub failed to answer for {name} ({status}): try again later"
    return f"the hub answered {status} for {name}: check HF_ENDPOINT ({hub}) and HF_TOKEN"


def explain_connection(error: BaseException) -> str | None:
    """Reason for a connection that failed. Classes are compared by name: the client changed its HTTP library twice."""
    if isinstance(error, OfflineModeIsEnabled):
        return "the hub is not asked because HF_HUB_OFFLINE is set"
    names = [cls.__name__ for cls in type(error).__mro__]
    hub = f"the hub cannot be reached at {constants.ENDPOINT}"
    if any("Timeout" in cls for cls in names):
        return f"{hub} (timeout)"
    if "ProxyError" in names:
        return f"{hub} (the proxy refused): check HTTPS_PROXY"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return f"{hub} (unknown certificate): set SSL_CERT_FILE to your proxy's"
    if any(cls in ("ReadError", "RemoteProtocolError", "ProtocolError", "ChunkedEncodingError") for cls in names):
        return f"the connection to {constants.ENDPOINT} broke off: start again, and the download goes on where it ended"
    if any("Connect" in cls for cls in names):
        return f"{hub} ({(str(error).splitlines() or [type(error).__name__])[0]})"
    return None
