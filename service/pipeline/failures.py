"""What becomes of a run that failed: a line in the log, and the answer of its requests."""

import logging

from service.errors import DeviceLostError, InferenceError, NotReadyError, ServiceError

logger = logging.getLogger("foveal.batcher")

# What a request gets whose run found that the GPU works no more: another process answers it.
LOST = NotReadyError("not ready: the GPU failed; another worker starts, retry")


def log_failure(error: Exception, what: str) -> ServiceError:
    """Log an error, with its trace if it is none of the service's own; return it as one of these.

    Args:
        error: What was raised; call it while it is handled.
        what: What failed, for the log.
    """
    if isinstance(error, ServiceError):
        logger.error("%s", error.message)
        return error
    logger.exception("%s", what)
    return InferenceError(str(error))


def answer_to(failure: ServiceError) -> ServiceError:
    """Return what the requests of a failed run are answered: nothing of its reason."""
    if isinstance(failure, DeviceLostError):
        return LOST
    return InferenceError("inference failed; see the server's log")
